-- Tags of images, several beside the one label that ranks, and names of labels with their keys and roles. They belong to
-- an image, not to a prediction: by its SHA-256, or the id of its prediction where that was not recorded.
--
--   psql> SELECT tag, count(*) FROM image_tags GROUP BY tag ORDER BY count(*) DESC;
--   psql> SELECT DISTINCT image_name FROM predictions JOIN image_tags ON image = image_sha256 WHERE tag = 'blue core';

CREATE TABLE image_tags (
    image       text        NOT NULL,
    tag         text        NOT NULL CHECK (length(tag) BETWEEN 1 AND 40),
    who         text,
    "timestamp" timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (image, tag)
);
CREATE INDEX image_tags_tag ON image_tags (tag);

-- Names without a row here count as interesting and get the next free key.
CREATE TABLE label_names (
    name        text        PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 40),
    key         text        UNIQUE CHECK (length(key) = 1),     -- on the keyboard, in Review; NULL: the next free digit
    role        text        NOT NULL CHECK (role IN ('interesting', 'ordinary', 'artefact')),
    "timestamp" timestamptz NOT NULL DEFAULT now()
);
