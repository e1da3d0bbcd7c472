-- Where images stand among others, for "more like this". setup_db.py runs this file after the numbered ones, and only
-- where the server has pgvector 0.7 or newer: it may come later, and everything else works without it.
--
--   psql> SELECT p.id, p.image_name, f.vector <-> q.vector AS distance
--         FROM features q JOIN features f USING (space) JOIN predictions p ON p.id = f.prediction_id
--         WHERE q.prediction_id = 1842 ORDER BY distance LIMIT 10;

CREATE EXTENSION IF NOT EXISTS vector;

-- One for each image and space, from the first prediction that had it, however often the image is scored.
CREATE TABLE IF NOT EXISTS features (
    prediction_id bigint      PRIMARY KEY REFERENCES predictions ON DELETE CASCADE,
    space         text        NOT NULL,    -- only vectors of the same one compare
    image_sha256  text        NOT NULL,
    vector        halfvec(64) NOT NULL,    -- shorter ones end in zeros, which changes no distance
    indexed       boolean     NOT NULL DEFAULT false,    -- in the graph below, which grows in idle moments
    UNIQUE (space, image_sha256)           -- also finds the few of a young space, which the graph would search long
);

-- Whitened features: lengths are as telling as directions, so distance is Euclidean.
CREATE INDEX IF NOT EXISTS features_graph ON features USING hnsw (vector halfvec_l2_ops) WHERE indexed;

-- The others: a search looks at each of them.
CREATE INDEX IF NOT EXISTS features_fresh ON features (prediction_id) WHERE NOT indexed;
