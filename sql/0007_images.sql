-- The newest predictions of an image, however often it was scored, and its labels, without a look at the rows themselves.

DROP INDEX predictions_image;

CREATE INDEX predictions_image_id ON predictions (image_sha256, id) WHERE image_sha256 IS NOT NULL;

-- The most unusual images of those whose novelty compares, however few rows of the log they have.

DROP INDEX predictions_novelty_id;

CREATE INDEX predictions_space_novelty ON predictions (space, novelty, id) WHERE novelty IS NOT NULL;
