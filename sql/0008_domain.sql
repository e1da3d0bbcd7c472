-- Whether each image is like those that the detectors of its model were fitted on. At most 1 % of images like those are
-- out of domain. NULL: rows from before, and of models whose detectors say nothing of it.
--
--   psql> SELECT id, image_name, novelty FROM predictions WHERE in_domain = false ORDER BY id DESC LIMIT 10;
--   psql> SELECT model, model_version, count(*), avg((NOT in_domain)::int) AS out_of_domain FROM predictions GROUP BY 1, 2;

ALTER TABLE predictions ADD COLUMN in_domain boolean;

CREATE INDEX predictions_block_domain ON predictions ((id >> 13), in_domain);
