-- Statements of astrodetect/db/descriptions.py on the tables `descriptions` and `novelty_updates`.

-- name: latest_novelty
-- Of the newest images of a space, each once, among the newest rows of the table; where the domain is known.
SELECT novelty FROM (
    SELECT DISTINCT ON (image_sha256) id, novelty
    FROM (SELECT id, image_sha256, space, novelty, in_domain FROM predictions ORDER BY id DESC LIMIT %(near)s) AS near
    WHERE space = %(space)s AND in_domain IS NOT NULL
    ORDER BY image_sha256, id DESC) AS images
ORDER BY id DESC
LIMIT %(limit)s

-- name: descriptions_of
SELECT features FROM descriptions WHERE kind = %(kind)s AND image_sha256 = ANY (%(images)s) ORDER BY prediction_id

-- name: begin_novelty_update
-- One that is not done goes on; one of the same detectors that is done covers the rows since.
INSERT INTO novelty_updates AS present (model, space, newest_id, next_id, last_id)
SELECT %(model)s, %(space)s, newest, newest + 1, 0 FROM (SELECT coalesce(max(id), 0) AS newest FROM predictions) AS log
ON CONFLICT (model) DO UPDATE SET
    space = excluded.space, newest_id = excluded.newest_id, next_id = excluded.next_id, "timestamp" = now(),
    last_id = CASE WHEN present.space = excluded.space THEN present.newest_id ELSE 0 END,
    described = CASE WHEN present.space = excluded.space THEN present.described ELSE 0 END,
    missing = CASE WHEN present.space = excluded.space THEN present.missing ELSE 0 END
WHERE present.space <> excluded.space OR present.next_id <= present.last_id + 1

-- name: novelty_update
SELECT space, newest_id, next_id, last_id, described, missing FROM novelty_updates WHERE model = %(model)s

-- name: next_novelty_step
SELECT next_id, coalesce((
    SELECT min(id) FROM (
        SELECT id FROM predictions WHERE id < next_id AND id > last_id ORDER BY id DESC LIMIT %(rows)s) AS near),
    last_id + 1) AS first_id
FROM novelty_updates
WHERE model = %(model)s AND space = %(space)s AND next_id > last_id + 1

-- name: outdated_rows
SELECT id, features
FROM predictions LEFT JOIN descriptions
    ON kind = %(kind)s AND descriptions.image_sha256 = predictions.image_sha256
WHERE id >= %(first_id)s AND id < %(next_id)s AND model = %(model)s AND space IS DISTINCT FROM %(space)s
ORDER BY id

-- name: finish_novelty_step
-- In one statement, so that no step is lost or done twice, whichever process ends.
WITH step AS (
    UPDATE novelty_updates
    SET next_id = %(first_id)s, described = described + %(described)s, missing = missing + %(missing)s,
        "timestamp" = now()
    WHERE model = %(model)s AND space = %(space)s AND next_id = %(next_id)s
    RETURNING space),
given AS (
    SELECT * FROM unnest(
        %(ids)s::bigint[], %(novelty)s::float8[], %(in_domain)s::boolean[], %(views)s::text[], %(vectors)s::text[])
        AS given (id, novelty, in_domain, novelty_view, vector)),
updated AS (
    UPDATE predictions SET novelty = given.novelty, in_domain = given.in_domain, novelty_view = given.novelty_view,
        space = step.space
    FROM given CROSS JOIN step WHERE predictions.id = given.id
    RETURNING predictions.id, predictions.space, image_sha256){placed}
SELECT count(*) AS count FROM updated

-- name: placed_vectors
,
placed AS (
    INSERT INTO features (prediction_id, space, image_sha256, vector)
    SELECT DISTINCT ON (image_sha256) id, space, image_sha256, vector::halfvec
    FROM updated JOIN given USING (id)
    WHERE vector IS NOT NULL AND NOT EXISTS (
        SELECT FROM features WHERE (space, image_sha256) = (updated.space, updated.image_sha256))
    ORDER BY image_sha256, id
    ON CONFLICT (prediction_id) DO UPDATE SET space = excluded.space, vector = excluded.vector, indexed = false
    RETURNING prediction_id),
kept AS ( -- the former vector, for a model that has the same detectors still; `replaced` is as before this statement
    INSERT INTO features (prediction_id, space, image_sha256, vector)
    SELECT DISTINCT ON (replaced.image_sha256) others.id, space, replaced.image_sha256, vector
    FROM placed JOIN features AS replaced USING (prediction_id) JOIN predictions AS others USING (space)
    WHERE others.image_sha256 = replaced.image_sha256 AND others.model <> %(model)s
    ORDER BY replaced.image_sha256, others.id
    ON CONFLICT DO NOTHING)
