"""Models on an object store, and their copies in a local folder, which is what everything reads.

At the URL of the folder of models:

    NAME.json                    the manifest of the model in place; writing it publishes a version as a whole
    NAME/files/SHA256/FILE       the files of all versions; files of different versions never share a key
    NAME/earlier/NNNN.VERSION.json   the manifests of earlier versions, the newest last
    NAME/reports/VERSION.html    the evaluation of a version, with its .metrics.json

The local folder has the layout of a local model store; its name holds the URL.
"""

import json
import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fasteners

from astrodetect import atomic_files
from astrodetect.errors import ModelError, StorageError, StorageMissing
from astrodetect.model_store import versions
from astrodetect.model_store.manifest import METRICS, RETRAIN, Manifest, parse_manifest, read_manifest
from astrodetect.model_store.publication import finish_all_interrupted, finish_interrupted, ready_folder
from astrodetect.settings import MIRRORS
from astrodetect.storage import clients, objects
from astrodetect.storage.references import is_url

REPORT = (".html", METRICS)  # suffixes of an evaluation's page and metrics
ATTEMPTS = 5  # to publish, where others publish at the same moment
COPY_BYTES = 8 * 2**20

log = logging.getLogger(__name__)
_threads = threading.Lock()  # file locks exclude other processes, not other threads


def remote_url(folder: Path) -> str | None:
    """The URL that a local folder mirrors; None for a folder of its own."""
    url = unquote(folder.name)
    return url if folder.parent.name == MIRRORS and is_url(url) else None


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Waits for other processes that change the mirror of this model; nothing to wait for without a mirror."""
    if remote_url(folder) is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with _threads, fasteners.InterProcessLock(folder / f".{name}.mirror.lock"):
        yield


def pull_all(folder: Path) -> None:
    """Copies what was published since for every model, and evaluations; completes interrupted publications."""
    finish_all_interrupted(folder)
    url = remote_url(folder)
    if url is None:
        return
    names = list(objects.list_names(url))
    for name in sorted(name.removesuffix(".json") for name in names if "/" not in name and name.endswith(".json")):
        try:
            pull(folder, name)
            manifest = read_manifest(folder / f"{name}.json")
        except ModelError:
            continue  # loading it says what is wrong
        for suffix, key in zip(REPORT, _report_keys(manifest), strict=True):
            if key in names and manifest.version != _mirrored(folder, name).get(suffix):
                _copy_here(f"{url}/{key}", folder / f"{name}{suffix}")
                _remember(folder, name, {suffix: manifest.version})


def pull(folder: Path, name: str) -> None:
    """Copies the model in place and the manifests of its earlier versions, if it was published anew."""
    url = remote_url(folder)
    if url is None:
        return
    with locked(folder, name):
        entity = clients.entity(f"{url}/{name}.json")
        if entity is None or (entity == _mirrored(folder, name).get("entity") and (folder / f"{name}.json").exists()):
            return
        staged = _empty(folder / f".{name}.pulled")
        manifest, entity = _read_remote(url, name, staged)
        for file in manifest.files:
            _copy_file(folder, manifest, file, staged / file)
        for path in staged.iterdir():
            atomic_files.sync_file(path)
        _pull_earlier(url, folder, name)
        ready = ready_folder(folder, name)
        shutil.rmtree(ready, ignore_errors=True)
        staged.rename(ready)
        finish_interrupted(folder, name)
        _remember(folder, name, {"entity": entity})


def push(folder: Path, staged: Path, manifest: Manifest, *, based_on_mirror: bool) -> clients.Entity | None:
    """Publishes a version: its files, which are staged or in the folder, and its manifest as the last.

    `based_on_mirror`: it changes the version that is mirrored, so that it must not replace another one. Returns what
    `finish_push` needs once the version is in the folder too; None without a mirror.
    """
    url, name = remote_url(folder), manifest.name
    if url is None:
        return None
    _push_files(url, folder, staged, manifest)
    data = json.dumps(asdict(manifest), indent=2).encode() + b"\n"
    for _ in range(ATTEMPTS):
        entity = clients.entity(f"{url}/{name}.json")
        if based_on_mirror and entity != _mirrored(folder, name).get("entity"):
            raise ModelError(f"model {name} was published by another process meanwhile: run the same command again")
        if entity is not None:
            _archive(url, name, manifest.version)
        if published := clients.put(f"{url}/{name}.json", data, if_absent=entity is None, replaces=entity):
            _push_files(url, folder, staged, manifest)  # again what others deleted while it was of no version
            return published
    raise ModelError(f"model {name} is published by other processes all the time: run the same command again")


def finish_push(folder: Path, manifest: Manifest, entity: clients.Entity | None) -> None:
    """Remembers that the version is mirrored, which a killed process or an outage may prevent: it is copied then."""
    if (url := remote_url(folder)) and entity:
        _remember(folder, manifest.name, {"entity": entity})
        try:
            _prune(url, manifest)
        except (StorageError, ModelError) as error:
            log.warning("model %s is published, and its oldest versions are not deleted: %s", manifest.name, error)


def _push_files(url: str, folder: Path, staged: Path, manifest: Manifest) -> None:
    present = {*objects.list_names(f"{url}/{manifest.name}/files")}
    for file, sha256 in manifest.files.items():
        if f"{sha256}/{file}" not in present:
            path = staged / file if (staged / file).exists() else folder / file
            _copy_there(path, f"{url}/{_file_key(manifest.name, file, sha256)}")


def push_report(folder: Path, manifest: Manifest) -> None:
    """Copies the evaluation beside the manifest to the object store."""
    if url := remote_url(folder):
        for suffix, key in zip(REPORT, _report_keys(manifest), strict=True):
            _copy_there(folder / f"{manifest.name}{suffix}", f"{url}/{key}")
        _remember(folder, manifest.name, dict.fromkeys(REPORT, manifest.version))


def fetch_version(folder: Path, name: str, path: Path) -> None:
    """Copies the files of an earlier version, of which the mirror has only the manifest, into its folder."""
    url = remote_url(folder)
    if url is None or path == folder:
        return
    manifest = read_manifest(path / f"{name}.json")
    for file in manifest.files:
        if not (path / file).exists():
            _copy_file(folder, manifest, file, path / file)
    for suffix, key in zip(REPORT, _report_keys(manifest), strict=True):
        if not (path / f"{name}{suffix}").exists() and objects.exists(f"{url}/{key}"):
            _copy_here(f"{url}/{key}", path / f"{name}{suffix}")


def _pull_earlier(url: str, folder: Path, name: str) -> None:
    """Makes the earlier versions here those of the object store: the folder of a new one has its manifest only."""
    remote = {file.removesuffix(".json") for file in objects.list_names(f"{url}/{name}/earlier")}
    here = {path.name: path for path in versions.version_folders(folder, name).values()}
    for entry in here.keys() - remote:
        shutil.rmtree(here[entry])
    for entry in remote:
        path = versions.archive_folder(folder, name) / entry / f"{name}.json"
        if not path.exists():  # its folder may, of a run that ended before its manifest was here
            data = objects.read_bytes(f"{url}/{name}/earlier/{entry}.json")
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_files.write_bytes(path, data)


def _archive(url: str, name: str, new_version: str) -> None:
    """Lists the version in place among the earlier ones, unless it is the new one."""
    data = objects.read_bytes(f"{url}/{name}.json")
    version = parse_manifest(data, name).version
    entries = list(objects.list_names(f"{url}/{name}/earlier"))
    if version != new_version and not any(f".{version}." in entry for entry in entries[-1:]):
        number = 1 + max((int(entry.partition(".")[0]) for entry in entries), default=0)
        objects.write_bytes(f"{url}/{name}/earlier/{number:04}.{version}.json", data)


def _prune(url: str, manifest: Manifest) -> None:
    """Deletes all but the most recent earlier versions, with the files that none of the others has.

    What is listed of the version in place is left: another publisher, which is about to replace it, may have listed it.
    """
    name, deleted = manifest.name, list[Manifest]()
    entries = [*objects.list_names(f"{url}/{name}/earlier")]
    kept = [parse_manifest(objects.read_bytes(f"{url}/{name}.json"), name)]  # perhaps of another publisher by now
    for entry in reversed(entries):
        key = f"{url}/{name}/earlier/{entry}"
        try:
            earlier = parse_manifest(objects.read_bytes(key), name)
        except StorageMissing:
            continue  # another publisher has deleted it
        if earlier.version == kept[0].version:
            continue
        if len(kept) > versions.KEPT or any(earlier.version == other.version for other in kept):
            objects.delete(key)
            deleted.append(earlier)
        else:
            kept.append(earlier)
    for keys in (_file_keys, _report_keys):
        for key in {*chain(*map(keys, deleted))} - {*chain(*map(keys, [*kept, manifest]))}:
            objects.delete(f"{url}/{key}")


def _read_remote(url: str, name: str, staged: Path) -> tuple[Manifest, clients.Entity]:
    """The manifest in place, written to the staged files, and what identifies it."""
    while True:
        entity = clients.entity(f"{url}/{name}.json")
        data = objects.read_bytes(f"{url}/{name}.json")
        if entity is not None and entity == clients.entity(f"{url}/{name}.json"):
            (staged / f"{name}.json").write_bytes(data)
            return read_manifest(staged / f"{name}.json"), entity


def _copy_file(folder: Path, manifest: Manifest, file: str, target: Path) -> None:
    """A file of a version: linked where it is in place already, or copied from the object store; verified."""
    name, sha256 = manifest.name, manifest.files[file]
    if (folder / file).is_file() and atomic_files.file_sha256(folder / file) == sha256:
        versions.link(folder / file, target)
        return
    key = f"{remote_url(folder)}/{_file_key(name, file, sha256)}"
    try:
        _copy_here(key, target)
    except StorageMissing as error:
        raise ModelError(f"model {name}: {key} is missing: {RETRAIN}") from error
    if atomic_files.file_sha256(target) != sha256:
        target.unlink()
        raise ModelError(f"model {name}: {key} does not match the SHA-256 in its manifest: {RETRAIN}")


def _copy_here(key: str, target: Path) -> None:
    with atomic_files.replacing(target) as part, objects.open_reader(key) as source, part.open("wb") as file:
        shutil.copyfileobj(source, file, COPY_BYTES)


def _copy_there(path: Path, key: str) -> None:
    with path.open("rb") as source, objects.open_writer(key) as file:
        while data := source.read(COPY_BYTES):
            file.write(data)


def _mirrored(folder: Path, name: str) -> dict[str, Any]:
    """What is mirrored: the entity of the manifest, and the versions of the evaluation."""
    try:
        state = json.loads((folder / f".{name}.mirrored").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _remember(folder: Path, name: str, changes: dict[str, Any]) -> None:
    atomic_files.write_text(folder / f".{name}.mirrored", json.dumps(_mirrored(folder, name) | changes))


def _file_keys(manifest: Manifest) -> list[str]:
    return [_file_key(manifest.name, file, sha256) for file, sha256 in manifest.files.items()]


def _file_key(name: str, file: str, sha256: str) -> str:
    return f"{name}/files/{sha256}/{file}"


def _report_keys(manifest: Manifest) -> list[str]:
    return [f"{manifest.name}/reports/{manifest.version}{suffix}" for suffix in REPORT]


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
