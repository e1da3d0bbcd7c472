"""Errors of requests to object stores and web servers, each described in one line without secrets."""

import re

from astrodetect.errors import StorageError, StorageMissing, StorageUnavailable
from astrodetect.storage.references import is_web, printable_url

STATUS = re.compile(r"status code: (\d{3})")
CODE = re.compile(r"<Code>(\w+)</Code>")  # in the answers of S3 and those like it
NAME = re.compile(r'path: (".*"),')  # in the client's messages on a list
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_SKIP_SIGNATURE=true if it is public",
    "ht": "no address of a metadata server",
}


class HeadersUnusable(StorageError):
    """The server does not say how long a body is, which object stores always do, or has headers that are invalid."""


class StatusUnknown(StorageError):
    """The body of an error response is no UTF-8, and the client does not give its status."""


class ConditionFailed(StorageError):
    """The object exists, or is of another version than the request demands."""


class Unreachable(StorageUnavailable):
    """No connection to the server."""


class Interrupted(StorageUnavailable):
    """The connection was cut within a request or its answer."""


# The first pattern that is found in "EXCEPTION STATUS CODE", a line end and the client's message decides.
CASES: tuple[tuple[re.Pattern[str], type[StorageError], str], ...] = tuple(
    (re.compile(pattern), kind, message)
    for pattern, kind, message in (
        (r"^(AlreadyExists|Precondition)Error", ConditionFailed, "{place} was changed meanwhile"),
        (r"Generic HTTP error.*invalid utf-8", StatusUnknown, "{place}: answered an error"),
        (
            r"MissingContentLength|InvalidLastModified|BadHeader",
            HeadersUnusable,
            "{place}: its server sends no length, or invalid headers",
        ),
        (
            r"169\.254\.169\.254|169\.254\.170\.2|fd00:ec2::254|metadata\.google\.internal"
            r"|MissingAccount|MissingCredentials|TokenRequest|Missing (AccessKeyId|SecretAccessKey)",
            StorageUnavailable,
            "no credentials for {place}: set {credentials}",
        ),
        (r"performing DELETE \S+uploadId=", StorageUnavailable, "{place}: the end of its upload was not confirmed"),
        (r"^\w+ \d* NoSuchBucket", StorageMissing, "{place}: there is no such bucket"),
        (r"^FileNotFoundError|^\w+ 4(04|10) ", StorageMissing, "{place}: no such file"),
        (
            r"^\w+ \d+ (ExpiredToken|TokenRefreshRequired|RequestTimeTooSkewed)",
            StorageUnavailable,
            "{place}: the credentials are not valid now ({answer})",
        ),
        (
            r"^(PermissionDenied|Unauthenticated)Error|^\w+ 40[13] ",
            StorageError,
            "{place}: access denied ({answer}): check the credentials and their permissions",
        ),
        (
            r"^\w+ 3\d\d |^\w+ \d+ AuthorizationHeaderMalformed",
            StorageUnavailable,
            "{place}: the bucket is in another region ({answer}): set AWS_REGION",
        ),
        (
            r"^NotSupportedError|NotPartial",
            StorageError,
            "{place}: its server does not send parts of files: download the file first",
        ),
        (r"^\w+ (429|5\d\d) ", StorageUnavailable, "{place}: answered {answer}"),
        (r"^\w+ \d\d\d ", StorageError, "{place}: answered {answer}"),
        (r"error following redirect|BadScheme", StorageError, "{place}: its redirect cannot be followed"),
        (r"dns error", Unreachable, "{place}: its host name cannot be resolved"),
        (
            r"InvalidCertificate",
            Unreachable,
            "{place}: its server has no valid certificate, or one of an authority that SSL_CERT_FILE has to name",
        ),
        (r"kind: Connect\b", Unreachable, "{place}: no connection to its server"),
        (r"hyper::Error\(\s*Parse\(", StorageError, "{place}: the answer of its server is no valid HTTP"),
        (r"kind: Interrupted|IncompleteMessage", Interrupted, "{place}: the connection to its server was cut"),
        (r"kind: Timeout", StorageUnavailable, "{place}: its server did not answer in time"),
        (
            r"Encountered object with invalid path",
            StorageError,
            "{place} has the name {name}, which is no path: rename it, or give a table of the images",
        ),
        (r"^InvalidPathError|InvalidPath", StorageError, "{place}: not a name that can be read"),
    )
)


def describe_error(error: Exception, url: str) -> StorageError:
    """What is wrong, for the person who named the URL."""
    text, place = str(error), printable_url(url)
    status, code, name = (match[1] if (match := pattern.search(text)) else "" for pattern in (STATUS, CODE, NAME))
    if is_web(url) and (status.startswith("3") or "redirect without LOCATION" in text):
        return StorageError(f"{place}: its redirect cannot be followed")
    evidence = f"{type(error).__name__} {status} {code}\n{text}"
    for pattern, kind, message in CASES:
        if pattern.search(evidence):
            answer = f"{status} {code}".strip()
            credentials = CREDENTIALS[url[:2].lower()]
            return kind(message.format(place=place, answer=answer, credentials=credentials, name=name))
    reason = type(error).__name__ if is_web(url) else text.partition("\n")[0]
    return StorageUnavailable(f"{place}: {reason}")


def too_large(reference: str, max_bytes: int) -> StorageError:
    """The error of an object above a limit."""
    return StorageError(f"{printable_url(reference)} has more than {max_bytes // 2**20} MiB")
