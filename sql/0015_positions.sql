-- Where an image is on the sky, and what its object is called. NULL: not known, as of all rows from before. Only the
-- catalogue changes: no row is rewritten.
--
--   psql> SELECT id, image_name, score FROM predictions WHERE object_id = '587722981742084144';
--   psql> SELECT id, sky_separation(ra, dec, 202.47, 47.195) * 3600 AS arcsec FROM predictions
--         WHERE ra IS NOT NULL ORDER BY 2 LIMIT 10;

ALTER TABLE predictions
    ADD COLUMN ra        double precision,  -- degrees, ICRS
    ADD COLUMN dec       double precision,
    ADD COLUMN object_id text,
    ADD COLUMN healpix   bigint;            -- HEALPix cell of the position: nested, order 29

-- A cone is some ranges of cells: see astrodetect/sky/healpix.py.
CREATE INDEX predictions_healpix ON predictions (healpix) WHERE healpix IS NOT NULL;

-- Angular distance of two positions, all in degrees.
CREATE FUNCTION sky_separation(
    ra1 double precision, dec1 double precision, ra2 double precision, dec2 double precision) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT 2 * asind(sqrt(least(1.0,
        sind((dec2 - dec1) / 2) ^ 2 + cosd(dec1) * cosd(dec2) * sind((ra2 - ra1) / 2) ^ 2)))
$$;
