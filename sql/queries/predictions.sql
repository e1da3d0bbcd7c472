-- Statements of database.py on the table `predictions`. %(name)s is a parameter, {columns} are the columns that are read,
-- {inserted} those that are written, {rows} the rows of values to insert.

-- name: check
-- With tables of the newest migrations that the service needs: `catalogue_matches` and `image_tags`.
SELECT {columns} FROM predictions LIMIT 0

-- name: check_writes
-- Two pages of a new table, which the full disk of a server has no room for.
CREATE TEMPORARY TABLE astrodetect_check_writes ON COMMIT DROP AS SELECT repeat('x', 1000) FROM generate_series(1, 10);
SELECT 1

-- name: insert
WITH recorded AS (
    INSERT INTO predictions ({inserted})
    VALUES {rows}
    ON CONFLICT (request_id) DO NOTHING
    RETURNING {own}){stored}
SELECT {own} FROM recorded

-- name: stored_vectors
,
kept AS (
    INSERT INTO features (prediction_id, space, image_sha256, vector)
    SELECT recorded.id, space, image_sha256, given.vector
    FROM recorded JOIN (VALUES {vectors}) AS given (request_id, vector) USING (request_id)
    WHERE NOT EXISTS ( -- a conflict would wait for a transaction that is indexing that vector
        SELECT FROM features WHERE (space, image_sha256) = (recorded.space, recorded.image_sha256))
    ORDER BY space, image_sha256 -- in one order everywhere, or two commits could deadlock
    ON CONFLICT (space, image_sha256) DO NOTHING)

-- name: stored_descriptions
,
described AS (
    INSERT INTO descriptions (prediction_id, kind, image_sha256, features)
    SELECT recorded.id, kind, image_sha256, decode(features, 'base64')
    FROM recorded JOIN (VALUES {descriptions}) AS given (request_id, kind, features) USING (request_id)
    WHERE NOT EXISTS (
        SELECT FROM descriptions WHERE (kind, image_sha256) = (given.kind, recorded.image_sha256))
    ORDER BY kind, image_sha256
    ON CONFLICT (kind, image_sha256) DO NOTHING)

-- name: by_request_ids
SELECT {columns} FROM predictions WHERE request_id = ANY (%s)

-- name: by_ids
SELECT {columns} FROM predictions WHERE id = ANY (%(ids)s::bigint[])

-- name: by_image
-- PostgreSQL assumes that an image's rows are spread evenly over the table, and would scan it backwards.
SELECT {columns} FROM predictions
WHERE id = ANY (ARRAY(
    SELECT id FROM predictions WHERE image_sha256 = %(image)s ORDER BY id DESC LIMIT %(limit)s))
ORDER BY id DESC

-- name: newest_id
SELECT coalesce(max(id), 0) AS id FROM predictions

-- name: enable_notifications
-- Of new rows, on the channel `predictions`: see 0005_pictures.sql.
SELECT pg_advisory_lock_shared(7237867511894023)

-- name: disable_notifications
SELECT pg_advisory_unlock_shared(7237867511894023)

-- name: newer_than
SELECT {columns} FROM predictions
WHERE id > %(id)s
ORDER BY id DESC
LIMIT %(limit)s

-- name: filters
-- psycopg2 inserts the values into the text, so the planner drops conditions on NULL.
      (%(result)s IS NULL OR result = %(result)s)
  AND (%(min_score)s IS NULL OR score >= %(min_score)s)
  AND (%(max_score)s IS NULL OR score <= %(max_score)s)
  AND (%(pattern)s IS NULL OR image_name ILIKE %(pattern)s)
  AND (%(since)s IS NULL OR "timestamp" >= %(since)s)
  AND (%(until)s IS NULL OR "timestamp" < %(until)s)
  AND (%(request_id)s IS NULL OR request_id = %(request_id)s)
  AND (%(model)s IS NULL OR model = %(model)s)
  AND (%(label)s IS NULL OR label = %(label)s)
  AND (%(min_novelty)s IS NULL OR novelty >= %(min_novelty)s)
  AND (%(in_domain)s IS NULL OR in_domain = %(in_domain)s)
  AND (%(tag)s IS NULL OR id = ANY ({tagged}))
  AND (%(radius)s IS NULL OR ra IS NOT NULL AND sky_separation(ra, dec, %(ra)s, %(dec)s) <= %(radius)s)

-- name: is_known
(%(known)s IS NULL OR (SELECT known FROM catalogue_matches WHERE prediction_id = id) = %(known)s)

-- name: is_known_in_block
-- The same as a join with the index of blocks, which reads few rows where few match; for filters that ask for it, since
-- PostgreSQL makes no join of a condition with OR.
id IN (SELECT prediction_id FROM catalogue_matches
    WHERE prediction_id >> 13 = blocks.block AND catalogue_matches.known = %(known)s)

-- name: newest
-- Filter the rows next to the edge first: with most filters enough of them match.
SELECT {columns} FROM (
    SELECT * FROM predictions
    WHERE %(edge)s IS NULL OR id < %(edge)s
    ORDER BY id DESC
    LIMIT %(near)s) AS near
WHERE {filters} AND {is_known}
ORDER BY id DESC
LIMIT %(limit)s

-- name: newer
SELECT {columns} FROM (SELECT * FROM predictions WHERE id > %(edge)s ORDER BY id LIMIT %(near)s) AS near
WHERE {filters} AND {is_known}
ORDER BY id
LIMIT %(limit)s

-- name: newest_of_all
-- Block by block: see 0006_history.sql. Ordered by id + 0, which no index has, or PostgreSQL would scan from the newest
-- row of the table.
WITH RECURSIVE blocks (block) AS (
    (SELECT id >> 13 FROM predictions WHERE %(edge)s IS NULL OR id < %(edge)s ORDER BY id DESC LIMIT 1)
    UNION ALL
    SELECT (SELECT id >> 13 FROM predictions WHERE id < blocks.block << 13 ORDER BY id DESC LIMIT 1)
    FROM blocks WHERE block IS NOT NULL)
SELECT {columns}
FROM (SELECT block FROM blocks WHERE block IS NOT NULL ORDER BY block DESC) AS blocks CROSS JOIN LATERAL (
    SELECT * FROM predictions
    WHERE id >> 13 = blocks.block AND (%(edge)s IS NULL OR id < %(edge)s) AND {filters} AND {known_filter} AND {name_condition}
    ORDER BY id + 0 DESC
    LIMIT %(limit)s) AS found
ORDER BY blocks.block DESC, id DESC
LIMIT %(limit)s

-- name: newer_of_all
-- The same in the other direction.
WITH RECURSIVE blocks (block) AS (
    (SELECT id >> 13 FROM predictions WHERE id > %(edge)s ORDER BY id LIMIT 1)
    UNION ALL
    SELECT (SELECT id >> 13 FROM predictions WHERE id > (blocks.block << 13) + 8191 ORDER BY id LIMIT 1)
    FROM blocks WHERE block IS NOT NULL)
SELECT {columns}
FROM (SELECT block FROM blocks WHERE block IS NOT NULL ORDER BY block) AS blocks CROSS JOIN LATERAL (
    SELECT * FROM predictions
    WHERE id >> 13 = blocks.block AND id > %(edge)s AND {filters} AND {known_filter} AND {name_condition}
    ORDER BY id + 0
    LIMIT %(limit)s) AS found
ORDER BY blocks.block, id
LIMIT %(limit)s

-- name: newest_in_cone
-- Ids alone are sorted: a wide cone has many rows.
SELECT {columns} FROM predictions
WHERE id = ANY (ARRAY(
    SELECT found.id FROM {cells} CROSS JOIN LATERAL (
        SELECT id FROM predictions WHERE {in_cells} AND (%(edge)s IS NULL OR id < %(edge)s) AND {filters} AND {is_known} OFFSET 0) AS found
    ORDER BY id DESC
    LIMIT %(limit)s))
ORDER BY id DESC

-- name: newer_in_cone
SELECT {columns} FROM predictions
WHERE id = ANY (ARRAY(
    SELECT found.id FROM {cells} CROSS JOIN LATERAL (
        SELECT id FROM predictions WHERE {in_cells} AND id > %(edge)s AND {filters} AND {is_known} OFFSET 0) AS found
    ORDER BY id
    LIMIT %(limit)s))
ORDER BY id

-- name: newest_of_tag
-- People tag few images, whose ids come first. Ordered by id + 0, or PostgreSQL might scan from the newest row.
SELECT {columns} FROM predictions
WHERE (%(edge)s IS NULL OR id < %(edge)s) AND {filters} AND {is_known}
ORDER BY id + 0 DESC
LIMIT %(limit)s

-- name: newer_of_tag
SELECT {columns} FROM predictions
WHERE id > %(edge)s AND {filters} AND {is_known}
ORDER BY id + 0
LIMIT %(limit)s

-- name: highest_of_tag
SELECT {columns} FROM predictions
WHERE {after_edge} AND {filters} AND {is_known}
ORDER BY {key} DESC, id DESC
LIMIT %(limit)s

-- name: highest
-- Block by block, as the newest: of each block the highest by its index of {key}, which is score or novelty. The edge is
-- a row: those after it have a lower value, or the same one and a smaller id.
WITH RECURSIVE blocks (block) AS (
    (SELECT id >> 13 FROM predictions ORDER BY id DESC LIMIT 1)
    UNION ALL
    SELECT (SELECT id >> 13 FROM predictions WHERE id < blocks.block << 13 ORDER BY id DESC LIMIT 1)
    FROM blocks WHERE block IS NOT NULL)
SELECT {columns}
FROM (SELECT block FROM blocks WHERE block IS NOT NULL) AS blocks CROSS JOIN LATERAL (
    SELECT * FROM predictions
    WHERE id >> 13 = blocks.block AND {after_edge} AND {filters} AND {is_known} AND {name_condition}
    ORDER BY {key} DESC, id DESC
    LIMIT %(limit)s) AS found
ORDER BY {key} DESC, id DESC
LIMIT %(limit)s

-- name: highest_in_cone
-- Also the nearest: {key} is then the negative distance from the centre.
SELECT {columns} FROM predictions
WHERE id = ANY (ARRAY(
    SELECT found.id FROM {cells} CROSS JOIN LATERAL (
        SELECT id, {key} AS value FROM predictions WHERE {in_cells} AND {after_edge} AND {filters} AND {is_known} OFFSET 0) AS found
    ORDER BY value DESC, id DESC
    LIMIT %(limit)s))
ORDER BY {key} DESC, id DESC

-- name: tagged
-- The ids of the tag's images. A SHA-256 has 64 digits, an id at most 19.
ARRAY(
    SELECT tagged.id FROM image_tags JOIN predictions AS tagged ON tagged.image_sha256 = image WHERE tag = %(tag)s
    UNION ALL
    SELECT image::bigint FROM (
        SELECT image FROM image_tags WHERE tag = %(tag)s AND length(image) < 20 OFFSET 0) AS unhashed)

-- name: highest_of_few
-- Of the few rows that are known, or are not.
SELECT {columns} FROM predictions
WHERE id = ANY (ARRAY(SELECT prediction_id FROM catalogue_matches WHERE catalogue_matches.known = %(known)s))
    AND {after_edge} AND {filters}
ORDER BY {key} DESC, id DESC
LIMIT %(limit)s

-- name: are_few
SELECT count(*) <= %(most)s AS few
FROM (SELECT FROM catalogue_matches WHERE catalogue_matches.known = %(known)s LIMIT %(most)s + 1) AS rows

-- name: after_edge
{key} IS NOT NULL
AND (%(edge)s IS NULL OR {key} <= (SELECT {key} FROM predictions WHERE id = %(edge)s))
AND (%(edge)s IS NULL OR {key} < (SELECT {key} FROM predictions WHERE id = %(edge)s) OR id < %(edge)s)

-- name: cells
unnest(%(first_cells)s::bigint[], %(last_cells)s::bigint[]) AS cells (first, last)

-- name: in_cells
-- By the index; the filters compare the distance. OFFSET 0 keeps PostgreSQL from computing the distance of every row: it
-- assumes that a range of cells has a two-hundredth of all rows.
healpix BETWEEN cells.first AND cells.last

-- name: name_condition
(%(part)s IS NULL OR length(%(part)s) < 3
    OR name_grams(image_name, id >> 13) COLLATE "C" @> name_grams(%(part)s, blocks.block)
    OR name_grams(image_name, id >> 13) COLLATE "C" @> ARRAY[blocks.block::text])

-- name: most_novel
-- The newest prediction of each unlabelled image, of one space or of each, in the order of the index.
WITH RECURSIVE spaces (name) AS (
    SELECT coalesce(%(space)s, (SELECT min(space) FROM predictions WHERE novelty IS NOT NULL))
    UNION ALL
    SELECT (SELECT min(space) FROM predictions WHERE novelty IS NOT NULL AND space > spaces.name)
    FROM spaces WHERE spaces.name IS NOT NULL AND %(space)s IS NULL)
SELECT {columns}
FROM spaces CROSS JOIN LATERAL (
    SELECT * FROM predictions AS candidate
    WHERE novelty IS NOT NULL AND space = spaces.name
      AND NOT (%(unknown)s AND EXISTS (SELECT FROM catalogue_matches WHERE prediction_id = candidate.id AND known))
      AND NOT EXISTS (
        SELECT FROM predictions
        WHERE image_sha256 = candidate.image_sha256 AND id > candidate.id AND novelty IS NOT NULL
          AND (%(space)s IS NULL OR space = %(space)s))
      AND NOT EXISTS (SELECT FROM labels WHERE prediction_id = candidate.id)
      AND NOT EXISTS (
        SELECT FROM labels JOIN predictions ON predictions.id = prediction_id WHERE image_sha256 = candidate.image_sha256)
    ORDER BY novelty DESC, id DESC
    LIMIT %(limit)s) AS found
ORDER BY novelty DESC, id DESC
LIMIT %(limit)s
