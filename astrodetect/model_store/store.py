"""Models on disk: published atomically, verified against the manifest when loaded.

A new model is staged in a folder beside its target and that folder renamed, which is the commit; then its files are
moved into place. The next process completes a move that was interrupted, so a crash loses neither the old model nor
the new one. The replaced model is archived as an earlier version.
"""

import contextlib
import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import fasteners

from astrodetect import atomic_files
from astrodetect.errors import ModelError, StorageUnavailable
from astrodetect.model_store import mirror, versions
from astrodetect.model_store.manifest import NOVELTY, ORDINARY, RETRAIN, Manifest, Precision, read_manifest
from astrodetect.model_store.mirror import REPORT
from astrodetect.model_store.publication import INT8, NETWORK, finish_interrupted, ready_folder
from astrodetect.recipes import FOREST
from astrodetect.records import Floats, ImageContract
from astrodetect.settings import settings

CHECKING_THREADS = 4  # hashing 100 MB takes a tenth of a second
log = logging.getLogger(__name__)
_threads, _locked = threading.Lock(), set[Path]()  # the locks that this process holds


@dataclass(slots=True)
class VerifiedModel:
    """A model ready to serve: its manifest, and one of its networks as verified bytes, which an engine may release."""

    manifest: Manifest
    xml: bytes
    weights: bytes
    precision: Precision = "f32"
    novelty: bytes | None = None  # its anomaly detectors
    prior_weights: Floats | None = None  # factors of the probabilities, where another class balance is assumed


@contextlib.contextmanager
def staging(folder: Path, name: str) -> Iterator[Path]:
    """An empty folder beside the model's target, to write its files to."""
    path = folder / f".{name}.staging"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def exclusive_lock(folder: Path, name: str) -> Iterator[None]:
    """Exclusive lock on one model; ModelError if another process or thread holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / f".{name}.lock"
    lock = fasteners.InterProcessLock(path)
    with _threads:  # the system's locks are a process's: any thread would get one again, and end it for all
        try:
            if path in _locked or not lock.acquire(blocking=False):
                raise ModelError(f"another process or request is changing the model {name}")
        except OSError as error:  # it names the path as bytes
            raise OSError(error.errno, error.strerror, str(path)) from error
        _locked.add(path)
    try:
        yield
    finally:
        with _threads:
            lock.release()
            _locked.remove(path)


def publish(staged: Path, folder: Path, manifest: Manifest) -> Manifest:
    """Replace the model of that name in `folder` with the staged files, atomically."""
    finish_interrupted(folder, manifest.name)
    return _commit(staged, folder, replace(manifest, files=_checksums(staged)))


def attach_detectors(
    folder: Path,
    name: str,
    write: Callable[[Path], object],
    contract: ImageContract | None = None,
    version: str | None = None,
    *,
    ordinary: dict[str, Any] | None = None,
) -> Manifest:
    """Add anomaly detectors to a published model; `write` saves them to the path it is called with.

    With `ordinary`, where the images come from that they were fitted on, this is a new version of the model.
    ModelError if the model no longer prepares images by `contract`, as those were that the detectors are fitted on, or
    is no longer the `version` whose network computed their features.
    """
    if settings().require_signed:
        raise ModelError("models have to be signed here: attach detectors where they are signed, and sign them again")
    with exclusive_lock(folder, name):
        manifest = read_current(folder, name)
        if contract and manifest.image != contract:
            raise ModelError(f"{name} was replaced meanwhile by a model that prepares images otherwise: try again")
        if version and manifest.version != version:
            raise ModelError(f"{name} was replaced meanwhile by another version: try again")
        data = {key: value for key, value in manifest.data.items() if key != ORDINARY}
        if ordinary:
            data[ORDINARY] = ordinary
        with staging(folder, name) as staged:
            write(staged / f"{name}{NOVELTY}")
            new = replace(manifest, data=data, files=manifest.files | _checksums(staged))
            return _commit(staged, folder, new, based_on_current=True)


def sign(folder: Path, name: str, key_file: Path) -> Manifest:
    """Add a signature to the current version, whose files are verified before."""
    from astrodetect.model_store import signatures  # noqa: PLC0415 - slow to import, rarely needed

    with exclusive_lock(folder, name):
        manifest = read_current(folder, name)
        verify(folder, manifest, "f32", has_bf16=lambda: False)
        with staging(folder, name) as staged:
            return _commit(staged, folder, signatures.sign(manifest, key_file), based_on_current=True)


def rollback(
    folder: Path,
    name: str,
    version: str | None = None,
    *,
    precision: Precision | Literal["auto"],
    has_bf16: Callable[[], bool],
    trial: Callable[[VerifiedModel], object],
) -> Manifest:
    """Restore an earlier version atomically, by default the most recent one; the present one is archived.

    Nothing changes if `trial` raises a ModelError for the model that would be served.
    """
    mirror.pull(folder, name)
    finish_interrupted(folder, name)
    path = versions.find_version(folder, name, version)  # before the lock, whose file would remain
    try:
        with exclusive_lock(folder, name):
            finish_interrupted(folder, name)
            manifest = read_manifest(path / f"{name}.json")
            if path == folder:
                return manifest
            mirror.fetch_version(folder, name, path)
            _require_signature(manifest)
            trial(verify(path, manifest, precision, has_bf16))
            with staging(folder, name) as staged:
                for file in (*manifest.files, *report_files(path, manifest)):
                    versions.link(path / file, staged / file)
                return _commit(staged, folder, manifest)
    except OSError as error:
        raise ModelError(f"model {name} cannot be rolled back: {error.strerror or error}") from error


def report_page(folder: Path, manifest: Manifest) -> Path | None:
    """The evaluation page of exactly this version, if there is one."""
    page, metrics = (folder / f"{manifest.name}{suffix}" for suffix in REPORT)
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        evaluated = json.loads(metrics.read_text(encoding="utf-8"))["version"]
        if page.is_file() and evaluated in manifest.evaluations:
            return page
    return None


def report_files(folder: Path, manifest: Manifest) -> list[str]:
    """The file names of this version's evaluation: page and metrics, or none."""
    return [f"{manifest.name}{suffix}" for suffix in REPORT] if report_page(folder, manifest) else []


def load(
    folder: Path,
    name: str,
    precision: Precision | Literal["auto"] = "auto",
    *,
    has_bf16: Callable[[], bool],
) -> VerifiedModel:
    """The model of that name, every file checked against the manifest.

    `has_bf16` is called where it matters whether the processor computes in bfloat16.
    """
    while True:
        manifest = read_current(folder, name)
        try:
            _require_signature(manifest)
            return verify(folder, manifest, precision, has_bf16)
        except ModelError:
            if read_current(folder, name).files == manifest.files:
                raise  # else another process has published a new one meanwhile


def verify(
    folder: Path, manifest: Manifest, requested: Precision | Literal["auto"], has_bf16: Callable[[], bool]
) -> VerifiedModel:
    """The network to serve, after checking every file of the model against the manifest."""
    name, precision = manifest.name, _resolve_precision(manifest, requested, has_bf16)
    network = f"{name}{INT8}" if precision == "int8" else name
    network_files, novelty = [f"{network}{suffix}" for suffix in NETWORK], f"{name}{NOVELTY}"
    contents = {}

    def check(file: str) -> None:
        try:
            atomic_files.refuse_device(folder / file)
            if file in {*network_files, novelty}:
                contents[file] = content = (folder / file).read_bytes()
                actual = hashlib.sha256(content).hexdigest()
            else:
                actual = atomic_files.file_sha256(folder / file)
        except OSError as error:
            raise ModelError(f"model {name}: {file} cannot be read ({error.strerror}): {RETRAIN}") from error
        if actual != manifest.files[file]:
            raise ModelError(f"model {name}: {file} does not match the SHA-256 in its manifest: {RETRAIN}")

    with ThreadPoolExecutor(CHECKING_THREADS) as pool:
        list(pool.map(check, manifest.files))  # raises the first error
    try:
        xml, weights = (contents[file] for file in network_files)
    except KeyError as error:
        raise ModelError(f"model {name}: its manifest lists no file {error.args[0]}: {RETRAIN}") from error
    return VerifiedModel(manifest, xml, weights, precision, contents.get(novelty))


def _require_signature(manifest: Manifest) -> None:
    if trusted := settings().require_signed:
        from astrodetect.model_store import signatures  # noqa: PLC0415

        signatures.require_signature(manifest, trusted)


def _resolve_precision(
    manifest: Manifest, requested: Precision | Literal["auto"], has_bf16: Callable[[], bool]
) -> Precision:
    """The requested precision; for "auto" the manifest's, or float32 where the processor lacks bfloat16."""
    precision = manifest.precision if requested == "auto" else requested
    if precision == "int8" and f"{manifest.name}{INT8}.xml" not in manifest.files:
        raise ModelError(f"model {manifest.name} has no int8 network: ask for auto, bf16 or f32, or {RETRAIN}")
    if precision == "bf16" and manifest.recipe == FOREST:
        raise ModelError(f"model {manifest.name} is a forest, whose comparisons need float32: ask for auto or f32")
    if precision == "bf16" and not has_bf16():
        if requested == "auto":
            return "f32"
        raise ModelError("this processor does not compute in bf16: ask for auto or f32")
    return precision


def read_current(folder: Path, name: str) -> Manifest:
    """The manifest, after copying what was published on an object store and completing an interrupted publication."""
    try:
        mirror.pull(folder, name)
    except StorageUnavailable as error:
        if not (folder / f"{name}.json").exists():
            raise
        log.warning("model %s may be out of date: %s", name, error)
    try:
        finish_interrupted(folder, name)
    except OSError as error:
        raise ModelError(f"model {name}: its new files cannot be moved into {folder.name}: {error.strerror}") from error
    return read_manifest(folder / f"{name}.json")


def _commit(staged: Path, folder: Path, manifest: Manifest, *, based_on_current: bool = False) -> Manifest:
    """Write the manifest to the staged files and make them the current model; archive the one they replace.

    Where the folder mirrors an object store, the model is published there first.
    """
    (staged / f"{manifest.name}.json").write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
    for path in staged.iterdir():
        atomic_files.sync_file(path)
    with mirror.locked(folder, manifest.name):
        published = mirror.push(folder, staged, manifest, based_on_mirror=based_on_current)
        _archive_current(folder, manifest)
        staged.rename(ready_folder(folder, manifest.name))
        finish_interrupted(folder, manifest.name)
        mirror.finish_push(folder, manifest, published)
        versions.prune(folder, manifest.name, manifest.version)
    return manifest


def _archive_current(folder: Path, new: Manifest) -> None:
    """Archive the current model unless it is invalid or the same version as the new one."""
    try:
        current = read_manifest(folder / f"{new.name}.json")
        if current.version == new.version:
            return
        verify(folder, current, "f32", has_bf16=lambda: False)
    except ModelError:
        return
    files = (*current.files, *report_files(folder, current), f"{current.name}.json")
    versions.keep(folder, current.name, current.version, files)


def _checksums(staged: Path) -> dict[str, str]:
    return {path.name: atomic_files.file_sha256(path) for path in sorted(staged.iterdir())}
