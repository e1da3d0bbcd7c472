"""The embedded PostgreSQL: a real server in one folder, started by its first user and stopped by its last one."""

import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from astrodetect.db.embedded import cluster
from astrodetect.db.embedded.binaries import program
from astrodetect.db.embedded.lifetime import shared
from astrodetect.errors import DatabaseError

EMBEDDED_DATABASE = "astrodetect"


@contextmanager
def serve(folder: Path, database: str) -> Iterator[str]:
    """The URL of `database` on the server in `folder`, which runs for as long as any process is in here."""
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()
    except OSError as error:
        raise DatabaseError(f"cannot use {folder.parent}: {error.strerror}") from error
    with shared(folder, start=cluster.ensure_running, stop=cluster.stop):
        yield cluster.ServerAddress.of(folder).url(database)


def psql() -> Path:
    """The user's own psql, or else the embedded one."""
    found = shutil.which("psql")
    return Path(found) if found else program("psql")


def psql_line(url: str) -> str:
    """What to paste into a shell to look into the database at `url`."""
    name = "psql" if shutil.which("psql") else str(psql())
    if os.name == "nt":
        return f'"{name}" "{url}"' if " " in name else f'{name} "{url}"'
    return shlex.join([name, url])
