"""The manifest of a model: its classes, preprocessing, metrics and provenance, and the SHA-256 of each of its files."""

import contextlib
import datetime as dt
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from astrodetect import atomic_files
from astrodetect.errors import ModelError, ModelMissing
from astrodetect.evaluation.metrics import predict_classes, significant_auc
from astrodetect.records import Floats, ImageContract, Pixels
from astrodetect.settings import TRAIN_COMMAND

MODEL_NAME_PATTERN = r"^\w[\w.-]*$"  # no path traversal
MANIFEST_FORMAT = 1
RETRAIN = f"train it again with {TRAIN_COMMAND}"
NOVELTY = ".novelty.npz"  # suffix of the file of anomaly detectors
SIMULATED = "Trained on simulated images: not validated on real ones"
SIMULATED_TESTED = "Trained on simulated images"  # and tested on real ones
ADAPTED = "Adapted to images that it was not trained on: novelty and domain compare with these, classes may be wrong"
ORDINARY = "ordinary"  # entry of `data`, of a model whose detectors were fitted on other images than the training's
TEACHING = "teaching"  # entry of `data`, of a network that learnt from labels
METRICS = ".metrics.json"  # suffix of an evaluation's metrics, which stand beside the manifests

FILE_SUFFIXES = (".h5", ".xml", ".bin", ".int8.xml", ".int8.bin", NOVELTY)  # of what a manifest may list
MAX_INPUT_SIZE = 4_096  # pixels; the canary image is made before the network is run
PRIOR_ROUNDING = 0.005  # by which the shares of all classes may differ from 1 together

Precision = Literal["int8", "bf16", "f32"]
ModelTask = Literal["binary", "classes"]  # anomaly or not; one of several classes


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Agreement of a low-precision network with Keras and float32 on held-out images."""

    kept: bool  # close enough to serve
    canary_score: float
    images: int
    same_decisions: float  # share of the images that Keras classifies alike
    largest_difference: float  # of a score from Keras's
    mean_difference: float
    auc_difference: float  # NaN where the images are of one class
    features: float  # share of the distances between images' features that is preserved: 1 where nothing is lost
    maps: float  # the same for the activation maps, pixel by pixel


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything needed to serve a model correctly and to know where it comes from."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    classes: list[str]  # by index; the positive class of a binary model is classes[1]
    image: ImageContract
    metrics: dict[str, dict[str, float]]  # part of the data → metric → value
    data: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    canary_score: float = float("nan")  # the network's score of `canary()`, checked when it is loaded
    precision: Precision = "f32"  # the default for serving
    fidelity: dict[Precision, Fidelity] = field(default_factory=dict)  # of each low precision that was measured
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5  # binary models: an anomaly where score > threshold
    # Calibration, which the networks' weights include already: logits / temperature + bias of each class; and the share
    # of each class in the images that it was fitted to, at which the probabilities hold.
    temperature: float = 1.0
    bias: list[float] = field(default_factory=list)
    balance: dict[str, Annotated[float, Field(ge=0, le=1)]] = field(default_factory=dict)  # empty: not recorded
    views: Annotated[int, Field(ge=1, le=8)] = 1  # orientations of each image that outputs are averaged over
    files: dict[str, str] = field(default_factory=dict)  # name → SHA-256
    created: str = field(default_factory=lambda: dt.datetime.now(dt.UTC).isoformat(timespec="seconds"))
    task: ModelTask = "binary"
    recipe: str = "resnet50"
    format: int = MANIFEST_FORMAT
    simulated: bool | None = None  # whether most training images are simulated; None where it was not recorded
    better_than_chance: bool | None = None  # on the test images; None where it was not measured
    signatures: dict[str, str] = field(default_factory=dict)  # public key → signature of everything above

    @property
    def warnings(self) -> list[str]:
        """What everyone who uses the model should know of it."""
        warnings = [ADAPTED] if self.adapted else []
        if self.better_than_chance is False:
            warnings.append(f"No better than chance on its test images: AUC {self.metrics['test']['auc']:.3f}")
        if self.simulated:
            tested = self.data.get("test", {})
            warnings.append(SIMULATED if tested.get("simulated", 1) else SIMULATED_TESTED)
        return warnings

    @property
    def version(self) -> str:
        """The first 12 digits of the SHA-256 of the weights; of an adapted model, of weights and detectors."""
        if self.adapted:
            return hashlib.sha256(f"{self._weights_sha256} {self.space}".encode()).hexdigest()[:12]
        return self._weights_sha256[:12]

    @property
    def evaluations(self) -> set[str]:
        """The versions whose evaluation holds for this one: adapting a model does not change its network."""
        return {self.version, self._weights_sha256[:12]}

    @property
    def adapted(self) -> dict[str, Any] | None:
        """Where the ordinary images come from that replaced the training images of the detectors, if any did."""
        ordinary = self.data.get(ORDINARY)
        return ordinary if isinstance(ordinary, dict) else None

    @property
    def teaching(self) -> dict[str, Any] | None:
        """What a network that learnt from labels learnt from, and how well it ranks."""
        teaching = self.data.get(TEACHING)
        return teaching if isinstance(teaching, dict) else None

    @property
    def ranks(self) -> bool:
        """Whether images are ranked by the score too: it ranked images better that the network had not learnt from."""
        return bool(self.teaching and self.teaching.get("improves"))

    @property
    def _weights_sha256(self) -> str:
        return self.files[f"{self.name}{'.h5' if f'{self.name}.h5' in self.files else '.bin'}"]

    @property
    def space(self) -> str | None:
        """The first 12 digits of the SHA-256 of the anomaly detectors: only vectors of one space are comparable."""
        return self.files.get(f"{self.name}{NOVELTY}", "")[:12] or None

    @property
    def positive(self) -> str | None:
        """The class whose probability is the score of a binary model."""
        return self.classes[1] if self.task == "binary" else None

    def with_metrics(self, metrics: dict[str, dict[str, float]]) -> "Manifest":
        """This manifest with metrics, and whether those of the test images are better than chance."""
        auc, counts = metrics.get("test", {}).get("auc"), self.data.get("test", {}).get("images")
        better = auc > significant_auc(list(counts.values())) if auc and counts else None
        return replace(self, metrics=metrics, better_than_chance=better)

    def prior_weights(self, prior: Mapping[str, float]) -> Floats:
        """The factor of each class's probability that corrects for a class balance other than the calibration's.

        Classes that `prior` leaves out keep their proportions in what is left. ModelError if it does not fit the model.
        """
        if unknown := sorted({*prior} - {*self.classes}):
            raise ModelError(f"prior: model {self.name} has no class {unknown[0]}, only {', '.join(self.classes)}")
        if not all(self.balance.get(name) for name in self.classes):
            raise ModelError(f"model {self.name} does not say at which class balance it was calibrated: {RETRAIN}")
        others = [name for name in self.classes if name not in prior]
        left = 1 - sum(prior.values())
        if left <= 0 if others else abs(left) > PRIOR_ROUNDING:
            raise ModelError(f"prior: the shares of {', '.join(prior)} leave {left:.3g} for the other classes")
        balance = np.array([self.balance[name] for name in self.classes])
        rest = sum(self.balance[name] for name in others)
        wanted = np.array([prior.get(name, left * self.balance[name] / (rest or 1)) for name in self.classes])
        return np.asarray(wanted / balance, dtype=np.float32)

    def predict(self, probabilities: Floats) -> NDArray[np.int64]:
        """Class index of each image from its probabilities (n, classes)."""
        return predict_classes(probabilities, self.threshold if self.task == "binary" else None)

    def expected_canary_score(self, precision: Precision) -> float:
        """The canary's score in this precision; float32's where it was not measured."""
        measured = self.fidelity.get(precision)
        return measured.canary_score if measured else self.canary_score


MANIFEST = TypeAdapter(Manifest)


def canary(size: int) -> Pixels:
    """A fixed test image (Gaussian blobs on a gradient) whose score identifies a network."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float64) / size
    bands = [
        np.exp(-((x - a) ** 2 + (y - b) ** 2) * 12) * 200 + 40 * x for a, b in ((0.5, 0.5), (0.4, 0.6), (0.7, 0.3))
    ]
    return np.stack(bands, axis=-1).astype(np.uint8)


def list_manifests(folder: Path) -> Iterator[Manifest]:
    """Every valid manifest in the folder, by name."""
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(ModelError):
            yield read_manifest(path)


def invalid_manifests(folder: Path) -> dict[str, str]:
    """Model name → error, for each manifest that cannot be read."""
    errors = {}
    for path in sorted(folder.glob("*.json")):
        if not path.name.endswith(METRICS):
            try:
                read_manifest(path)
            except ModelError as error:
                errors[path.stem] = str(error)
    return errors


def read_manifest(path: Path) -> Manifest:
    """Read and validate a manifest; ModelError says what is wrong with it."""
    try:
        atomic_files.refuse_device(path)
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelMissing(f"no model {path.stem} yet: {TRAIN_COMMAND} makes one from your images") from error
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error.strerror}") from error
    return parse_manifest(data, path.stem)


def parse_manifest(data: bytes, name: str) -> Manifest:
    """Validate the manifest of a model; ModelError says what is wrong with it."""
    file = f"{name}.json"
    try:
        fields = json.loads(data)
        json.dumps(fields, ensure_ascii=False).encode()  # half of a surrogate pair could be shown nowhere
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read: {RETRAIN}") from error
    if not isinstance(fields, dict) or fields.get("format") != MANIFEST_FORMAT:
        raise ModelError(f"{file} is not a manifest that this version reads: {RETRAIN}")
    try:
        manifest = MANIFEST.validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"][0] == "image" and first["type"] == "value_error":
            raise ModelError(_unknown_preprocessing(name)) from error
        raise ModelError(_invalid_field(file, ".".join(str(part) for part in first["loc"]))) from error
    if fields["image"] != asdict(manifest.image):
        raise ModelError(_unknown_preprocessing(name))
    if manifest.image.size > MAX_INPUT_SIZE:
        raise ModelError(_invalid_field(file, "image.size"))
    try:
        _ = manifest.warnings  # of fields that may hold anything
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ModelError(_invalid_field(file, "data or metrics")) from error
    outside = manifest.files.keys() - {f"{name}{suffix}" for suffix in FILE_SUFFIXES}
    different = len(set(manifest.classes)) == len(manifest.classes)
    enough_classes = different and (
        len(manifest.classes) == 2 if manifest.task == "binary" else len(manifest.classes) >= 2
    )
    if outside or manifest.name != name or not enough_classes or f"{name}.bin" not in manifest.files:
        raise ModelError(f"{file} is not the manifest of this model: {RETRAIN}")
    return manifest


def _invalid_field(file: str, field_path: str) -> str:
    return f"{file} is incomplete, its field {repr(field_path)[1:-1]} is invalid: {RETRAIN}"


def _unknown_preprocessing(name: str) -> str:
    return f"model {name} needs a preprocessing of its images that this version does not know: {RETRAIN}"
