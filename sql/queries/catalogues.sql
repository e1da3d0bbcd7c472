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
-- With its objects; what they were matches of is not compared any more. The row is locked first, as begin_comparison
-- does, which locks the matches afterwards.
SELECT FROM catalogues WHERE name = %(name)s FOR UPDATE;
WITH removed AS (DELETE FROM catalogues WHERE name = %(name)s RETURNING objects),
forgotten AS (DELETE FROM catalogue_matches WHERE catalogue = %(name)s)
SELECT objects FROM removed

-- name: begin_comparison
-- Nobody replaces or removes a catalogue before the matches with its objects are stored; those who do are waited for.
SELECT FROM catalogues FOR SHARE

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
-- Rows that say the same are not written again; separations are rounded, so that those of match_arrivals do.
INSERT INTO catalogue_matches AS present (
    prediction_id, known, catalogue, object_id, name, type, arcsec, reference_count)
SELECT prediction_id, object <> 0, catalogue, object_id, name, type,
    CASE WHEN object <> 0 THEN round(arcsec::numeric, 6) END, reference_count
FROM new_matches LEFT JOIN catalogue_objects ON catalogue_objects.id = object
ON CONFLICT (prediction_id) DO UPDATE SET
    known = EXCLUDED.known, catalogue = EXCLUDED.catalogue, object_id = EXCLUDED.object_id, name = EXCLUDED.name,
    type = EXCLUDED.type, arcsec = EXCLUDED.arcsec, reference_count = EXCLUDED.reference_count, "timestamp" = now()
WHERE (present.known, present.catalogue, present.object_id, present.name, present.type, present.arcsec,
    present.reference_count) IS DISTINCT FROM (EXCLUDED.known, EXCLUDED.catalogue, EXCLUDED.object_id, EXCLUDED.name,
    EXCLUDED.type, EXCLUDED.arcsec, EXCLUDED.reference_count)

-- name: delete_other_matches
-- Of predictions that are gone. Not of those that were recorded and matched (see match_arrivals) during the comparison.
DELETE FROM catalogue_matches AS present
WHERE NOT EXISTS (SELECT FROM new_matches WHERE prediction_id = present.prediction_id)
  AND NOT EXISTS (SELECT FROM predictions WHERE id = present.prediction_id)

-- name: newest_arrival
-- No row where there is nothing to compare with, or while a comparison of all predictions stores its matches.
SELECT (SELECT coalesce(max(id), 0) FROM predictions) AS newest,
    (SELECT coalesce(max(prediction_id), 0) FROM catalogue_matches) AS matched
WHERE EXISTS (SELECT FROM catalogues WHERE kind <> 'collected' AND objects > 0)
  AND NOT EXISTS (
    SELECT FROM pg_locks WHERE relation = 'catalogue_matches'::regclass AND mode = 'ShareRowExclusiveLock'
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))

-- name: arrivals
-- The next rows, and those of them that have a position and were not compared.
WITH next AS (
    SELECT id, ra, dec, healpix FROM predictions
    WHERE id > %(after)s AND id <= %(newest)s
    ORDER BY id
    LIMIT %(most)s)
SELECT (SELECT max(id) FROM next) AS last, array_agg(id) AS ids, array_agg(ra) AS ra, array_agg(dec) AS dec
FROM next
WHERE healpix IS NOT NULL AND NOT EXISTS (SELECT FROM catalogue_matches WHERE prediction_id = next.id)

-- name: match_arrivals
-- Each position has some ranges of cells. OFFSET 0: see in_cells in predictions.sql. Where online catalogues are asked
-- by `crossmatch`, what has no match yet is not said to be unknown.
INSERT INTO catalogue_matches (prediction_id, known, catalogue, object_id, name, type, arcsec, reference_count)
SELECT DISTINCT ON (arrival.id) arrival.id, object.id IS NOT NULL, catalogue, object_id, name, type,
    round(arcsec::numeric, 6), reference_count
FROM unnest(%(ids)s::bigint[], %(ra)s::float8[], %(dec)s::float8[], %(first)s::bigint[], %(last)s::bigint[])
    AS arrival (id, ra, dec, first, last)
LEFT JOIN LATERAL (
    SELECT *, sky_separation(ra, dec, arrival.ra, arrival.dec) * 3600 AS arcsec FROM catalogue_objects
    WHERE healpix BETWEEN arrival.first AND arrival.last
      AND catalogue IN (SELECT name FROM catalogues WHERE kind <> 'collected')
    OFFSET 0) AS object ON arcsec <= %(radius)s
WHERE object.id IS NOT NULL OR NOT EXISTS (SELECT FROM catalogues WHERE kind = 'online')
ORDER BY arrival.id, arcsec
ON CONFLICT (prediction_id) DO NOTHING
RETURNING prediction_id
