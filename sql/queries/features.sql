-- What database.py asks of the table `features`, where there is one: see vectors.sql.

-- name: keeps_vectors
SELECT to_regclass('features') IS NOT NULL

-- name: vector_of
SELECT vector::text FROM features WHERE space = %(space)s AND image_sha256 = %(image)s

-- name: nearest
-- Those in the graph, and those that are not in it yet.
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

-- name: fresh
SELECT count(*) FROM features WHERE NOT indexed

-- name: index
WITH fresh AS (
    SELECT prediction_id FROM features WHERE NOT indexed
    ORDER BY prediction_id
    LIMIT %(most)s
    FOR NO KEY UPDATE SKIP LOCKED), -- another service is at those
done AS (
    UPDATE features SET indexed = true FROM fresh WHERE features.prediction_id = fresh.prediction_id
    RETURNING 1)
SELECT count(*) FROM done

-- name: crowd
WITH chosen AS (
    (SELECT prediction_id FROM features WHERE space = %(space)s ORDER BY prediction_id DESC LIMIT %(newest)s)
    UNION
    (SELECT features.prediction_id FROM features JOIN current_labels USING (image_sha256) WHERE space = %(space)s))
SELECT prediction_id, features.image_sha256, coalesce(label, result), novelty, halfvec_send(vector)
FROM chosen JOIN features USING (prediction_id) JOIN predictions ON predictions.id = prediction_id
ORDER BY prediction_id

-- name: newcomers
SELECT count(*) FROM (
    SELECT FROM features WHERE space = %(space)s AND prediction_id > %(after)s LIMIT %(most)s) AS newer
