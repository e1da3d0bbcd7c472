-- Catalogues of known objects, what `collect` downloaded, and the known object that is nearest to each prediction's
-- position. No row of `predictions` changes.
--
--   psql> SELECT image_name, score, name, type, arcsec, catalogue
--         FROM predictions JOIN catalogue_matches ON prediction_id = predictions.id WHERE known ORDER BY arcsec;
--   psql> SELECT image_name, score, catalogue_objects.name, terms, catalogue_objects.url
--         FROM predictions JOIN catalogue_objects USING (image_sha256);

CREATE TABLE catalogues (
    name        text        PRIMARY KEY,
    kind        text        NOT NULL CHECK (kind IN ('imported', 'collected', 'online')),
    source      text        NOT NULL,       -- the file, the folder, or the service
    objects     bigint      NOT NULL,       -- how many
    "timestamp" timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE catalogue_objects (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    catalogue       text NOT NULL REFERENCES catalogues ON DELETE CASCADE,
    object_id       text,
    name            text,
    type            text,
    ra              double precision,       -- degrees, ICRS; NULL: not known
    dec             double precision,
    healpix         bigint,                 -- HEALPix cell of the position: nested, order 29
    reference_count bigint,                 -- publications about the object
    image_sha256    text,                   -- of a collected image
    url             text,
    terms           text,                   -- of use
    columns         jsonb                   -- what else the catalogue says
);
CREATE INDEX catalogue_objects_catalogue ON catalogue_objects (catalogue);
CREATE INDEX catalogue_objects_healpix ON catalogue_objects (healpix) WHERE healpix IS NOT NULL;
CREATE INDEX catalogue_objects_image ON catalogue_objects (image_sha256) WHERE image_sha256 IS NOT NULL;

-- A row for each prediction whose position was compared with the catalogues. Not a foreign key: it would lock every row
-- of `predictions`, and what is left of a deleted prediction goes with the next comparison.
CREATE TABLE catalogue_matches (
    prediction_id   bigint           PRIMARY KEY,
    known           boolean          NOT NULL,  -- whether a known object is within the radius; the rest is of that object
    catalogue       text,
    object_id       text,
    name            text,
    type            text,
    arcsec          double precision,           -- separation
    reference_count bigint,
    "timestamp"     timestamptz      NOT NULL DEFAULT now()
);

-- Positions that an online catalogue was asked about, so that it is not asked again.
CREATE TABLE catalogue_lookups (
    catalogue   text             NOT NULL REFERENCES catalogues ON DELETE CASCADE,
    healpix     bigint           NOT NULL,  -- cell of the position
    radius      double precision NOT NULL,  -- arcseconds
    "timestamp" timestamptz      NOT NULL DEFAULT now(),
    PRIMARY KEY (catalogue, healpix)
);
