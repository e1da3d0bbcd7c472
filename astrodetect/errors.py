"""Everything that can go wrong, once: each class carries its HTTP status and its code; the message says what to do."""

from typing import ClassVar


class AstrodetectError(Exception):
    """The root: whatever is raised on purpose is one of these, with a message of one clear line."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    public: ClassVar[str | None] = None  # what callers over HTTP are told, where the message may name hosts and paths
    retry_after_s: ClassVar[int] = 5  # what a caller with a 503 is told: PostgreSQL may be back, a model trained


class RequestError(AstrodetectError):
    """The request itself cannot be answered."""

    status = 400
    code = "bad_request"


class BodyTooLarge(RequestError):
    status = 413
    code = "body_too_large"


class BodyTooSlow(RequestError):
    status = 408
    code = "body_too_slow"


class KeyConflict(RequestError):
    """An Idempotency-Key that came before with other bytes."""

    status = 409
    code = "idempotency_key_conflict"


class ArchiveError(RequestError):
    """A zip that cannot be read."""

    status = 422
    code = "archive_unusable"


class KeyRefused(RequestError):
    """No key, or none that is known here."""

    status = 401
    code = "key_refused"


class CrossSite(RequestError):
    """A page of another site has a browser send what that site may not read."""

    status = 403
    code = "cross_site"


class FetchRefused(RequestError):
    """A URL that is not asked: it is none, or leads where this service does not go."""

    status = 422
    code = "fetch_refused"


class HostNotPublic(FetchRefused):
    """Its host has no address on the public internet, or none at all: callers are not told which."""

    code = "host_not_public"


class FetchFailed(AstrodetectError):
    """A URL was asked, and what came is no file."""

    status = 502
    code = "fetch_failed"


class FetchTooSlow(FetchFailed):
    status = 504
    code = "fetch_too_slow"


class FetchTooLarge(FetchFailed):
    status = 413
    code = "fetch_too_large"


class ImageError(AstrodetectError):
    """These bytes give no pixels."""

    status = 422
    code = "image_corrupt"


class ImageEmpty(ImageError):
    code = "image_empty"


class ImageTooSmall(ImageError):
    code = "image_too_small"


class ImageBlank(ImageError):
    """Well-formed, and nothing is on it."""

    code = "image_blank"


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


class DrawingFailed(AstrodetectError):
    """The map of the log cannot be drawn."""

    code = "drawing_failed"


class SourceError(AstrodetectError):
    """A source of images on the network does not answer, or not as it should."""

    status = 502
    code = "source_unusable"


class FetchError(SourceError):
    """One address of a source gives nothing that can be used; others may."""

    code = "source_address_unusable"


class ModelError(AstrodetectError):
    """A model is there but cannot be trusted or used."""

    status = 503
    code = "model_invalid"


class ModelMissing(ModelError):
    code = "model_missing"


class ModelUnknown(ModelError):
    """A caller named a model that is not here."""

    status = 404
    code = "model_unknown"


class ModelUnfit(ModelError):
    """A caller asked a model for what models of its kind do not tell."""

    status = 422
    code = "model_unfit"


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


class OutboxFull(DatabaseUnavailable):
    """PostgreSQL is away, and no more rows can be kept until it is back."""

    code = "outbox_full"
    public = "the log of predictions does not answer and no more rows can be kept for it: try again later"


class Overloaded(AstrodetectError):
    """More work than can be done in time."""

    status = 503
    code = "overloaded"
    retry_after_s = 1


class Expired(AstrodetectError):
    """An answer that would come too late to be of use."""

    status = 503
    code = "expired"
    retry_after_s = 1


class ShuttingDown(AstrodetectError):
    """The service is on its way out."""

    status = 503
    code = "shutting_down"


class VectorsOff(AstrodetectError):
    """The database keeps no vectors, which everything but "more like this" can do without."""

    status = 503
    code = "vectors_off"


class VectorMissing(AstrodetectError):
    """A prediction that was logged without its vector."""

    status = 409
    code = "vector_missing"


class NotReady(AstrodetectError):
    """The service lives, but something that it needs is missing."""

    status = 503
    code = "not_ready"


class NotFound(AstrodetectError):
    status = 404
    code = "not_found"
