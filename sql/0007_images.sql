-- The newest predictions of an image, however often it was scored, and its labels, without a look at the rows themselves.

DROP INDEX predictions_image;

CREATE INDEX predictions_image_id ON predictions (image_sha256, id) WHERE image_sha256 IS NOT NULL;
