"""The trained network as OpenVINO IR: probability, pooled features and activation map from one pass.

In low precision too, where it decides as Keras does: measured here, on images that were held out.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from astrodetect.errors import ModelError
from astrodetect.evaluation import metrics
from astrodetect.inference.engine import SCORE, Engine, has_bf16, openvino
from astrodetect.learning import quantise
from astrodetect.learning.convert import to_openvino
from astrodetect.model_store import store
from astrodetect.model_store.store import INT8, NOVELTY, Fidelity, Manifest, Precision, VerifiedModel, canary, staging
from astrodetect.records import Floats, ImageContract, Outputs, as_probabilities

AGREEMENT = 0.01  # largest difference allowed between a score in Keras and in float32 in the service
# What a lower precision must keep to serve:
SAME_DECISIONS = 0.995  # of the decisions
AUC_CHANGE = 0.002  # at most
FAITHFUL = 0.98  # of what tells features, and places of activation maps, from each other


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Images that were not learnt from, what they are, and what the model says of them where it was trained."""

    pixels: NDArray[np.uint8]  # (n, size, size, 3)
    labels: NDArray[np.int64]
    probabilities: Floats  # (n, classes)


class TrainedModel(Protocol):
    """What has learnt, and can be published."""

    def probabilities(self, pixels: NDArray[np.uint8]) -> Floats:
        """(n, classes)"""

    def calibrate(self, temperature: float) -> None:
        """Divides what it says, as logits, by this."""

    def write(self, folder: Path, name: str) -> None:
        """Makes NAME.xml and NAME.bin, which serve, and what else there is to keep."""


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """A network of Keras's, as it is published."""

    keras: keras.Model

    def probabilities(self, pixels: NDArray[np.uint8]) -> Floats:
        """(n, classes)"""
        return as_probabilities(np.asarray(self.keras.predict(pixels, verbose=0), dtype=np.float32))

    def calibrate(self, temperature: float) -> None:
        """Divides the head's weights, so that Keras, the service and the activation map agree."""
        head = self.keras.get_layer(SCORE)
        head.set_weights([weights / temperature for weights in head.get_weights()])

    def write(self, folder: Path, name: str) -> None:
        """The `.h5` that Keras opens, and what serves."""
        self.keras.save(folder / f"{name}.h5", include_optimizer=False)
        to_openvino(self.keras, folder / f"{name}.xml")


def publish(
    model: TrainedModel,
    manifest: Manifest,
    folder: Path,
    held: HeldOut,
    *,
    calibration: NDArray[np.uint8] | None = None,
    measure: Callable[[Engine], dict[str, dict[str, float]]] = lambda _: {},
    carry: Callable[[Path], object] = lambda _: None,
) -> Manifest:
    """Makes the model's files, sees that the service will answer `held` as the model does, and puts them in place.

    With images to calibrate by, int8 serves where it is close enough, else bf16, else float32. `measure` gives the
    figures that the manifest keeps, of what serves; `carry` may write the detectors of the unusual to the path given.
    """
    canary_score = float(model.probabilities(canary(manifest.image.size)[np.newaxis])[0, 1])
    manifest = replace(manifest, canary_score=canary_score)
    with staging(folder, manifest.name) as staged:
        xml = staged / f"{manifest.name}.xml"
        model.write(staged, manifest.name)
        engine = Engine(_bundle(manifest, xml, "f32"))
        exact = engine.run_all(held.pixels)
        difference = float(np.abs(exact.probabilities - held.probabilities).max())
        if not difference <= AGREEMENT:
            raise ModelError(
                f"in the service the scores would differ from the trained model's by {difference:.3f}: "
                "nothing was changed"
            )
        if calibration is not None:
            manifest = choose(manifest, xml, exact, held, calibration)
            if manifest.precision != "f32":
                network = f"{manifest.name}{INT8}.xml" if manifest.precision == "int8" else xml.name
                engine = Engine(_bundle(manifest, staged / network, manifest.precision))
        manifest = replace(manifest, metrics=measure(engine))
        carry(staged / f"{manifest.name}{NOVELTY}")
        return store.publish(staged, folder, manifest)


def choose(manifest: Manifest, xml: Path, exact: Outputs, held: HeldOut, calibration: NDArray[np.uint8]) -> Manifest:
    """The manifest with the lowest precision that is close enough, whose files stand beside `xml`, and every trial."""
    int8 = xml.with_name(f"{manifest.name}{INT8}.xml")
    openvino.save_model(quantise.to_int8(openvino.Core().read_model(xml), calibration), int8, compress_to_fp16=False)
    tried: dict[Precision, Fidelity] = {"int8": fidelity(_bundle(manifest, int8, "int8"), exact, held)}
    if not tried["int8"].kept:
        int8.unlink()
        int8.with_suffix(".bin").unlink()
    if has_bf16():
        tried["bf16"] = fidelity(_bundle(manifest, xml, "bf16"), exact, held)
    kept: list[Precision] = [precision for precision, trial in tried.items() if trial.kept]
    return replace(manifest, precision=[*kept, "f32"][0], fidelity=tried)


def fidelity(low: VerifiedModel, exact: Outputs, held: HeldOut) -> Fidelity:
    """How close a network of low precision comes, and whether that is close enough."""
    engine, manifest = Engine(low, check=False), low.manifest
    found = engine.run_all(held.pixels)
    differences = np.abs(found.probabilities - held.probabilities).max(axis=1)
    same = float((manifest.decides(found.probabilities) == manifest.decides(held.probabilities)).mean())
    areas = [
        metrics.multiclass_metrics(held.labels, said, manifest.classes)["auc"]
        for said in (found.probabilities, held.probabilities)
    ]
    auc_change = areas[0] - areas[1]
    features = kept_share(found.features, exact.features)
    maps = kept_share(found.maps, exact.maps)
    return Fidelity(
        kept=same >= SAME_DECISIONS and not abs(auc_change) > AUC_CHANGE and min(features, maps) >= FAITHFUL,
        canary_score=engine.canary(),
        images=len(differences),
        same_decisions=same,
        largest_difference=float(differences.max()),
        mean_difference=float(differences.mean()),
        auc_difference=auc_change,
        features=features,
        maps=maps,
    )


def kept_share(found: Floats, exact: Floats) -> float:
    """One less the square of the error, as a share of how the exact values vary from image to image.

    A cosine would flatter features, which all point the same way, and mean nothing for a map that is almost zero.
    """
    error = np.square(found - exact, dtype=np.float64).sum()
    spread = np.square(exact - exact.mean(axis=0), dtype=np.float64).sum()
    return float(1 - error / max(spread, np.finfo(np.float64).tiny))


def _bundle(manifest: Manifest, xml: Path, precision: Precision) -> VerifiedModel:
    return VerifiedModel(manifest, xml.read_bytes(), xml.with_suffix(".bin").read_bytes(), precision)


def features_engine(model: keras.Model, contract: ImageContract) -> Engine:
    """The network as it is now, compiled as fast as this processor allows, for its features."""
    manifest = Manifest(
        name="features", classes=["0", "1"], image=contract, metrics={}, data={}, settings={}, versions={}
    )
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "features.xml"
        to_openvino(model, xml)
        return Engine(_bundle(manifest, xml, "bf16" if has_bf16() else "f32"), check=False)
