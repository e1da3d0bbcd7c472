-- Models of several classes, and what each model says of every class. Rows from before have neither.
--
--   psql> SELECT label, count(*), avg((probabilities ->> label)::float) FROM predictions WHERE model = 'galaxies' GROUP BY label;
--   psql> SELECT * FROM predictions WHERE (probabilities ->> 'merger')::float > 0.2 ORDER BY id DESC LIMIT 10;
--
--                  model of two classes, an anomaly or not                model of several classes
--   score          probability of the anomalous class                     probability of the label
--   result         'Anomaly Detected' where score > threshold,            the label
--                  else 'No Anomaly'
--   threshold      as the model had it                                    NULL: the most probable class wins

ALTER TABLE predictions
    ADD COLUMN label         text,     -- the class that the verdict is for: where there are two, the anomalous one if
                                       -- score > threshold, so that it never says other than result
    ADD COLUMN probabilities jsonb;    -- of each class, by its name; they add up to 1

CREATE INDEX predictions_label_id ON predictions (label, id) WHERE label IS NOT NULL;
