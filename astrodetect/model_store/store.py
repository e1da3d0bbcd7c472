"""A model on disk: its files, and the manifest that vouches for them. Saved whole or not at all, loaded only if true.

A new model is first made whole in a folder beside its place, then that folder is renamed (the moment it counts),
then its files are moved into place. Whoever comes next finishes a move that was cut short, so a crash loses neither
the old model nor the new one. The model that it replaces is kept, with the last few before it, to go back to.
"""

import contextlib
import datetime as dt
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import fasteners
import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from astrodetect import atomic_files
from astrodetect.errors import ModelError, ModelMissing
from astrodetect.evaluation.metrics import predict_classes
from astrodetect.model_store import archive
from astrodetect.recipes import FOREST
from astrodetect.records import Floats, ImageContract, Pixels

MANIFEST_FORMAT = 1
TRAIN_COMMAND = "python train_model.py"
SERVED = (".xml", ".bin")  # kept as the bytes that were checked, so that nothing can change in between
INT8 = ".int8"  # in the names of the files of an int8 network; f32 and bf16 share the float32 one
NOVELTY = ".novelty.npz"  # ends the name of the file with the detectors of the unusual
NOT_IN_EVERY_MODEL = (".h5", *(f"{INT8}{suffix}" for suffix in SERVED), NOVELTY)
REPORT = (".html", ".metrics.json")  # end the names of an evaluation's page, and of its figures, which name the version

Precision = Literal["int8", "bf16", "f32"]
ModelTask = Literal["binary", "classes"]  # an anomaly or not; which of several classes


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How close a network of low precision came to Keras and to float32, on images held out."""

    kept: bool  # close enough to serve
    canary_score: float
    images: int
    same_decisions: float  # share of them that Keras decides alike
    largest_difference: float  # of a score from Keras's
    mean_difference: float
    auc_difference: float  # NaN where the images are of one class
    features: float  # share of what tells one image's features from another's that is left, 1 where nothing is lost
    maps: float  # the same of the activation maps, place by place


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of a model: enough to serve it rightly and to say where it came from."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    classes: list[str]  # in the order of their numbers: of a binary model classes[1] is the positive one
    image: ImageContract
    metrics: dict[str, dict[str, float]]  # part of the data → figure → value
    data: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    canary_score: float = float("nan")  # the score of `canary()`: a network that gives another is not this one
    precision: Precision = "f32"  # what serves where nothing else is asked for
    fidelity: dict[Precision, Fidelity] = field(default_factory=dict)  # of each low precision that was tried
    threshold: float = 0.5  # of a binary model: an anomaly where its score is above
    temperature: float = 1.0  # what the head's logits were divided by: it is in the networks already
    files: dict[str, str] = field(default_factory=dict)  # name → sha256
    created: str = field(default_factory=lambda: dt.datetime.now(dt.UTC).isoformat(timespec="seconds"))
    task: ModelTask = "binary"
    recipe: str = "resnet50"
    format: int = MANIFEST_FORMAT

    @property
    def version(self) -> str:
        """A short name for exactly these weights."""
        return self.files[f"{self.name}{'.h5' if f'{self.name}.h5' in self.files else '.bin'}"][:12]

    @property
    def space(self) -> str | None:
        """A short name for exactly the detectors that it carries: what they say compares with nothing else."""
        return self.files.get(f"{self.name}{NOVELTY}", "")[:12] or None

    @property
    def positive(self) -> str | None:
        """The class whose probability is the score; None where there are several."""
        return self.classes[1] if self.task == "binary" else None

    def decides(self, probabilities: Floats) -> NDArray[np.int64]:
        """The number of the class that each image (n, classes) is taken for."""
        return predict_classes(probabilities, self.threshold if self.task == "binary" else None)

    def canary_of(self, precision: Precision) -> float:
        """The canary's score in this precision; float32's where nobody measured it."""
        tried = self.fidelity.get(precision)
        return tried.canary_score if tried else self.canary_score


MANIFEST = TypeAdapter(Manifest)


@dataclass(frozen=True, slots=True)
class VerifiedModel:
    """A model that can be served: its manifest, and one of its networks as bytes that were checked."""

    manifest: Manifest
    xml: bytes
    weights: bytes
    precision: Precision = "f32"
    novelty: bytes | None = None  # its detectors of the unusual


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


def publish(staged: Path, folder: Path, manifest: Manifest) -> Manifest:
    """Makes the staged files the model of that name in `folder`, in one stroke, an older one replaced."""
    finish_interrupted(folder, manifest.name)
    return put(staged, folder, replace(manifest, files=_sums(staged)))


def attach(folder: Path, name: str, write: Callable[[Path], object]) -> Manifest:
    """Gives a model that is there its detectors of the unusual, which `write` makes at the path that it is given."""
    with only_one(folder, name):
        finish_interrupted(folder, name)
        manifest = read_manifest(folder / f"{name}.json")
        with staging(folder, name) as staged:
            write(staged / f"{name}{NOVELTY}")
            return put(staged, folder, replace(manifest, files=manifest.files | _sums(staged)))


def report_page(folder: Path, manifest: Manifest) -> Path | None:
    """The page of the evaluation of exactly these weights, if there is one."""
    page, figures = (folder / f"{manifest.name}{suffix}" for suffix in REPORT)
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        if page.is_file() and json.loads(figures.read_text(encoding="utf-8"))["version"] == manifest.version:
            return page
    return None


def report_files(folder: Path, manifest: Manifest) -> list[str]:
    """The names of that page and of its figures, or none."""
    return [f"{manifest.name}{suffix}" for suffix in REPORT] if report_page(folder, manifest) else []


@contextlib.contextmanager
def only_one(folder: Path, name: str) -> Iterator[None]:
    """Keeps two from changing the same model at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = fasteners.InterProcessLock(folder / f".{name}.lock")
    if not lock.acquire(blocking=False):
        raise ModelError(f"the model {name} is being changed by another process")
    try:
        yield
    finally:
        lock.release()


def put(staged: Path, folder: Path, manifest: Manifest) -> Manifest:
    """Makes the staged files, which the manifest vouches for, the model in place, and keeps the one that was."""
    (staged / f"{manifest.name}.json").write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
    for path in staged.iterdir():
        atomic_files.sync_file(path)
    _keep_older(folder, manifest)
    staged.rename(_ready(folder, manifest.name))
    finish_interrupted(folder, manifest.name)
    archive.prune(folder, manifest.name, manifest.version)
    return manifest


def _keep_older(folder: Path, manifest: Manifest) -> None:
    """Unless it is broken, or has the very weights of the new one, which is then no other version of the model."""
    try:
        older = read_manifest(folder / f"{manifest.name}.json")
        if older.version == manifest.version:
            return
        verified(folder, older, "f32")
    except ModelError:
        return
    files = (*older.files, *report_files(folder, older), f"{older.name}.json")
    archive.keep(folder, older.name, older.version, files)


def finish_interrupted(folder: Path, name: str) -> None:
    """Moves the files of a model that was made whole but not yet moved into place; the manifest goes last."""
    ready = _ready(folder, name)
    if not ready.is_dir():
        return
    with contextlib.suppress(FileNotFoundError):  # another process finishes the same move
        vouched = json.loads((ready / f"{name}.json").read_text(encoding="utf-8"))["files"]
        for file in (f"{name}{suffix}" for suffix in NOT_IN_EVERY_MODEL):
            if file not in vouched:
                (folder / file).unlink(missing_ok=True)  # the older model's
        for path in sorted(ready.iterdir(), key=lambda path: path.name == f"{name}.json"):
            with contextlib.suppress(FileNotFoundError):
                path.replace(folder / path.name)
                path.unlink(missing_ok=True)  # two names of the same bytes are left as they are
        ready.rmdir()


def load(folder: Path, name: str, precision: Precision | Literal["auto"] = "auto") -> VerifiedModel:
    """The model of that name, if every file is the one that its manifest vouches for."""
    while True:
        manifest = _newest(folder, name)
        try:
            return verified(folder, manifest, precision)
        except ModelError:
            if _newest(folder, name).files == manifest.files:
                raise  # else another process published a new one meanwhile


def _newest(folder: Path, name: str) -> Manifest:
    """The manifest, once what was published before is in place."""
    try:
        finish_interrupted(folder, name)
    except OSError as error:
        raise ModelError(f"model {name}: its new files cannot be moved into {folder.name}: {error.strerror}") from error
    return read_manifest(folder / f"{name}.json")


def verified(folder: Path, manifest: Manifest, asked: Precision | Literal["auto"] = "auto") -> VerifiedModel:
    """What serves of these files, if every one is the one that the manifest vouches for."""
    name, precision = manifest.name, _usable(manifest, asked)
    network = f"{name}{INT8}" if precision == "int8" else name
    wanted, novelty = [f"{network}{suffix}" for suffix in SERVED], f"{name}{NOVELTY}"
    contents = {}
    for file, expected in manifest.files.items():
        try:
            if file in {*wanted, novelty}:
                contents[file] = content = (folder / file).read_bytes()
                found = hashlib.sha256(content).hexdigest()
            else:
                found = _sha256(folder / file)
        except OSError as error:
            raise ModelError(f"model {name}: {file} cannot be read ({error.strerror}): {_again()}") from error
        if found != expected:
            raise ModelError(f"model {name}: {file} is not the file that its manifest vouches for: {_again()}")
    try:
        xml, weights = (contents[file] for file in wanted)
    except KeyError as error:
        raise ModelError(f"model {name}: its manifest names no file {error.args[0]}: {_again()}") from error
    return VerifiedModel(manifest, xml, weights, precision, contents.get(novelty))


def _usable(manifest: Manifest, asked: Precision | Literal["auto"]) -> Precision:
    """What was asked for, or the best that both the model and this processor have."""
    precision = manifest.precision if asked == "auto" else asked
    if precision == "int8" and f"{manifest.name}{INT8}.xml" not in manifest.files:
        raise ModelError(f"model {manifest.name} has no int8 network: ask for auto, bf16 or f32, or {_again()}")
    if precision == "bf16" and manifest.recipe == FOREST:
        raise ModelError(f"model {manifest.name} is a forest, whose comparisons need float32: ask for auto or f32")
    if precision == "bf16":
        from astrodetect.inference.engine import has_bf16  # noqa: PLC0415 - OpenVINO, where the answer matters

        if not has_bf16():
            if asked == "auto":
                return "f32"
            raise ModelError("this processor does not compute in bf16: ask for auto or f32")
    return precision


def manifests(folder: Path) -> Iterator[Manifest]:
    """Every model that has a readable manifest here, by name."""
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(ModelError):
            yield read_manifest(path)


def unreadable(folder: Path) -> dict[str, str]:
    """The models whose manifests cannot be read, and why."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        if not path.name.endswith(REPORT[-1]):
            try:
                read_manifest(path)
            except ModelError as error:
                found[path.stem] = str(error)
    return found


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
        manifest = MANIFEST.validate_python(fields)
    except ValidationError as error:
        wrong = error.errors()[0]
        if wrong["loc"][0] == "image" and wrong["type"] == "value_error":
            raise ModelError(_unknown_preparation(path.stem)) from error
        place = ".".join(str(part) for part in wrong["loc"])
        raise ModelError(f"{path.name} is not whole, its {place} is wrong: {_again()}") from error
    if fields["image"] != asdict(manifest.image):
        raise ModelError(_unknown_preparation(path.stem))
    strays = [file for file in manifest.files if Path(file).name != file]
    told = len(manifest.classes) == 2 if manifest.task == "binary" else len(set(manifest.classes)) >= 2
    if strays or manifest.name != path.stem or not told or f"{path.stem}.bin" not in manifest.files:
        raise ModelError(f"{path.name} is not the manifest of this model: {_again()}")
    return manifest


def _unknown_preparation(name: str) -> str:
    return f"model {name} wants its images prepared in a way this version does not know: {_again()}"


def _again() -> str:
    return f"train it again with {TRAIN_COMMAND}"


def _sums(staged: Path) -> dict[str, str]:
    return {path.name: _sha256(path) for path in sorted(staged.iterdir())}


def _ready(folder: Path, name: str) -> Path:
    return folder / f".{name}.ready"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
