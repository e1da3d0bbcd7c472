"""The last step of publishing a model: its files, ready in a folder beside the target, are moved into place."""

import contextlib
import threading
from pathlib import Path

import fasteners

from astrodetect.errors import ModelError
from astrodetect.model_store.manifest import NOVELTY, parse_manifest

NETWORK = (".xml", ".bin")  # read into memory once verified, so that they cannot change in between
INT8 = ".int8"  # infix of the int8 network's files; f32 and bf16 share the float32 ones
RESERVED_SUFFIXES = (INT8, ".metrics")  # of models' names: NAME.metrics.json is a file of NAME, and no manifest
NOT_IN_EVERY_MODEL = (".h5", *(f"{INT8}{suffix}" for suffix in NETWORK), NOVELTY)
_threads = threading.Lock()  # the system's locks exclude processes alone


def finish_interrupted(folder: Path, name: str) -> None:
    """Move the files of a committed model into place; the manifest is the last.

    One process at a time: a slower one would move and delete files of the next publication.
    """
    ready = ready_folder(folder, name)
    if not ready.is_dir():
        return
    lock = fasteners.InterProcessLock(folder / f".{name}.ready.lock")
    with _threads, lock, contextlib.suppress(FileNotFoundError):  # another process has completed the same move
        files = parse_manifest((ready / f"{name}.json").read_bytes(), name).files
        for file in (f"{name}{suffix}" for suffix in NOT_IN_EVERY_MODEL):
            if file not in files:
                (folder / file).unlink(missing_ok=True)  # of the older model
        for path in sorted(ready.iterdir(), key=lambda path: path.name == f"{name}.json"):
            path.replace(folder / path.name)
            path.unlink(missing_ok=True)  # rename does nothing where both are links to one file
        ready.rmdir()


def finish_all_interrupted(folder: Path) -> None:
    """The same for every model; where that fails, the error is that of loading it."""
    for ready in folder.glob(ready_folder(Path(), "*").name):
        with contextlib.suppress(OSError, ModelError):
            finish_interrupted(folder, ready.stem[1:])


def ready_folder(folder: Path, name: str) -> Path:
    """The folder of a committed model, to be moved into place."""
    return folder / f".{name}.ready"
