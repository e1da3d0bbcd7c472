"""References: strings that name an image, a shard or an image in a shard, by local path or URL."""

import argparse
import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin, urlsplit

from astrodetect.errors import DataError

URL = re.compile(r"(s3|gs|az|https?)://", re.IGNORECASE)
WEB = re.compile(r"https?://", re.IGNORECASE)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
PARQUET_SUFFIXES = (".parquet",)
SHARD_SUFFIXES = (*TAR_SUFFIXES, *PARQUET_SUFFIXES)
MEMBER = re.compile(
    rf"(.+(?:{'|'.join(map(re.escape, SHARD_SUFFIXES))})(?:\?[^#]*)?)#(.+)",  # a web address may have a query
    re.IGNORECASE | re.DOTALL,
)
ROW_GROUP = "row-group="  # the part of a Parquet file that is one shard


class InvalidPath(DataError, argparse.ArgumentTypeError):
    """A path is empty, as that of a shell's variable which is not set, or an invalid URL; wrong usage of a command."""


def as_image_path(text: str | Path) -> Path | str:
    """A URL, or the reference of an image in a shard, as it is; a path of a local file as a Path.

    InvalidPath for an empty text, which would be the working folder, and for an invalid URL.
    """
    if text == "":
        raise InvalidPath("a path is empty: write . for the working folder")
    if isinstance(text, str) and is_url(text):
        try:
            urlsplit(text)
        except ValueError as error:
            raise InvalidPath(f"an address is invalid ({error})") from error
    return text if isinstance(text, Path) or is_url(text) or split_member(text) else Path(text)


def as_reference(text: str) -> str:
    """A path or URL as it is written; InvalidPath as for `as_image_path`."""
    as_image_path(text)
    return text


def is_url(reference: str | os.PathLike[str]) -> bool:
    """Whether it is on an object store or a web server, not a local path."""
    return isinstance(reference, str) and URL.match(reference) is not None


def is_web(reference: str) -> bool:
    """Whether it is on a web server, where nothing can be listed or written."""
    return WEB.match(reference) is not None


def printable_url(reference: str) -> str:
    """The reference without what may be a secret: user, password, query."""
    if not is_web(reference):
        return reference
    parts = urlsplit(reference)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def suffix_path(reference: str) -> str:
    """The path in lower case, to look at its suffix: of a web address without its query, but with a member."""
    if not is_web(reference):
        return reference.lower()
    parts = urlsplit(reference)
    return f"{parts.path}#{parts.fragment}".rstrip("#").lower()


def join_reference(folder: str, name: str) -> str:
    """The reference of what a table in a folder names: absolute, or relative to the folder."""
    if is_url(name):
        return name
    if is_web(folder):
        return urljoin(f"{folder.rstrip('/')}/", name)
    if is_url(folder):
        return f"{folder.rstrip('/')}/{name}"
    return str(Path(folder) / name)


def parent_folder(reference: str) -> str:
    """The folder that it is in."""
    if not is_url(reference):
        return str(Path(reference).parent)
    return printable_url(reference).rpartition("/")[0]


def base_name(reference: str) -> str:
    """The last part of the name."""
    return PurePosixPath(urlsplit(reference).path).name if is_url(reference) else Path(reference).name


def relative_name(path: Path | str, folder: Path | str) -> str:
    """The path relative to the folder; of a URL outside of it, all of it."""
    if is_url(path):
        inside = str(path).removeprefix(f"{str(folder).rstrip('/')}/")
        return inside if is_url(folder) else printable_url(str(path))
    return Path(os.path.relpath(path, folder)).as_posix()


def folder_name(folder: Path | str) -> str:
    """The name of a folder or file, for titles."""
    return base_name(folder.rstrip("/")) if isinstance(folder, str) else folder.resolve().name


def is_shard(reference: str) -> bool:
    """Whether it holds many images, which are read one after the other: a tar archive, or a row group of Parquet."""
    split = split_member(reference)
    return suffix_path(reference).endswith(TAR_SUFFIXES) if split is None else split[1].startswith(ROW_GROUP)


def member_reference(shard: str, member: object) -> str:
    """The reference of an image in a shard."""
    return f"{shard}#{member}"


def split_member(reference: str) -> tuple[str, str] | None:
    """Shard and member of the reference of an image in a shard; None for others."""
    match = MEMBER.fullmatch(reference)
    if match is None or (not is_url(reference) and os.path.exists(reference)):  # noqa: PTH110 - of names of any length
        return None
    return match[1], match[2]
