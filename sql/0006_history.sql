-- Indexes for the history, which is read newest first under any filters, some rows at a time. It goes from block to
-- block of 8,192 ids, and each index below begins with the block: one without a match costs a single look, however the
-- matches lie over the table. In one block they are few enough to be sorted.
--
-- They take the place of indexes that PostgreSQL could only use well where matches lie evenly.

DROP INDEX predictions_result_id;
DROP INDEX predictions_score;
DROP INDEX predictions_timestamp;
DROP INDEX predictions_label_id;

CREATE INDEX predictions_block_result    ON predictions ((id >> 13), result, score);
CREATE INDEX predictions_block_score     ON predictions ((id >> 13), score);
CREATE INDEX predictions_block_timestamp ON predictions ((id >> 13), "timestamp");
CREATE INDEX predictions_block_model     ON predictions ((id >> 13), model, result, label) WHERE model IS NOT NULL;
CREATE INDEX predictions_block_label     ON predictions ((id >> 13), label, score) WHERE label IS NOT NULL;
CREATE INDEX predictions_block_novelty   ON predictions ((id >> 13), novelty) WHERE novelty IS NOT NULL;

-- Every three letters in a row of a name, in lower case, with the block before them: what has a part of three letters or
-- more has all of the part's. Of a long name its beginning will do, and the block alone says that there is more.
CREATE FUNCTION name_grams(name text, block bigint) RETURNS text[]
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    letters text := lower(left(name, 200));
    prefix  text := block || ' ';
    grams   text[] := '{}';
BEGIN
    FOR place IN 1 .. length(letters) - 2 LOOP
        grams[place] := prefix || substr(letters, place, 3);
    END LOOP;
    RETURN CASE WHEN length(name) > 200 THEN grams || block::text ELSE grams END;
END
$$;

-- New rows wait in a short list, which costs half of what it costs to put each in its places at once.
CREATE INDEX predictions_block_name ON predictions USING gin ((name_grams(image_name, id >> 13)) COLLATE "C")
    WITH (fastupdate = on, gin_pending_list_limit = 64);

ANALYZE predictions;    -- PostgreSQL has to know how many blocks there are
