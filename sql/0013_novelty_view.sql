-- The view of an image that contributes the most to its novelty: object, cutout, asymmetry or colours. NULL: rows from
-- before, and of models whose detectors are no views. Only the catalogue changes: no row is rewritten.
--
--   psql> SELECT novelty_view, count(*) FROM predictions WHERE novelty >= 0.99 GROUP BY 1 ORDER BY 2 DESC;

ALTER TABLE predictions ADD COLUMN novelty_view text;
