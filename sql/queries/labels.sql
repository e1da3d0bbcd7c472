-- Statements of database.py, db/label_batches.py, db/label_names.py and db/tags.py on labels, their names, and tags.

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
SELECT labels.id, prediction_id, image_name, image_sha256, labels.label, who, note, labels."timestamp", role,
    (SELECT array_agg(tag ORDER BY tag) FROM image_tags WHERE image = coalesce(image_sha256, prediction_id::text)) AS tags
FROM labels JOIN predictions ON predictions.id = prediction_id LEFT JOIN label_names ON name = labels.label
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
-- Tags belong to the image, roles to the name; what is here already stays as it is. Two imports take turns.
SELECT pg_advisory_xact_lock(7237867511894024);
WITH given (line, label, who, note, "timestamp", prediction_id, image_name, image_sha256, role, tags) AS (VALUES {rows}),
matched AS (
    SELECT line, found.id, found.image_sha256, given.label, who, note, given."timestamp", tags
    FROM given CROSS JOIN LATERAL (
        SELECT id, image_sha256 FROM predictions
        WHERE image_sha256 = given.image_sha256
        ORDER BY id = given.prediction_id DESC NULLS LAST, id DESC
        LIMIT 1) AS found
    UNION ALL
    SELECT line, predictions.id, predictions.image_sha256, given.label, who, note, given."timestamp", tags
    FROM given JOIN predictions ON predictions.id = prediction_id
    WHERE given.image_sha256 IS NULL AND coalesce(given.image_name = predictions.image_name, true)),
added AS (
    INSERT INTO labels (prediction_id, label, who, note, "timestamp")
    SELECT id, label, who, note, coalesce("timestamp", now()) FROM matched
    WHERE label <> '' AND NOT EXISTS (
        SELECT FROM labels JOIN predictions ON predictions.id = labels.prediction_id
        WHERE (predictions.id = matched.id OR predictions.image_sha256 = matched.image_sha256)
          AND labels.label = matched.label
          AND (labels.who, labels.note) IS NOT DISTINCT FROM (matched.who, matched.note)
          AND coalesce(labels."timestamp" = matched."timestamp", true))
    GROUP BY id, label, who, note, "timestamp"
    ORDER BY max(line)
    RETURNING id),
named AS (
    INSERT INTO label_names (name, role)
    SELECT DISTINCT ON (label) label, role FROM given WHERE label <> '' AND role IS NOT NULL ORDER BY label, line DESC
    ON CONFLICT (name) DO NOTHING),
tagged AS (
    INSERT INTO image_tags (image, tag, who)
    SELECT DISTINCT ON (image, tag) coalesce(image_sha256, id::text) AS image, tag, who
    FROM matched CROSS JOIN unnest(tags) AS tag ORDER BY image, tag, line
    ON CONFLICT (image, tag) DO NOTHING
    RETURNING image)
SELECT (SELECT count(*) FROM added) AS added, (SELECT count(*) FROM tagged) AS tagged,
    (SELECT count(*) FROM matched) AS matched, (SELECT count(*) FROM matched WHERE label <> '') AS labelled

-- name: tags_without_label
-- Of images that have tags and no label, each with its newest prediction.
SELECT tags, who, "timestamp", newest.id AS prediction_id, image_name, image_sha256
FROM (
    SELECT image, array_agg(tag ORDER BY tag) AS tags, min(who) AS who, max("timestamp") AS "timestamp"
    FROM image_tags WHERE image > %(after)s GROUP BY image ORDER BY image) AS tagged
CROSS JOIN LATERAL (
    SELECT id, image_name, image_sha256 FROM predictions
    WHERE id = (SELECT max(id) FROM predictions WHERE image_sha256 = image)
       OR id = CASE WHEN length(image) < 20 THEN image::bigint END) AS newest
WHERE image NOT IN (
    SELECT coalesce(predictions.image_sha256, prediction_id::text)
    FROM labels JOIN predictions ON predictions.id = prediction_id)
ORDER BY image
LIMIT %(limit)s

-- name: add_tag
-- To the images of all these predictions, or of none; one prediction of each image.
WITH given AS (
    SELECT coalesce(image_sha256, id::text) AS image, min(id) AS id FROM predictions
    WHERE id = ANY (%(ids)s) AND (SELECT count(*) FROM predictions WHERE id = ANY (%(ids)s)) = %(count)s
    GROUP BY 1),
added AS (
    INSERT INTO image_tags (image, tag, who) SELECT image, %(tag)s, %(who)s FROM given ORDER BY image
    ON CONFLICT (image, tag) DO NOTHING
    RETURNING image)
SELECT id, added.image IS NOT NULL AS is_new FROM given LEFT JOIN added USING (image) ORDER BY id

-- name: remove_tag
-- One prediction of each image that had it.
WITH given AS (
    SELECT coalesce(image_sha256, id::text) AS image, min(id) AS id FROM predictions
    WHERE id = ANY (%(ids)s) GROUP BY 1),
removed AS (
    DELETE FROM image_tags WHERE tag = %(tag)s AND image IN (SELECT image FROM given) RETURNING image)
SELECT id FROM given JOIN removed USING (image) ORDER BY id

-- name: tags
SELECT tag FROM image_tags GROUP BY tag ORDER BY count(*) DESC, tag LIMIT %(limit)s

-- name: label_names
-- Those that were added, and those of all labels; a name that was never added counts as interesting.
SELECT name, key, coalesce(role, 'interesting') AS role, coalesce(labels, 0)::int AS labels
FROM label_names FULL JOIN (
    SELECT label AS name, count(*) AS labels FROM labels WHERE label <> ALL (%(built_in)s) GROUP BY label) AS used
    USING (name)
ORDER BY name

-- name: label_roles
SELECT name, role FROM label_names WHERE role <> 'interesting'

-- name: save_label_name
-- The name `old` is replaced, and may be one that labels have and that was never added. Two people take turns.
SELECT pg_advisory_xact_lock(7237867511894025);
WITH allowed AS (
    SELECT WHERE NOT EXISTS (SELECT FROM label_names WHERE key = %(key)s AND name IS DISTINCT FROM %(old)s)
      AND (%(name)s IS NOT DISTINCT FROM %(old)s OR (
        NOT EXISTS (SELECT FROM label_names WHERE name = %(name)s)
        AND NOT EXISTS (SELECT FROM labels WHERE label IN (%(name)s, %(old)s))))
      AND (EXISTS (SELECT FROM label_names WHERE name = %(old)s) OR (SELECT count(*) FROM label_names) < %(most)s)),
renamed AS (
    UPDATE label_names SET name = %(name)s, key = %(key)s, role = %(role)s
    WHERE name = %(old)s AND EXISTS (SELECT FROM allowed)
    RETURNING name),
added AS (
    INSERT INTO label_names (name, key, role)
    SELECT %(name)s, %(key)s, %(role)s FROM allowed WHERE NOT EXISTS (SELECT FROM renamed)
    RETURNING name)
SELECT name FROM renamed UNION ALL SELECT name FROM added

-- name: remove_label_name
DELETE FROM label_names WHERE name = %(name)s AND NOT EXISTS (SELECT FROM labels WHERE label = %(name)s) RETURNING name
