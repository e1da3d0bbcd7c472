-- What database.py asks of the tables `pictures` and `heat_maps`.

-- name: keep_pictures
-- One that is scored again stays as if it were new; a day is near enough.
INSERT INTO pictures (image_sha256, jpeg, width, height)
VALUES {rows}
ON CONFLICT (image_sha256) DO UPDATE SET "timestamp" = now() WHERE pictures."timestamp" < now() - interval '1 day'
RETURNING 1

-- name: keep_heats
INSERT INTO heat_maps (image_sha256, model_version, places, width, height, crop)
VALUES {rows}
ON CONFLICT (image_sha256, model_version) DO NOTHING
RETURNING 1

-- name: picture
SELECT image_sha256, jpeg, width, height FROM pictures WHERE image_sha256 = %(image)s

-- name: heat
SELECT places, width, height, crop FROM heat_maps
WHERE image_sha256 = %(image)s AND model_version = %(model_version)s

-- name: pictured
SELECT image_sha256 FROM pictures WHERE image_sha256 = ANY (%s)

-- name: pictures_bytes
SELECT coalesce(sum(bytes), 0) FROM pictures

-- name: prune
-- The oldest go, as far as they are too old or too much; never those of labelled images. One process at a time.
WITH oldest AS MATERIALIZED (
    SELECT image_sha256, bytes, "timestamp" FROM pictures
    WHERE NOT EXISTS (
        SELECT FROM labels JOIN predictions ON predictions.id = prediction_id
        WHERE predictions.image_sha256 = pictures.image_sha256)
      AND (SELECT pg_try_advisory_xact_lock(%(lock)s)) -- asked once
    ORDER BY "timestamp", image_sha256
    LIMIT %(most)s),
summed AS (
    SELECT *, sum(bytes) OVER (ORDER BY "timestamp", image_sha256) - bytes AS before FROM oldest),
gone AS (
    DELETE FROM pictures USING summed
    WHERE pictures.image_sha256 = summed.image_sha256
      AND (before < %(excess)s OR summed."timestamp" < now() - make_interval(days => %(days)s))
    RETURNING pictures.image_sha256, pictures.bytes),
cold AS (
    DELETE FROM heat_maps USING gone WHERE heat_maps.image_sha256 = gone.image_sha256)
SELECT count(*), coalesce(sum(bytes), 0) FROM gone
