-- What the processes of the service share besides the log: who works on what for a while, and the maps.
--
--   psql> SELECT name, holder, until - now() AS "for", state FROM leases WHERE until > now();
--   psql> SELECT space, drawn, pg_size_pretty(octet_length(content)::bigint) FROM maps;

-- 'review IMAGE': a reviewer has this image. 'map', 'adaptation', 'novelty MODEL': a process does this work, and no other
-- does. Whoever holds a lease renews it; that of a killed process ends by the clock of this server.
CREATE TABLE leases (
    name   text        PRIMARY KEY,
    holder text,                       -- NULL: the work has ended, and state says how
    until  timestamptz NOT NULL,
    state  jsonb                       -- of the work, for the pages of every process
);

-- The map of an embedding space, and while t-SNE runs, the preliminary one beside it.
CREATE TABLE maps (
    space       text        NOT NULL,
    preliminary boolean     NOT NULL,
    drawn       timestamptz NOT NULL,
    content     bytea       NOT NULL,    -- an .npz: ids, novelty and positions of 20,000 images take 2 MB
    PRIMARY KEY (space, preliminary)
);
