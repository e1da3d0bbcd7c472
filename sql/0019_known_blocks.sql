-- The rows of a block of 8,192 predictions (see 0006_history.sql) that are known, or are not: where few are, a page of the
-- history reads these alone.

CREATE INDEX catalogue_matches_block ON catalogue_matches ((prediction_id >> 13), known, prediction_id);

ANALYZE catalogue_matches;    -- PostgreSQL has to know how many rows of a block are known
