-- Labels may be names of one's own, such as merger or ring, beside interesting, ordinary and artefact.
--
--   psql> SELECT label, count(*) FROM current_labels GROUP BY label ORDER BY count(*) DESC;

ALTER TABLE labels
    DROP CONSTRAINT labels_label_check,
    ADD CONSTRAINT labels_label_check CHECK (length(label) BETWEEN 1 AND 40);
