"""A model on disk: its files, and the manifest that vouches for them. Saved whole or not at all, loaded only if true.

A new model is first made whole in a folder beside its place, then that folder is renamed (the moment it counts),
then its files are moved into place. Whoever comes next finishes a move that was cut short, so a crash loses neither
the old model nor the new one.
"""

import contextlib
import datetime as dt
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from astrodetect.errors import ModelError, ModelMissing
from astrodetect.records import ImageContract, Pixels

MANIFEST_FORMAT = 1
TRAIN_COMMAND = "python train_model.py"
SERVED = (".xml", ".bin")  # kept as the bytes that were checked, so that nothing can change in between


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of a model: enough to serve it rightly and to say where it came from."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    classes: list[str]  # in the order of their numbers: classes[1] is the positive one
    image: ImageContract
    metrics: dict[str, dict[str, float]]  # part of the data → figure → value
    data: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    canary_score: float = float("nan")  # the score of `canary()`: a network that gives another is not this one
    threshold: float = 0.5
    files: dict[str, str] = field(default_factory=dict)  # name → sha256
    created: str = field(default_factory=lambda: dt.datetime.now(dt.UTC).isoformat(timespec="seconds"))
    task: str = "binary"
    format: int = MANIFEST_FORMAT

    @property
    def version(self) -> str:
        """A short name for exactly these weights."""
        return self.files[f"{self.name}.h5"][:12]

    @property
    def positive(self) -> str:
        """The class whose probability is the score."""
        return self.classes[1]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model that can be served: its manifest, and its network as bytes that were checked."""

    manifest: Manifest
    xml: bytes
    weights: bytes


def canary(size: int) -> Pixels:
    """An image that is the same everywhere: soft blobs and a gradient, to ask a network whether it is itself."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float64) / size
    bands = [
        np.exp(-((x - a) ** 2 + (y - b) ** 2) * 12) * 200 + 40 * x for a, b in ((0.5, 0.5), (0.4, 0.6), (0.7, 0.3))
    ]
    return np.stack(bands, axis=-1).astype(np.uint8)


@contextlib.contextmanager
def staging(folder: Path, name: str) -> Iterator[Path]:
    """An empty folder beside the place of a model, to make its files in."""
    place = folder / f".{name}.staging"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def publish(staged: Path, folder: Path, manifest: Manifest) -> None:
    """Makes the staged files the model of that name in `folder`, in one stroke, an older one replaced."""
    finish_interrupted(folder, manifest.name)
    sums = {path.name: _sha256(path) for path in sorted(staged.iterdir())}
    vouched = json.dumps(asdict(replace(manifest, files=sums)), indent=2) + "\n"
    (staged / f"{manifest.name}.json").write_text(vouched, encoding="utf-8")
    for path in staged.iterdir():
        flush(path)
    staged.rename(_ready(folder, manifest.name))
    finish_interrupted(folder, manifest.name)


def finish_interrupted(folder: Path, name: str) -> None:
    """Moves the files of a model that was made whole but not yet moved into place; the manifest goes last."""
    ready = _ready(folder, name)
    if not ready.is_dir():
        return
    with contextlib.suppress(FileNotFoundError):  # another process finishes the same move
        for path in sorted(ready.iterdir(), key=lambda path: path.suffix == ".json"):
            with contextlib.suppress(FileNotFoundError):
                path.replace(folder / path.name)
        ready.rmdir()


def load(folder: Path, name: str) -> Bundle:
    """The model of that name, if every file is the one that its manifest vouches for."""
    try:
        finish_interrupted(folder, name)
    except OSError as error:
        raise ModelError(f"model {name}: its new files cannot be moved into {folder.name}: {error.strerror}") from error
    manifest = read_manifest(folder / f"{name}.json")
    try:
        return _verified(folder, manifest)
    except ModelError:
        now = read_manifest(folder / f"{name}.json")
        if now == manifest:
            raise
        return _verified(folder, now)  # another process published a new one meanwhile


def _verified(folder: Path, manifest: Manifest) -> Bundle:
    name = manifest.name
    contents = {}
    for file, expected in manifest.files.items():
        try:
            if Path(file).suffix in SERVED:
                contents[Path(file).suffix] = content = (folder / file).read_bytes()
                found = hashlib.sha256(content).hexdigest()
            else:
                found = _sha256(folder / file)
        except OSError as error:
            raise ModelError(f"model {name}: {file} cannot be read ({error.strerror}): {_again()}") from error
        if found != expected:
            raise ModelError(f"model {name}: {file} is not the file that its manifest vouches for: {_again()}")
    try:
        return Bundle(manifest, contents[".xml"], contents[".bin"])
    except KeyError as error:
        raise ModelError(f"model {name}: its manifest names no {error.args[0]} file: {_again()}") from error


def manifests(folder: Path) -> Iterator[Manifest]:
    """Every model that has a readable manifest here, by name."""
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(ModelError):
            yield read_manifest(path)


def read_manifest(path: Path) -> Manifest:
    """The manifest in this file, or one clear line on what is wrong with it."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelMissing(f"no model {path.stem} yet: {TRAIN_COMMAND} makes one from your images") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name} cannot be read: {_again()}") from error
    if not isinstance(fields, dict) or fields.get("format") != MANIFEST_FORMAT:
        raise ModelError(f"{path.name} is not a manifest that this version reads: {_again()}")
    try:
        manifest = TypeAdapter(Manifest).validate_python(fields)
    except ValidationError as error:
        wrong = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ModelError(f"{path.name} is not whole, its {wrong} is wrong: {_again()}") from error
    known = ImageContract(size=manifest.image.size, crop=manifest.image.crop)
    if fields["image"] != asdict(known):
        raise ModelError(f"model {path.stem} wants its images prepared in a way this version does not know: {_again()}")
    strays = [file for file in manifest.files if Path(file).name != file]
    if strays or manifest.name != path.stem or len(manifest.classes) != 2 or f"{path.stem}.h5" not in manifest.files:
        raise ModelError(f"{path.name} is not the manifest of this model: {_again()}")
    return manifest


def _again() -> str:
    return f"train it again with {TRAIN_COMMAND}"


def _ready(folder: Path, name: str) -> Path:
    return folder / f".{name}.ready"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Waits until the file's bytes are on the disk, so that the rename that follows never outruns them."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
