"""Everything that can go wrong, once: each class carries its HTTP status and its code; the message says what to do."""

from typing import ClassVar


class AstrodetectError(Exception):
    """The root: whatever is raised on purpose is one of these, with a message of one clear line."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    public: ClassVar[str | None] = None  # what callers over HTTP are told, where the message may name hosts and paths


class RequestError(AstrodetectError):
    """The request itself cannot be answered."""

    status = 400
    code = "bad_request"


class BodyTooLarge(RequestError):
    status = 413
    code = "body_too_large"


class ImageError(AstrodetectError):
    """These bytes give no pixels."""

    status = 422
    code = "image_corrupt"


class ImageEmpty(ImageError):
    code = "image_empty"


class ImageTooSmall(ImageError):
    code = "image_too_small"


class ImageTooManyPixels(ImageError):
    status = 413
    code = "image_too_many_pixels"


class ImageUnsupported(ImageError):
    status = 415
    code = "image_unsupported"


class DataError(AstrodetectError):
    """The folders of images cannot be used as they are."""

    status = 422
    code = "data_unusable"


class ModelError(AstrodetectError):
    """A model is there but cannot be trusted or used."""

    status = 503
    code = "model_invalid"


class ModelMissing(ModelError):
    code = "model_missing"


class DatabaseError(AstrodetectError):
    """PostgreSQL refused what was asked of it."""

    status = 503
    code = "database_error"
    public = "the log of predictions refused: the service's own log says why"


class DatabaseUnavailable(DatabaseError):
    """PostgreSQL does not answer; the same call may succeed later."""

    code = "database_unavailable"
    public = "the log of predictions does not answer: try again soon"


class DatabaseNotSetUp(DatabaseError):
    """PostgreSQL answers, but its tables are not the ones this version needs."""

    code = "database_not_set_up"
    public = "the log of predictions is not set up: run python setup_db.py"


class NotReady(AstrodetectError):
    """The service lives, but something that it needs is missing."""

    status = 503
    code = "not_ready"


class NotFound(AstrodetectError):
    status = 404
    code = "not_found"
