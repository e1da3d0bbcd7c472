-- Where each verdict comes from. Rows that an older program logged have none of it.

ALTER TABLE predictions
    ADD COLUMN request_id    uuid UNIQUE,         -- made by the service: the same request never makes two rows
    ADD COLUMN image_sha256  text,                -- of the bytes as they came
    ADD COLUMN threshold     double precision,    -- result is 'Anomaly Detected' where score > threshold
    ADD COLUMN model         text,
    ADD COLUMN model_version text;

-- The history is read newest first, which the primary key serves; these serve its filters.
CREATE INDEX predictions_result_id ON predictions (result, id);
CREATE INDEX predictions_score     ON predictions (score);
CREATE INDEX predictions_timestamp ON predictions ("timestamp");
