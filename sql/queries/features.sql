-- Statements of database.py on the table `features`, which only databases with pgvector have: see vectors.sql.

-- name: stores_vectors
SELECT to_regclass('features') IS NOT NULL AS stores_vectors

-- name: vector_of
SELECT vector::text AS vector FROM features WHERE space = %(space)s AND image_sha256 = %(image)s

-- name: nearest
-- Nearest in the HNSW graph, and among the vectors that are not in it yet.
SELECT {columns}, distance
FROM predictions JOIN (
    (SELECT prediction_id, vector <-> %(vector)s::halfvec AS distance FROM features
     WHERE indexed AND space = %(space)s AND image_sha256 <> %(image)s
     ORDER BY vector <-> %(vector)s::halfvec
     LIMIT %(limit)s)
    UNION ALL
    (SELECT prediction_id, vector <-> %(vector)s::halfvec AS distance FROM features
     WHERE NOT indexed AND space = %(space)s AND image_sha256 <> %(image)s
     ORDER BY vector <-> %(vector)s::halfvec
     LIMIT %(limit)s)
) AS near ON id = prediction_id
ORDER BY distance
LIMIT %(limit)s

-- name: count_unindexed
SELECT count(*) FROM features WHERE NOT indexed

-- name: index_vectors
WITH unindexed AS (
    SELECT prediction_id FROM features WHERE NOT indexed
    ORDER BY prediction_id
    LIMIT %(most)s
    FOR NO KEY UPDATE SKIP LOCKED), -- another process indexes those
done AS (
    UPDATE features SET indexed = true FROM unindexed WHERE features.prediction_id = unindexed.prediction_id
    RETURNING 1)
SELECT count(*) FROM done

-- name: embedded_images
WITH chosen AS (
    (SELECT prediction_id FROM features WHERE space = %(space)s ORDER BY prediction_id DESC LIMIT %(newest)s)
    UNION
    (SELECT features.prediction_id FROM features JOIN current_labels USING (image_sha256) WHERE space = %(space)s))
SELECT prediction_id, features.image_sha256, coalesce(label, result) AS class, novelty,
    CASE WHEN model = %(model)s THEN score END AS score, halfvec_send(vector) AS vector,
    catalogue_matches.known
FROM chosen JOIN features USING (prediction_id) JOIN predictions ON predictions.id = prediction_id
    LEFT JOIN catalogue_matches USING (prediction_id)
ORDER BY prediction_id

-- name: space_growth
-- Grows with every row of the log, and with every older one that the detectors of the space describe.
SELECT coalesce(max(id), 0) + (
    SELECT coalesce(sum(described), 0) FROM novelty_updates WHERE space = %(space)s)::bigint AS growth
FROM predictions

-- name: embedded_ids
SELECT prediction_id FROM features WHERE space = %(space)s AND prediction_id < %(before)s
ORDER BY prediction_id DESC
LIMIT %(limit)s

-- name: embedded_labels
SELECT features.prediction_id, label FROM features JOIN current_labels USING (image_sha256) WHERE space = %(space)s

-- name: embedded_by_ids
SELECT prediction_id, features.image_sha256, coalesce(label, result) AS class, novelty, NULL AS score,
    halfvec_send(vector) AS vector, false AS known
FROM features JOIN predictions ON predictions.id = prediction_id
WHERE prediction_id = ANY (%(ids)s) AND features.space = %(space)s
ORDER BY prediction_id

-- name: count_newer_images
SELECT count(*) FROM (
    SELECT FROM features WHERE space = %(space)s AND prediction_id > %(after)s LIMIT %(most)s) AS newer
