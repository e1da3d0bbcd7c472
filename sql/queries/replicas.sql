-- Statements of astrodetect/db/shared_state.py on the tables `leases` and `maps`. clock_timestamp(), not now(): a statement
-- may have waited for another's row. No lease is for more than an hour: longer ones are from before the clock was set back.

-- name: take_leases
-- In the order of their names: two that take the same ones in different orders would wait for each other.
INSERT INTO leases AS present (name, holder, until, state)
SELECT name, %(holder)s, clock_timestamp() + make_interval(secs => %(seconds)s), %(state)s::jsonb
FROM unnest(%(names)s::text[]) AS name ORDER BY name
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until, state = excluded.state
WHERE present.holder IS NULL OR present.holder = excluded.holder
    OR present.until NOT BETWEEN clock_timestamp() AND clock_timestamp() + interval '1 hour'
RETURNING name

-- name: end_lease
UPDATE leases
SET holder = NULL, until = clock_timestamp() + make_interval(secs => %(seconds)s), state = %(state)s
WHERE name = %(name)s AND holder = %(holder)s
RETURNING name

-- name: lease
SELECT holder IS NOT NULL AS running, state FROM leases
WHERE name = %(name)s AND until BETWEEN clock_timestamp() AND clock_timestamp() + interval '1 hour'

-- name: leased_by_others
SELECT name FROM leases
WHERE name = ANY (%(names)s) AND holder <> %(holder)s
  AND until BETWEEN clock_timestamp() AND clock_timestamp() + interval '1 hour'

-- name: release_leases
-- All of one holder but these, and those that ended a day ago.
DELETE FROM leases
WHERE name IN (
    SELECT name FROM leases
    WHERE (holder = %(holder)s AND name <> ALL (%(except)s)) OR until < clock_timestamp() - interval '1 day'
    FOR UPDATE SKIP LOCKED)
RETURNING name

-- name: map_drawn
SELECT drawn FROM maps WHERE space = %(space)s AND preliminary = %(preliminary)s

-- name: read_map
SELECT content FROM maps WHERE space = %(space)s AND preliminary = %(preliminary)s

-- name: save_map
-- And delete the oldest of other spaces, with what killed processes left.
WITH deleted AS (
    DELETE FROM maps WHERE space <> %(space)s AND space NOT IN (
        SELECT space FROM maps WHERE space <> %(space)s AND NOT preliminary ORDER BY drawn DESC LIMIT %(others)s))
INSERT INTO maps (space, preliminary, drawn, content)
VALUES (%(space)s, %(preliminary)s, %(drawn)s, %(content)s)
ON CONFLICT (space, preliminary) DO UPDATE SET drawn = excluded.drawn, content = excluded.content
RETURNING space

-- name: delete_preliminary_map
DELETE FROM maps WHERE space = %(space)s AND preliminary RETURNING space
