-- Statements of database.py on the table `labels`.

-- name: add_labels
-- Of all these predictions, or of none.
WITH given AS (
    INSERT INTO labels (prediction_id, label, who, note)
    SELECT id, %(label)s, %(who)s, %(note)s FROM predictions
    WHERE id = ANY (%(ids)s) AND (SELECT count(*) FROM predictions WHERE id = ANY (%(ids)s)) = %(count)s
    ORDER BY array_position(%(ids)s::bigint[], id)
    RETURNING *)
SELECT given.id, prediction_id, image_name, image_sha256, given.label, who, note, given."timestamp"
FROM given JOIN predictions ON predictions.id = prediction_id
ORDER BY given.id

-- name: delete_labels
-- Labels of one transaction have the same time; others may have stored some between them.
WITH deleted AS (
    DELETE FROM labels
    WHERE id BETWEEN %(first)s AND %(last)s
      AND "timestamp" = (SELECT max("timestamp") FROM labels WHERE id IN (%(first)s, %(last)s))
    RETURNING *)
SELECT deleted.id, prediction_id, image_name, image_sha256, deleted.label, who, note, deleted."timestamp"
FROM deleted JOIN predictions ON predictions.id = prediction_id
ORDER BY deleted.id

-- name: labels
SELECT labels.id, prediction_id, image_name, image_sha256, labels.label, who, note, labels."timestamp"
FROM labels JOIN predictions ON predictions.id = prediction_id
WHERE labels.id > %(after)s
ORDER BY labels.id
LIMIT %(limit)s

-- name: labels_of_image
-- Newest first. An image whose SHA-256 was not recorded has this prediction alone.
WITH given AS MATERIALIZED (
    SELECT labels.* FROM labels JOIN predictions ON predictions.id = prediction_id WHERE image_sha256 = %(image)s
    UNION
    SELECT * FROM labels WHERE prediction_id = %(prediction_id)s)
SELECT given.id, prediction_id, image_name, image_sha256, given.label, who, note, given."timestamp"
FROM given JOIN predictions ON predictions.id = prediction_id
ORDER BY given."timestamp" DESC, given.id DESC

-- name: labels_by_image
-- An image whose SHA-256 was not recorded is identified by the id of its prediction.
SELECT DISTINCT ON (image) image, label
FROM (
    SELECT image_sha256 AS image, labels.label, labels."timestamp", labels.id
    FROM labels JOIN predictions ON predictions.id = prediction_id
    WHERE image_sha256 = ANY (%(images)s)
    UNION ALL
    SELECT prediction_id::text, label, "timestamp", id FROM labels
    WHERE prediction_id = ANY (%(ids)s::bigint[])) AS given
ORDER BY image, "timestamp" DESC, id DESC

-- name: current_labels
SELECT coalesce(image_sha256, prediction_id::text) AS image, label FROM current_labels ORDER BY "timestamp", id

-- name: labels_in_order
SELECT (array_agg(labels.label ORDER BY labels."timestamp" DESC, labels.id DESC))[1] AS label
FROM labels JOIN predictions ON predictions.id = prediction_id
GROUP BY coalesce(image_sha256, predictions.id::text)
ORDER BY min(labels."timestamp"), min(labels.id)

-- name: import_labels
-- By SHA-256, of the image's predictions the one with this id or else the newest; without a SHA-256 by prediction id.
WITH given (line, label, who, note, "timestamp", prediction_id, image_name, image_sha256) AS (VALUES {rows}),
matched AS (
    SELECT line, found.id, found.image_sha256, given.label, who, note, given."timestamp"
    FROM given CROSS JOIN LATERAL (
        SELECT id, image_sha256 FROM predictions
        WHERE image_sha256 = given.image_sha256
        ORDER BY id = given.prediction_id DESC NULLS LAST, id DESC
        LIMIT 1) AS found
    UNION ALL
    SELECT line, predictions.id, predictions.image_sha256, given.label, who, note, given."timestamp"
    FROM given JOIN predictions ON predictions.id = prediction_id
    WHERE given.image_sha256 IS NULL AND coalesce(given.image_name = predictions.image_name, true)),
added AS (
    INSERT INTO labels (prediction_id, label, who, note, "timestamp")
    SELECT id, label, who, note, coalesce("timestamp", now()) FROM matched
    WHERE NOT EXISTS (
        SELECT FROM labels JOIN predictions ON predictions.id = labels.prediction_id
        WHERE (predictions.id = matched.id OR predictions.image_sha256 = matched.image_sha256)
          AND labels.label = matched.label
          AND (labels.who, labels.note) IS NOT DISTINCT FROM (matched.who, matched.note)
          AND coalesce(labels."timestamp" = matched."timestamp", true))
    GROUP BY id, label, who, note, "timestamp"
    ORDER BY max(line)
    RETURNING id)
SELECT (SELECT count(*) FROM added) AS added, (SELECT count(*) FROM matched) AS matched
