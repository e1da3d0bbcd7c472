"""The versions of a model that newer ones replaced: which there are, and how to go back to one."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from astrodetect.errors import ModelError, ModelUnknown
from astrodetect.model_store import archive, store
from astrodetect.model_store.store import Manifest, Precision, VerifiedModel


def versions(folder: Path, name: str) -> dict[Path, Manifest]:
    """Those that a model can be rolled back to, by where their files are; the one replaced last first."""
    serving, found = _in_place(folder, name), {}
    for version, kept in archive.versions(folder, name).items():
        with contextlib.suppress(ModelError):  # one that is let go meanwhile is none
            if version != serving:
                found[kept] = store.read_manifest(kept / f"{name}.json")
    return found


def rollback(
    folder: Path,
    name: str,
    version: str | None = None,
    *,
    precision: Precision | Literal["auto"],
    trial: Callable[[VerifiedModel], object],
) -> Manifest:
    """Puts an earlier version back in one stroke, the one replaced last unless one is named.

    The version that it replaces becomes an earlier one, so the way forward is the same. Nothing changes where the
    `trial` of what would serve raises a ModelError.
    """
    kept = place(folder, name, version)  # whoever asks for what is not here leaves no trace
    try:
        with store.only_one(folder, name):
            store.finish_interrupted(folder, name)
            manifest = store.read_manifest(kept / f"{name}.json")
            if kept == folder:
                return manifest
            trial(store.verified(kept, manifest, precision))
            return _put_back(kept, folder, manifest)
    except OSError as error:
        raise ModelError(f"model {name} cannot be rolled back: {error.strerror or error}") from error


def place(folder: Path, name: str, version: str | None = None) -> Path:
    """Where the files of that version are, or of the one replaced last; ModelUnknown where there is none."""
    serving, known = _in_place(folder, name), archive.versions(folder, name)
    if version is not None and version == serving:
        return folder
    known.pop(serving or "", None)
    if serving is None and not known:
        raise ModelUnknown(f"no model {name} here")
    if not known:
        raise ModelUnknown(f"model {name} has no earlier version: the next one that is published keeps this one")
    if version is None:
        return next(iter(known.values()))
    if version not in known:
        raise ModelUnknown(f"model {name} has no earlier version {version}: it has {', '.join(known)}")
    return known[version]


def _put_back(kept: Path, folder: Path, manifest: Manifest) -> Manifest:
    with store.staging(folder, manifest.name) as staged:
        for file in (*manifest.files, *store.report_files(kept, manifest)):
            archive.link(kept / file, staged / file)
        return store.put(staged, folder, manifest)


def _in_place(folder: Path, name: str) -> str | None:
    """The version there; None where there is no model, or one that is broken."""
    try:
        return store.read_manifest(folder / f"{name}.json").version
    except ModelError:
        return None
