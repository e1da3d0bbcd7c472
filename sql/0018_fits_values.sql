-- The values of FITS images, beside their thumbnails, with which they are deleted: so that a page can show a band with
-- another stretch. A value is zeros[band] + units[band] * number; numbers are float16, see astrodetect/fits_values.py.
--
--   psql> SELECT count(*), pg_size_pretty(sum(bytes)) FROM fits_values;

CREATE TABLE fits_values (
    image_sha256 text               PRIMARY KEY REFERENCES pictures ON DELETE CASCADE,
    width        integer            NOT NULL,    -- pixels
    height       integer            NOT NULL,
    zeros        double precision[] NOT NULL,    -- of each band, in the order of the file
    units        double precision[] NOT NULL,
    content      bytea              NOT NULL,
    bytes        integer            NOT NULL GENERATED ALWAYS AS (octet_length(content)) STORED
);

ALTER TABLE fits_values ALTER COLUMN content SET STORAGE EXTERNAL;    -- it is compressed already
