-- What is measured of each image, so that new detectors can describe what is in the log without the image; and how far
-- each model's part of the log is described by its present detectors. A description takes 1.4 KB.
--
--   psql> SELECT count(*), pg_size_pretty(sum(octet_length(features))) FROM descriptions;
--   psql> SELECT model, space, described, missing, next_id <= last_id + 1 AS done FROM novelty_updates;

-- One for each image and kind, from the first prediction that had it.
CREATE TABLE descriptions (
    prediction_id bigint PRIMARY KEY REFERENCES predictions ON DELETE CASCADE,
    kind          text   NOT NULL,    -- of the image contract, and of the code that measures
    image_sha256  text   NOT NULL,
    features      bytea  NOT NULL,    -- float32, little-endian
    UNIQUE (kind, image_sha256)
);

-- It goes from the newest row to older ones.
CREATE TABLE novelty_updates (
    model       text        PRIMARY KEY,
    space       text        NOT NULL,    -- of the detectors
    newest_id   bigint      NOT NULL,    -- where it began
    next_id     bigint      NOT NULL,    -- rows from here on are done
    last_id     bigint      NOT NULL,    -- rows up to here were done by an earlier update
    described   bigint      NOT NULL DEFAULT 0,    -- rows
    missing     bigint      NOT NULL DEFAULT 0,    -- rows whose image has no description, which stay as they are
    "timestamp" timestamptz NOT NULL DEFAULT now()
);
