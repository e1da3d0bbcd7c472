"""`backup` and `restore`: the database, the rows that wait for it, and the models, in one checked folder."""

import argparse
import datetime as dt
import errno
import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from fasteners import InterProcessLock

from astrodetect import __version__, atomic_files
from astrodetect.cli._options import Subparsers, command_parser, local_path
from astrodetect.db.connections import read_url
from astrodetect.db.embedded import lifetime
from astrodetect.errors import BackupError
from astrodetect.model_store import manifest, mirror, publication, versions
from astrodetect.progress import print_notice
from astrodetect.settings import PROGRAMS, Settings, settings

FORMAT = 1
CONTENTS, DUMP, MODELS, OUTBOX = "backup.json", "database.dump", "models", "outbox"
RESTORING = ".restoring"  # where copies are made before anything is replaced
UNREADABLE = ".unreadable"  # suffix of what the service could not read
WORKING_FILES = {"lock", "write-check"}  # of an outbox: all others have rows
ATTEMPTS = 5  # to copy the models, where one is published meanwhile
BACKUP_DESCRIPTION = """copy the predictions database, the rows that wait for it and the models into a new folder

The service may run. What was acknowledged before the command began is in the copy. The folder appears once it is
complete, with the SHA-256 of every file and a checksum of every table in backup.json. Keys and other settings are not
in it; nor are models on an object store.
"""
BACKUP_EXAMPLES = """examples:
  python -m astrodetect backup /backups/monday
  DATABASE_URL=postgresql://user:password@host:5432/astrodetect python -m astrodetect backup /backups/monday
"""
RESTORE_DESCRIPTION = """bring back what `backup` copied

Stop the service first. Every file is checked and copied before anything changes, and the restored tables are compared
with the backup's before they take the place of the configured database. Rows or models that are there are
never overwritten: --replace keeps them under another name.
"""
RESTORE_EXAMPLES = """examples:
  python -m astrodetect restore /backups/monday
  python -m astrodetect restore /backups/monday --replace
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options of both commands."""
    parser = command_parser(subparsers, "backup", BACKUP_DESCRIPTION, BACKUP_EXAMPLES, _backup)
    parser.add_argument("folder", type=local_path, metavar="FOLDER", help="the folder to make")
    parser = command_parser(subparsers, "restore", RESTORE_DESCRIPTION, RESTORE_EXAMPLES, _restore)
    parser.add_argument("folder", type=local_path, metavar="FOLDER", help="what backup made")
    parser.add_argument("--replace", action="store_true", help="also where there are rows or models already")


def _backup(arguments: argparse.Namespace) -> int:
    from astrodetect.db import backup  # noqa: PLC0415 - as in every command, what others do not need

    config, target = settings(), arguments.folder.absolute()
    if target.exists() or target.is_symlink():
        raise BackupError(f"{target} exists: name a new folder")
    with _database(config) as url, _new_folder(target) as folder:
        _copy_waiting_rows(config.outbox_dir, folder / OUTBOX)  # first: what is drained meanwhile is in the dump
        print_notice("dumping the database")
        tables, migrations = backup.dump(url, folder / DUMP)
        if mirror.remote_url(config.models_dir) is None:
            print_notice("copying the models")
            _copy_models(config.models_dir, folder / MODELS)
        files = {str(path.relative_to(folder).as_posix()): atomic_files.file_sha256(path) for path in _files(folder)}
        contents = {
            "format": FORMAT,
            "astrodetect": __version__,
            "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "migrations": migrations,
            "tables": tables,
            "files": files,
        }
        atomic_files.write_text(folder / CONTENTS, json.dumps(contents, indent=1))
    size = sum(path.stat().st_size for path in _files(target))
    print(f"{target}: {int(tables['predictions'][0]):,} predictions, {len(files)} files, {size / 1e6:,.0f} MB")
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    import setup_db  # noqa: PLC0415 - a program at the top
    from astrodetect.db import backup  # noqa: PLC0415

    config, source = settings(), arguments.folder.absolute()
    contents = checked_contents(source)
    own_models = source / MODELS
    publication.finish_all_interrupted(config.models_dir)  # later it would replace what is restored
    if own_models.is_dir() and mirror.remote_url(config.models_dir) is not None:
        raise BackupError(f"the backup has models, and ASTRODETECT_MODELS_DIR is on an object store: copy {own_models}")
    present = [path for path in _model_entries(config.models_dir) if own_models.is_dir()]
    if present and not arguments.replace:
        raise BackupError(
            f"{config.models_dir} has models: set ASTRODETECT_MODELS_DIR to another folder, or keep these aside with "
            "--replace"
        )
    with (
        ExitStack() as stack,
        _copy_of(own_models, config.models_dir) as models,
        _copy_of(source / OUTBOX, config.outbox_dir) as outbox,
        _database(config) as url,
    ):
        print_notice("restoring the database")
        stack.callback(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT))

        def prepare(name: str) -> None:
            setup_db.migrate(url, name)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # from here on all of it is replaced, in moments

        kept = backup.restore(url, source / DUMP, contents["tables"], replace=arguments.replace, prepare=prepare)
        _move_into_place(present, models, config.models_dir)
        for path in sorted(outbox.iterdir()):  # those of an earlier restoration may still wait; a row is stored once
            path.rename(config.outbox_dir / f"restored-{_now()}-{path.name}")
        if kept:
            print(f"the database that was replaced is kept as {kept}")
        predictions, name = int(contents["tables"]["predictions"][0]), read_url(url)["dbname"]
        print(f"restored {predictions:,} predictions into {name}, as of {contents['created']}")
    return 0


@contextmanager
def _database(config: Settings) -> Iterator[str]:
    """The URL of the predictions database; the embedded server runs meanwhile."""
    if config.database_url:
        yield config.database_url.get_secret_value()
        return
    with lifetime.embedded_server(config.postgres_dir, lifetime.EMBEDDED_DATABASE) as url:
        yield url


@contextmanager
def _copy_of(source: Path, target: Path) -> Iterator[Path]:
    """A copy within the target folder, from where it is moved without taking space; what is left of it is removed."""
    staging = target / RESTORING
    try:
        target.mkdir(parents=True, exist_ok=True)
        with _exclusive(staging):
            if source.is_dir():
                shutil.copytree(source, staging, dirs_exist_ok=True)
            yield staging
    except (OSError, shutil.Error) as error:
        raise BackupError(f"{getattr(error, 'filename', None) or target}: {_reason(error)}") from error


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """A new folder, which this process alone fills; what is left of it is removed, also of one that was killed."""
    path = folder.with_name(f"{folder.name}.lock")
    lock = InterProcessLock(path)
    try:
        acquired = lock.acquire(blocking=False)
    except OSError as error:  # it names the path as bytes
        raise BackupError(f"{path}: {error.strerror}") from error
    try:
        # The file is removed below: another process may have made a new one since this one opened it.
        if not acquired or not path.exists() or path.stat().st_ino != os.fstat(lock.lockfile.fileno()).st_ino:
            raise BackupError(f"another process is writing {folder}")
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)  # rows name images and show thumbnails of them
            yield
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                path.unlink()
    finally:
        lock.release() if acquired else lock.lockfile.close()


def _now() -> str:
    return f"{dt.datetime.now(dt.UTC):%Y%m%d%H%M%S%f}"


def _reason(error: Exception) -> str:
    """Why a file could not be copied; of a folder, the first one."""
    return str(error.args[0][0][2]) if isinstance(error, shutil.Error) else getattr(error, "strerror", "") or str(error)


def _move_into_place(present: Sequence[Path], models: Path, target: Path) -> None:
    """Keep the present models in a folder of their own, and have the restored ones in their place.

    Manifests leave first and arrive last: a killed restoration leaves no model of which a part is missing.
    """
    if present:
        aside = target / f".replaced-{_now()}"
        aside.mkdir()
        for path in sorted(present, key=lambda path: path.suffix != ".json"):
            atomic_files.move_folder(path, aside / path.name)
        print(f"the models that were replaced are kept in {aside}")
    for path in sorted(models.iterdir(), key=lambda path: path.suffix == ".json"):
        path.rename(target / path.name)


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` when the block ends, and is removed if the block raises."""
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(part):
            yield part
            for path in _files(part):
                atomic_files.sync_file(path)
            part.rename(target)
            atomic_files.sync_folder(target.parent)
    except OSError as error:
        path = error.filename2 or error.filename or part  # of a copy, where it is written
        raise BackupError(f"{path}: {error.strerror or error}") from error


def _copy_waiting_rows(outbox: Path, target: Path) -> None:
    """Copy the rows that wait and those that are set aside; a file that was set aside may still be unreadable."""
    for path in sorted(path for path in outbox.glob("*/*") if path.name not in WORKING_FILES and path.is_file()):
        copy = target / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, copy)
        except FileNotFoundError:
            continue  # its rows have just been written to the database
        except OSError as error:
            if path.suffix != UNREADABLE or error.errno == errno.ENOSPC:
                raise
            copy.unlink(missing_ok=True)
            print_notice(f"{path} cannot be read, and is not in the backup: {error.strerror}")


def _copy_models(models: Path, target: Path) -> None:
    """Copy published models and their earlier versions, each whole."""
    publication.finish_all_interrupted(models)
    for _ in range(ATTEMPTS):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        damaged = ["files that change"]
        with suppress(FileNotFoundError):  # a publication replaces files
            for path in _model_entries(models):
                for file in _files(path) if path.is_dir() else [path]:
                    copy = target / file.relative_to(models)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, copy)
            damaged = _damaged_models(target)
            if not damaged:
                return
    raise BackupError(f"{models} has models that are damaged, or change all the time: {', '.join(damaged)}")


def _model_entries(models: Path) -> list[Path]:
    """The files of published models and the folders of earlier versions, without locks and trainings."""
    if not models.is_dir():
        return []
    return sorted(path for path in models.iterdir() if path.name[0] != "." or path.suffix == versions.ARCHIVE)


def _damaged_models(folder: Path) -> list[str]:
    damaged = list(manifest.invalid_manifests(folder))
    for model in manifest.list_manifests(folder):
        for place, version in [(folder, model), *versions.earlier_versions(folder, model.name).items()]:
            if any(
                not (place / file).is_file() or atomic_files.file_sha256(place / file) != sha
                for file, sha in version.files.items()
            ):
                damaged.append(f"{model.name} {version.version}")
    return damaged


def checked_contents(folder: Path) -> dict[str, Any]:
    """backup.json, once the folder has the files that it lists and nothing else."""
    try:
        for path in (Path(parent) / name for parent, folders, names in os.walk(folder) for name in (*folders, *names)):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise BackupError(f"{path} is a link or a device, which a backup has not: use another one")
        contents: dict[str, Any] = json.loads((folder / CONTENTS).read_text(encoding="utf-8"))
        if contents["format"] != FORMAT:
            raise BackupError(f"{folder} was made by astrodetect {contents['astrodetect']}: update this program")
        newer = [name for name in contents["migrations"] if not (PROGRAMS / "sql" / f"{name}.sql").is_file()]
        if newer:
            raise BackupError(f"{folder} was made by a newer astrodetect, it has {newer[-1]}: update this program")
        int(contents["tables"]["predictions"][0]), str(contents["created"])
        listed, present = contents["files"].keys(), {path.relative_to(folder).as_posix() for path in _files(folder)}
        for name in sorted(present - listed - {CONTENTS}):
            raise BackupError(f"{folder / name} is not listed in {CONTENTS}: remove it, or use another backup")
        for name, expected in contents["files"].items():
            if name not in present or atomic_files.file_sha256(folder / name) != expected:
                raise BackupError(f"{folder / name} does not match its SHA-256 in {CONTENTS}: use another backup")
    except OSError as error:
        raise BackupError(f"{error.filename}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BackupError(f"{folder / CONTENTS} cannot be read: use another backup") from error
    return contents


def _files(folder: Path) -> list[Path]:
    return sorted(Path(parent) / name for parent, _, names in os.walk(folder) for name in names)
