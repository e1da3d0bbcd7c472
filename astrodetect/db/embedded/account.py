"""The account that the embedded PostgreSQL runs under: ours, or a system user's where we are root, which it refuses."""

import logging
import os
import stat
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from astrodetect.errors import DatabaseError

log = logging.getLogger(__name__)

SYSTEM_USER = "pgserver"
ATTEMPTS = 20  # useradd fails while another one runs


class Account(NamedTuple):
    """Whom to run as, by number."""

    uid: int
    gid: int


def account_for(folder: Path) -> Account | None:
    """The owner of the data; a system user for data yet to be made; None where we run as ourselves."""
    if os.name != "posix" or os.geteuid() != 0:
        return None
    if folder.exists() and (owner := folder.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    return _system_user()


def let_in(account: Account | None, folder: Path, *, programs: Path | None = None) -> None:
    """The account may pass through the folders above `folder`, and read and run `programs`; nothing more."""
    if account is None:
        return
    for parent in folder.parents:
        _widen(parent, stat.S_IXOTH)
    if programs:
        for path in (*programs.parents, programs):
            _widen(path, stat.S_IXOTH)
        for path in (programs, *programs.rglob("*")):
            runs = path.stat().st_mode & stat.S_IXUSR
            _widen(path, stat.S_IROTH | (stat.S_IXOTH if runs else 0))


def _widen(path: Path, bits: int) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & bits != bits:
        path.chmod(mode | bits)
        level = logging.WARNING if path.is_dir() else logging.INFO
        log.log(level, "PostgreSQL runs under a system user: %s went from %o to %o", path, mode, mode | bits)


def _system_user() -> Account:
    import pwd  # noqa: PLC0415 - POSIX only

    said = ""
    for _ in range(ATTEMPTS):
        try:
            entry = pwd.getpwnam(SYSTEM_USER)
            return Account(entry.pw_uid, entry.pw_gid)
        except KeyError:
            pass
        try:
            done = subprocess.run(
                ["useradd", "--system", "--no-create-home", SYSTEM_USER],  # noqa: S607 - wherever the system has it
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            said = f"useradd: {error.strerror}"
            break
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or [f"useradd: exit status {done.returncode}"])[-1]
            time.sleep(0.1)
    raise DatabaseError(
        f"PostgreSQL does not run as root, and the user {SYSTEM_USER} could not be made ({said}): "
        "run as another user, or set DATABASE_URL"
    )
