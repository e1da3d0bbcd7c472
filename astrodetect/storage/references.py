"""References: strings that name an image, a shard or an image in a shard, by local path or URL."""

import re
from pathlib import Path

URL = re.compile(r"(s3|gs|az|https?)://", re.IGNORECASE)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
MEMBER = re.compile(rf"(.+(?:{'|'.join(map(re.escape, TAR_SUFFIXES))}))#(.+)", re.IGNORECASE | re.DOTALL)


def is_url(reference: str) -> bool:
    """Whether it is on an object store or a web server, not a local path."""
    return URL.match(reference) is not None


def is_tar(reference: str) -> bool:
    """Whether it is a tar archive by its name."""
    return reference.lower().endswith(TAR_SUFFIXES)


def is_shard(reference: str) -> bool:
    """Whether it holds many images, which are read one after the other."""
    return is_tar(reference)


def member_reference(shard: str, member: str) -> str:
    """The reference of an image in a shard."""
    return f"{shard}#{member}"


def split_member(reference: str) -> tuple[str, str] | None:
    """Shard and member of the reference of an image in a shard; None for others."""
    match = MEMBER.fullmatch(reference)
    if match is None or (not is_url(reference) and Path(reference).exists()):
        return None
    return match[1], match[2]
