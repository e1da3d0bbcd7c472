"""Earlier versions of a model: one folder each, of hard links to the files that a newer version replaced."""

import contextlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from astrodetect import atomic_files
from astrodetect.errors import ModelError, ModelUnknown
from astrodetect.model_store.manifest import Manifest, read_manifest

KEPT = 3  # earlier versions of each model
ARCHIVE = ".earlier"  # ends the name of the folder of their folders
PART, GONE = ".part", ".gone"  # a version being copied; a version being deleted


def earlier_versions(folder: Path, name: str) -> dict[Path, Manifest]:
    """The versions that a model can be rolled back to, by their folder, the most recent first."""
    current, earlier = _current_version(folder, name), {}
    for version, path in version_folders(folder, name).items():
        with contextlib.suppress(ModelError):  # another process may be deleting it
            if version != current:
                earlier[path] = read_manifest(path / f"{name}.json")
    return earlier


def find_version(folder: Path, name: str, version: str | None = None) -> Path:
    """The folder of a version, or of the most recent earlier one; ModelUnknown where there is none."""
    current, earlier = _current_version(folder, name), version_folders(folder, name)
    if version is not None and version == current:
        return folder
    earlier.pop(current or "", None)
    if current is None and not earlier:
        raise ModelUnknown(f"no model {name} here")
    if not earlier:
        raise ModelUnknown(f"model {name} has no earlier version: publishing a new one will keep the present one")
    if version is None:
        return next(iter(earlier.values()))
    if version not in earlier:
        raise ModelUnknown(f"model {name} has no earlier version {version}: it has {', '.join(earlier)}")
    return earlier[version]


def version_folders(folder: Path, name: str) -> dict[str, Path]:
    """Version → folder, the most recent first."""
    named = [(path.name.partition("."), path) for path in archive_folder(folder, name).glob("*.*")]
    numbered = [(int(number), version, path) for (number, _, version), path in named if number.isdecimal()]
    return {version: path for _, version, path in sorted(numbered, reverse=True)}


def keep(folder: Path, name: str, version: str, files: Iterable[str]) -> None:
    """Archive the current files as the newest earlier version, atomically."""
    archive = archive_folder(folder, name)
    shutil.rmtree(archive / PART, ignore_errors=True)
    (archive / PART).mkdir(parents=True)
    for file in files:
        link(folder / file, archive / PART / file)
    existing = version_folders(folder, name)
    number = 1 + max((int(path.name.partition(".")[0]) for path in existing.values()), default=0)
    if version in existing:
        _delete(existing[version])
    (archive / PART).rename(archive / f"{number:04}.{version}")


def prune(folder: Path, name: str, current: str) -> None:
    """Delete all but the KEPT most recent earlier versions, and the copy of the current one."""
    existing = version_folders(folder, name)
    if duplicate := existing.pop(current, None):
        _delete(duplicate)
    for path in list(existing.values())[KEPT:]:
        _delete(path)


def link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system has no hard links."""
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)


def _delete(path: Path) -> None:
    """Rename first: a deletion that is interrupted must not leave half a version."""
    gone = path.with_name(GONE)
    shutil.rmtree(gone, ignore_errors=True)
    atomic_files.move_folder(path, gone)
    shutil.rmtree(gone)


def archive_folder(folder: Path, name: str) -> Path:
    """The folder of the folders of earlier versions."""
    return folder / f".{name}{ARCHIVE}"


def _current_version(folder: Path, name: str) -> str | None:
    """The version being served; None where there is no valid model."""
    try:
        return read_manifest(folder / f"{name}.json").version
    except ModelError:
        return None
