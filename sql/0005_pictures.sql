-- A small picture of each image, and where in it each model saw what it took it for. They go when they get old or many;
-- those of labelled images stay.
--
--   psql> SELECT count(*), pg_size_pretty(sum(bytes)) FROM pictures;
--   psql> SELECT image_name FROM predictions WHERE NOT EXISTS (SELECT FROM pictures WHERE image_sha256 = predictions.image_sha256) LIMIT 10;

CREATE TABLE pictures (
    image_sha256 text        PRIMARY KEY,    -- of the bytes as they came, as in predictions
    jpeg         bytea       NOT NULL,       -- the whole frame, upright
    width        integer     NOT NULL,       -- of the picture, pixels
    height       integer     NOT NULL,
    bytes        integer     NOT NULL GENERATED ALWAYS AS (octet_length(jpeg)) STORED,
    "timestamp"  timestamptz NOT NULL DEFAULT now()    -- of the last prediction, to a day
);

ALTER TABLE pictures ALTER COLUMN jpeg SET STORAGE EXTERNAL;    -- it is compressed already

CREATE INDEX pictures_timestamp ON pictures ("timestamp", image_sha256);

CREATE TABLE heat_maps (
    image_sha256  text     NOT NULL REFERENCES pictures ON DELETE CASCADE,
    model_version text     NOT NULL,
    places        bytea    NOT NULL,    -- a byte for each place, row by row: 255 where most speaks for the class
    width         smallint NOT NULL,    -- places
    height        smallint NOT NULL,
    crop          real     NOT NULL,    -- share of the frame's shorter side that they cover, from its centre
    PRIMARY KEY (image_sha256, model_version)
);

-- Whoever waits for new predictions is told of them, whoever logs them. Commits that tell of something go one by one, so
-- none does that nobody waits for: whoever waits holds this lock, shared.
--
--   psql> LISTEN predictions; SELECT pg_advisory_lock_shared(7237867511894023);
CREATE FUNCTION tell_of_predictions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- In one expression, for a cancel may come between statements, and would leave the lock with the session.
    IF (CASE WHEN pg_try_advisory_lock(7237867511894023) THEN NOT pg_advisory_unlock(7237867511894023) ELSE true END)
    THEN
        PERFORM pg_notify('predictions', '');
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER predictions_told AFTER INSERT ON predictions
    FOR EACH STATEMENT EXECUTE FUNCTION tell_of_predictions();
