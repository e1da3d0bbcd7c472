-- Statements of database.py on the tables `pictures` (thumbnails), `heat_maps` and `fits_values`.

-- name: save_thumbnails
-- An image that is scored again renews the age of its thumbnail, to a day.
INSERT INTO pictures (image_sha256, jpeg, width, height)
VALUES {rows}
ON CONFLICT (image_sha256) DO UPDATE SET "timestamp" = now() WHERE pictures."timestamp" < now() - interval '1 day'
RETURNING 1

-- name: save_heat_maps
-- Of images that have a thumbnail, which is locked until the commit.
INSERT INTO heat_maps (image_sha256, model_version, places, width, height, crop)
SELECT given.*
FROM (VALUES {rows}) AS given (image_sha256, model_version, places, width, height, crop)
    JOIN pictures USING (image_sha256)
ORDER BY image_sha256, model_version
FOR KEY SHARE OF pictures
ON CONFLICT (image_sha256, model_version) DO NOTHING
RETURNING 1

-- name: thumbnail
SELECT image_sha256, jpeg, width, height,
    coalesce((SELECT cardinality(zeros) FROM fits_values WHERE image_sha256 = %(image)s), 0) AS bands
FROM pictures WHERE image_sha256 = %(image)s

-- name: save_fits_values
-- Of an image that has a thumbnail, which is locked until the commit.
INSERT INTO fits_values (image_sha256, width, height, zeros, units, content)
SELECT image_sha256, %(width)s, %(height)s, %(zeros)s, %(units)s, %(content)s FROM pictures
WHERE image_sha256 = %(image_sha256)s
FOR KEY SHARE
ON CONFLICT (image_sha256) DO NOTHING
RETURNING 1

-- name: fits_values
SELECT image_sha256, width, height, zeros, units, content FROM fits_values WHERE image_sha256 = %(image)s

-- name: heat_map
SELECT places, width, height, crop FROM heat_maps
WHERE image_sha256 = %(image)s AND model_version = %(model_version)s

-- name: images_with_thumbnails
SELECT image_sha256 FROM pictures WHERE image_sha256 = ANY (%s)

-- name: thumbnail_bytes
SELECT (SELECT coalesce(sum(bytes), 0) FROM pictures) + (SELECT coalesce(sum(bytes), 0) FROM fits_values) AS bytes

-- name: prune_thumbnails
-- The oldest, as far as they are too old or beyond the limit, with their heat maps and FITS values; never those of
-- labelled images. One process at a time.
WITH oldest AS MATERIALIZED (
    SELECT image_sha256, "timestamp",
        bytes + coalesce((SELECT bytes FROM fits_values WHERE image_sha256 = pictures.image_sha256), 0) AS bytes
    FROM pictures
    WHERE (%(excess)s > 0 OR "timestamp" < now() - make_interval(days => %(days)s))
      AND NOT EXISTS (
        SELECT FROM labels JOIN predictions ON predictions.id = prediction_id
        WHERE predictions.image_sha256 = pictures.image_sha256)
      AND (SELECT pg_try_advisory_xact_lock(%(lock)s)) -- evaluated once
    ORDER BY "timestamp", image_sha256
    LIMIT %(most)s
    FOR UPDATE SKIP LOCKED), -- or this could deadlock with save_heat_maps
summed AS (
    SELECT *, sum(bytes) OVER (ORDER BY "timestamp", image_sha256) - bytes AS before FROM oldest),
deleted AS (
    DELETE FROM pictures USING summed
    WHERE pictures.image_sha256 = summed.image_sha256
      AND (before < %(excess)s OR summed."timestamp" < now() - make_interval(days => %(days)s))
    RETURNING summed.bytes)
SELECT count(*) AS count, coalesce(sum(bytes), 0) AS bytes FROM deleted
