"""The exceptions of the package, each with its HTTP status and error code; the message says what to do."""

from typing import ClassVar


class AstrodetectError(Exception):
    """Base class of every exception that is raised on purpose, with a message of one line."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    public: ClassVar[str | None] = None  # message for HTTP clients, where the exception's may name hosts and paths
    retry_after_s: ClassVar[int] = 5  # of a 503 or 429


class RequestError(AstrodetectError):
    """The request is invalid."""

    status = 400
    code = "bad_request"


class BodyTooLarge(RequestError):
    """The request body exceeds its limit."""

    status = 413
    code = "body_too_large"


class MalformedRequest(RequestError):
    """What arrived is not HTTP."""

    code = "malformed_request"


class HeadersTooLarge(RequestError):
    """The headers of the request are larger than the limit."""

    status = 431
    code = "headers_too_large"


class HeadersTooSlow(RequestError):
    """The headers of the request did not arrive in time."""

    status = 408
    code = "headers_too_slow"


class BodyTooSlow(RequestError):
    """The request body did not arrive in time."""

    status = 408
    code = "body_too_slow"


class IdempotencyConflict(RequestError):
    """The Idempotency-Key, or the X-Request-ID of a proxy, was used before for another image."""

    status = 409
    code = "idempotency_key_conflict"


class ArchiveError(RequestError):
    """The uploaded zip archive cannot be read."""

    status = 422
    code = "archive_unusable"


class InvalidApiKey(RequestError):
    """The API key is missing or unknown."""

    status = 401
    code = "key_refused"


class KeyScopeMissing(RequestError):
    """The API key is valid, but not for this request."""

    status = 403
    code = "key_scope_missing"


class KeyExists(RequestError):
    """There is an API key of this name."""

    status = 409
    code = "key_exists"


class TooManyGuesses(RequestError):
    """Many wrong API keys came from this address."""

    status = 429
    code = "too_many_guesses"
    retry_after_s = 60


class CrossSiteRequest(RequestError):
    """A browser sent a state-changing request on behalf of another site."""

    status = 403
    code = "cross_site"


class HostNotServed(RequestError):
    """The Host header is not a name of this service."""

    status = 421
    code = "host_not_served"


class TrainingNotAllowed(RequestError):
    """This client may not start or stop trainings."""

    status = 403
    code = "training_not_allowed"


class TrainingConflict(RequestError):
    """Another training runs, or this one is in another state."""

    status = 409
    code = "training_conflict"


class FetchRefused(RequestError):
    """The URL is invalid, or the service may not fetch from it."""

    status = 422
    code = "fetch_refused"


class HostNotPublic(FetchRefused):
    """The URL's host has no public address, or none at all: clients are not told which."""

    code = "host_not_public"


class FetchFailed(AstrodetectError):
    """The URL's host did not return a file."""

    status = 502
    code = "fetch_failed"


class FetchTooSlow(FetchFailed):
    """The file at the URL did not arrive in time."""

    status = 504
    code = "fetch_too_slow"


class FetchTooLarge(FetchFailed):
    """The file at the URL exceeds the limit."""

    status = 413
    code = "fetch_too_large"


class ImageError(AstrodetectError):
    """The image cannot be decoded."""

    status = 422
    code = "image_corrupt"


class ImageEmpty(ImageError):
    """The file has no bytes."""

    code = "image_empty"


class ImageTooSmall(ImageError):
    """A side of the image is too short."""

    code = "image_too_small"


class ImageBlank(ImageError):
    """The image is valid but has no content."""

    code = "image_blank"


class ImageTooManyPixels(ImageError):
    """The image exceeds the limit of pixels."""

    status = 413
    code = "image_too_many_pixels"


class ImageUnsupported(ImageError):
    """The file is in no supported image format."""

    status = 415
    code = "image_unsupported"


class DataError(AstrodetectError):
    """A data set, table or output path cannot be used."""

    status = 422
    code = "data_unusable"


class StorageError(DataError):
    """A file or object cannot be read or written."""

    code = "storage_error"


class StorageMissing(StorageError):
    """There is no such file or object."""


class StorageUnavailable(StorageError):
    """A server that holds objects does not answer, or refuses for now: not the fault of one object."""

    status = 503
    code = "storage_unavailable"


class ProjectionFailed(AstrodetectError):
    """The map of the predictions cannot be computed."""

    code = "drawing_failed"


class SourceError(AstrodetectError):
    """An online source of images is unavailable or returns invalid data."""

    status = 502
    code = "source_unusable"


class SourceUrlError(SourceError):
    """One URL of a source is unusable; others may work."""

    code = "source_address_unusable"


class WorkerError(AstrodetectError):
    """A process that scores images ended, and again when it was started again."""

    code = "worker_ended"


class ClusterError(AstrodetectError):
    """The Ray cluster cannot be reached, or its nodes cannot do the work."""

    status = 503
    code = "cluster_unavailable"


class BackupError(AstrodetectError):
    """A backup cannot be made, or cannot be restored."""

    code = "backup_failed"


class ModelError(AstrodetectError):
    """The model is invalid or cannot be used."""

    status = 503
    code = "model_invalid"


class ModelMissing(ModelError):
    """No model has been trained yet."""

    code = "model_missing"


class ModelUnknown(ModelError):
    """There is no model of the requested name."""

    status = 404
    code = "model_unknown"


class ModelUnsuitable(ModelError):
    """The requested model cannot answer this kind of request."""

    status = 422
    code = "model_unfit"


class DatabaseError(AstrodetectError):
    """PostgreSQL rejected a statement or a setting."""

    status = 503
    code = "database_error"
    public = "the predictions database rejected the request: see the server log"


class DatabaseUnavailable(DatabaseError):
    """PostgreSQL does not answer; the same request may succeed later."""

    code = "database_unavailable"
    public = "the predictions database does not answer: try again soon"


class DatabaseNotSetUp(DatabaseError):
    """The database has no tables, or not those of this version."""

    code = "database_not_set_up"
    public = "the predictions database is not set up: run python setup_db.py or astrodetect setup-db"


class OutboxFull(DatabaseUnavailable):
    """PostgreSQL is unavailable and the outbox, which stores rows meanwhile, is full."""

    code = "outbox_full"
    public = "the predictions database does not answer and its outbox is full: try again later"


class Overloaded(AstrodetectError):
    """There are more requests than can be answered in time."""

    status = 503
    code = "overloaded"
    retry_after_s = 1


class DeadlineExceeded(AstrodetectError):
    """The request's deadline passed before it was answered."""

    status = 503
    code = "expired"
    retry_after_s = 1


class ShuttingDown(AstrodetectError):
    """The service is shutting down."""

    status = 503
    code = "shutting_down"


class VectorsOff(AstrodetectError):
    """The database has no pgvector, which only the search for similar images needs."""

    status = 503
    code = "vectors_off"


class VectorMissing(AstrodetectError):
    """The prediction was recorded without a vector."""

    status = 409
    code = "vector_missing"


class NotReady(AstrodetectError):
    """The service runs, but a component that it needs is unavailable."""

    status = 503
    code = "not_ready"


class PackagesMissing(AstrodetectError):
    """An optional package is not installed."""

    status = 501
    code = "packages_missing"


class NotFound(AstrodetectError):
    """There is no such record or page."""

    status = 404
    code = "not_found"
