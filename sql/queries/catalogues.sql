-- Statements of database.py and astrodetect/db/catalogues.py on catalogues, their objects, and their matches.

-- name: match
-- Of the row with this id, of whatever table: `catalogue_matches` has no column of that name, nor has `image_tags`.
(SELECT json_build_object('known', known, 'known_name', coalesce(name, object_id), 'known_type', type,
    'known_arcsec', arcsec, 'known_references', reference_count, 'known_catalogue', catalogue)
FROM catalogue_matches WHERE prediction_id = id) AS match,
(SELECT array_agg(tag ORDER BY tag) FROM image_tags WHERE image = coalesce(image_sha256, id::text)) AS tags

-- name: begin_catalogue
-- The row is locked until the end of the transaction: another import of this name waits.
INSERT INTO catalogues (name, kind, source, objects) VALUES (%(name)s, %(kind)s, %(source)s, 0)
ON CONFLICT (name) DO UPDATE SET kind = EXCLUDED.kind, source = EXCLUDED.source, "timestamp" = now()

-- name: delete_objects
DELETE FROM catalogue_objects WHERE catalogue = %(name)s

-- name: copy_objects
COPY catalogue_objects (
    catalogue, object_id, name, type, ra, dec, healpix, reference_count, image_sha256, url, terms, columns)
FROM STDIN (FORMAT csv)

-- name: end_catalogue
UPDATE catalogues SET objects = (SELECT count(*) FROM catalogue_objects WHERE catalogue = %(name)s)
WHERE name = %(name)s

-- name: known_lookups
SELECT healpix FROM catalogue_lookups
WHERE catalogue = %(name)s AND radius >= %(radius)s AND "timestamp" > now() - make_interval(days => %(days)s)

-- name: save_lookups
INSERT INTO catalogue_lookups (catalogue, healpix, radius)
SELECT %(name)s, cell, %(radius)s FROM unnest(%(cells)s::bigint[]) AS cell
ON CONFLICT (catalogue, healpix) DO UPDATE SET radius = EXCLUDED.radius, "timestamp" = now()

-- name: delete_objects_in_cells
DELETE FROM catalogue_objects WHERE catalogue = %(name)s AND healpix = ANY (%(cells)s::bigint[])

-- name: list_catalogues
SELECT name, kind, source, objects, "timestamp" FROM catalogues ORDER BY name

-- name: remove_catalogue
-- With its objects; what they were matches of is not compared any more.
WITH removed AS (DELETE FROM catalogues WHERE name = %(name)s RETURNING objects),
forgotten AS (DELETE FROM catalogue_matches WHERE catalogue = %(name)s)
SELECT objects FROM removed

-- name: copy_prediction_positions
COPY (SELECT id, ra, dec FROM predictions WHERE healpix IS NOT NULL ORDER BY id) TO STDOUT (FORMAT binary)

-- name: copy_object_positions
-- Of what is known; images that `collect` downloaded are not.
COPY (
    SELECT id, ra, dec FROM catalogue_objects
    WHERE healpix IS NOT NULL AND catalogue IN (SELECT name FROM catalogues WHERE kind <> 'collected'))
TO STDOUT (FORMAT binary)

-- name: objects_by_ids
SELECT id, catalogue, object_id, name, type, reference_count FROM catalogue_objects WHERE id = ANY (%(ids)s)

-- name: new_matches
-- Two comparisons take turns; readers do not wait.
LOCK TABLE catalogue_matches IN SHARE ROW EXCLUSIVE MODE;
CREATE TEMPORARY TABLE new_matches (prediction_id bigint, object bigint, arcsec double precision) ON COMMIT DROP

-- name: copy_matches
COPY new_matches FROM STDIN (FORMAT binary)

-- name: save_matches
-- Rows that say the same are not written again.
INSERT INTO catalogue_matches AS present (
    prediction_id, known, catalogue, object_id, name, type, arcsec, reference_count)
SELECT prediction_id, object <> 0, catalogue, object_id, name, type, CASE WHEN object <> 0 THEN arcsec END, reference_count
FROM new_matches LEFT JOIN catalogue_objects ON catalogue_objects.id = object
ON CONFLICT (prediction_id) DO UPDATE SET
    known = EXCLUDED.known, catalogue = EXCLUDED.catalogue, object_id = EXCLUDED.object_id, name = EXCLUDED.name,
    type = EXCLUDED.type, arcsec = EXCLUDED.arcsec, reference_count = EXCLUDED.reference_count, "timestamp" = now()
WHERE (present.known, present.catalogue, present.object_id, present.name, present.type, present.arcsec,
    present.reference_count) IS DISTINCT FROM (EXCLUDED.known, EXCLUDED.catalogue, EXCLUDED.object_id, EXCLUDED.name,
    EXCLUDED.type, EXCLUDED.arcsec, EXCLUDED.reference_count)

-- name: delete_other_matches
DELETE FROM catalogue_matches AS present
WHERE NOT EXISTS (SELECT FROM new_matches WHERE prediction_id = present.prediction_id)
