"""The exceptions of the package, each with its HTTP status and error code; the message says what to do."""

from typing import ClassVar


class AstrodetectError(Exception):
    """Base class of every exception that is raised on purpose, with a message of one line."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    public: ClassVar[str | None] = None  # message for HTTP clients, where the exception's may name hosts and paths
    retry_after_s: ClassVar[int] = 5  # of a 503 or 429

    def __init_subclass__(cls, **fields: str | int) -> None:
        """Set those of the above that differ from the base class's."""
        super().__init_subclass__()
        for name, value in fields.items():
            setattr(cls, name, value)


class RequestError(AstrodetectError, status=400, code="bad_request"):
    """The request is invalid."""


class BodyTooLarge(RequestError, status=413, code="body_too_large"):
    """The request body exceeds its limit."""


class MalformedRequest(RequestError, code="malformed_request"):
    """What arrived is not HTTP."""


class HeadersTooLarge(RequestError, status=431, code="headers_too_large"):
    """The headers of the request are larger than the limit."""


class HeadersTooSlow(RequestError, status=408, code="headers_too_slow"):
    """The headers of the request did not arrive in time."""


class BodyTooSlow(RequestError, status=408, code="body_too_slow"):
    """The request body did not arrive in time."""


class IdempotencyConflict(RequestError, status=409, code="idempotency_key_conflict"):
    """The Idempotency-Key, or a proxy's X-Request-ID, was used before for another image, model, position or object."""


class ArchiveError(RequestError, status=422, code="archive_unusable"):
    """The uploaded zip archive cannot be read."""


class InvalidApiKey(RequestError, status=401, code="key_refused"):
    """The API key is missing or unknown."""


class KeyScopeMissing(RequestError, status=403, code="key_scope_missing"):
    """The API key is valid, but not for this request."""


class KeyExists(RequestError, status=409, code="key_exists"):
    """There is an API key of this name."""


class LabelNameConflict(RequestError, status=409, code="label_name_conflict"):
    """The name of a label, or its key, is in use."""


class TooManyGuesses(RequestError, status=429, code="too_many_guesses", retry_after_s=60):
    """Many wrong API keys came from this address."""


class CrossSiteRequest(RequestError, status=403, code="cross_site"):
    """A browser sent a state-changing request on behalf of another site."""


class HostNotServed(RequestError, status=421, code="host_not_served"):
    """The Host header is not a name of this service."""


class TrainingNotAllowed(RequestError, status=403, code="training_not_allowed"):
    """This client may not start or stop trainings."""


class TrainingConflict(RequestError, status=409, code="training_conflict"):
    """Another training runs, or this one is in another state."""


class FetchRefused(RequestError, status=422, code="fetch_refused"):
    """The URL is invalid, or the service may not fetch from it."""


class HostNotPublic(FetchRefused, code="host_not_public"):
    """The URL's host has no public address, or none at all: clients are not told which."""


class FetchFailed(AstrodetectError, status=502, code="fetch_failed"):
    """The URL's host did not return a file."""


class FetchTooSlow(FetchFailed, status=504, code="fetch_too_slow"):
    """The file at the URL did not arrive in time."""


class FetchTooLarge(FetchFailed, status=413, code="fetch_too_large"):
    """The file at the URL exceeds the limit."""


class ImageError(AstrodetectError, status=422, code="image_corrupt"):
    """The image cannot be decoded."""


class ImageEmpty(ImageError, code="image_empty"):
    """The file has no bytes."""


class ImageTooSmall(ImageError, code="image_too_small"):
    """A side of the image is too short."""


class ImageBlank(ImageError, code="image_blank"):
    """The image is valid but has no content."""


class ImageTooManyPixels(ImageError, status=413, code="image_too_many_pixels"):
    """The image exceeds the limit of pixels."""


class ImageUnsupported(ImageError, status=415, code="image_unsupported"):
    """The file is in no supported image format."""


class DataError(AstrodetectError, status=422, code="data_unusable"):
    """A data set, table or output path cannot be used."""


class StorageError(DataError, code="storage_error"):
    """A file or object cannot be read or written."""


class StorageMissing(StorageError):
    """There is no such file or object."""


class StorageUnavailable(StorageError, status=503, code="storage_unavailable"):
    """A server that holds objects does not answer, or refuses for now: not the fault of one object."""


class ProjectionFailed(AstrodetectError, code="drawing_failed"):
    """The map of the predictions cannot be computed."""


class SourceError(AstrodetectError, status=502, code="source_unusable"):
    """An online source of images is unavailable or returns invalid data."""


class SourceUrlError(SourceError, code="source_address_unusable"):
    """One URL of a source is unusable; others may work."""


class WorkerError(AstrodetectError, code="worker_ended"):
    """A process that scores images ended, and again when it was started again."""


class ClusterError(AstrodetectError, status=503, code="cluster_unavailable"):
    """The Ray cluster cannot be reached, or its nodes cannot do the work."""


class BackupError(AstrodetectError, code="backup_failed"):
    """A backup cannot be made, or cannot be restored."""


class ModelError(AstrodetectError, status=503, code="model_invalid"):
    """The model is invalid or cannot be used."""


class ModelMissing(ModelError, code="model_missing"):
    """No model has been trained yet."""


class ModelUnknown(ModelError, status=404, code="model_unknown"):
    """There is no model of the requested name."""


class ModelUnsuitable(ModelError, status=422, code="model_unfit"):
    """The requested model cannot answer this kind of request."""


class DatabaseError(
    AstrodetectError,
    status=503,
    code="database_error",
    public="the predictions database rejected the request: see the server log",
):
    """PostgreSQL rejected a statement or a setting."""


class DatabaseUnavailable(
    DatabaseError, code="database_unavailable", public="the predictions database does not answer: try again soon"
):
    """PostgreSQL does not answer; the same request may succeed later."""


class DatabaseNotSetUp(
    DatabaseError,
    code="database_not_set_up",
    public="the predictions database is not set up: run python setup_db.py or astrodetect setup-db",
):
    """The database has no tables, or not those of this version."""


class OutboxFull(
    DatabaseUnavailable,
    code="outbox_full",
    public="the predictions database does not answer and its outbox is full: try again later",
):
    """PostgreSQL is unavailable and the outbox, which stores rows meanwhile, is full."""


class Overloaded(AstrodetectError, status=503, code="overloaded", retry_after_s=1):
    """There are more requests than can be answered in time."""


class TemporaryFilesFull(
    Overloaded, public="the service has no room for temporary files: try again later", retry_after_s=5
):
    """A temporary file cannot be written, as on a full disk."""


class DeadlineExceeded(AstrodetectError, status=503, code="expired", retry_after_s=1):
    """The request's deadline passed before it was answered."""


class ShuttingDown(AstrodetectError, status=503, code="shutting_down"):
    """The service is shutting down."""


class VectorsOff(AstrodetectError, status=503, code="vectors_off"):
    """The database has no pgvector, which only the search for similar images needs."""


class VectorMissing(AstrodetectError, status=409, code="vector_missing"):
    """The prediction was recorded without a vector."""


class NotReady(AstrodetectError, status=503, code="not_ready"):
    """The service runs, but a component that it needs is unavailable."""


class PackagesMissing(AstrodetectError, status=501, code="packages_missing"):
    """An optional package is not installed."""


class NotFound(AstrodetectError, status=404, code="not_found"):
    """There is no such record or page."""


def is_interrupt(error: BaseException | None) -> bool:
    """Whether it is Ctrl-C, or the ImportError of a module in C that Ctrl-C stopped while it was loaded."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
