"""Exporting a trained model: OpenVINO IR, post-training quantisation, and measured fidelity to the trained model.

A lower precision serves only if its decisions and scores on held-out images are close enough to those in training.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from astrodetect.errors import ModelError
from astrodetect.evaluation import metrics
from astrodetect.evaluation.calibration import Calibration
from astrodetect.inference.engine import CORE, SCORE, Engine, has_bf16, save_network
from astrodetect.learning.convert import to_openvino
from astrodetect.learning.keras_runtime import keras
from astrodetect.model_store import store
from astrodetect.model_store.manifest import NOVELTY, Fidelity, Manifest, Precision, canary
from astrodetect.model_store.publication import INT8
from astrodetect.model_store.store import VerifiedModel, staging
from astrodetect.progress import ProgressBar
from astrodetect.records import Floats, ImageContract, Outputs, as_probabilities

CALIBRATION_IMAGES = 100  # for quantisation; more only take longer
EAGER_IMAGES = 32  # fewer repay no compilation, which takes 3 s for a ResNet50
MAX_SCORE_DIFFERENCE = 0.01  # between the trained model and its float32 export
# What a lower precision must reach to serve:
MIN_SAME_DECISIONS = 0.995  # share
MAX_AUC_CHANGE = 0.002
MIN_R_SQUARED = 0.98  # of features and of activation maps


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Images not trained on, their labels, and the trained model's probabilities."""

    pixels: NDArray[np.uint8]  # (n, size, size, 3)
    labels: NDArray[np.int64]
    probabilities: Floats  # (n, classes)


class TrainedModel(Protocol):
    """A trained model that can be exported."""

    def probabilities(self, pixels: NDArray[np.uint8]) -> Floats:
        """(n, classes)"""

    def calibrate(self, calibration: Calibration) -> None:
        """Change the probabilities as the calibration does."""

    def write(self, folder: Path, name: str) -> None:
        """Write NAME.xml and NAME.bin, which serve, and the source format if there is one."""


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """A trained Keras network."""

    keras: keras.Model

    def probabilities(self, pixels: NDArray[np.uint8]) -> Floats:
        """(n, classes)"""
        if len(pixels) < EAGER_IMAGES:
            outputs = keras.ops.convert_to_numpy(self.keras(pixels, training=False))
        else:
            outputs = self.keras.predict(pixels, verbose=0)
        return as_probabilities(np.asarray(outputs, dtype=np.float32))

    def calibrate(self, calibration: Calibration) -> None:
        """Calibrate by the head's weights, so that Keras, the service and the activation map agree."""
        head, bias = self.keras.get_layer(SCORE), np.array(calibration.bias)
        kernel, offset = (weights / calibration.temperature for weights in head.get_weights())
        head.set_weights([kernel, offset + (bias if len(offset) > 1 else bias[1:] - bias[:1])])

    def write(self, folder: Path, name: str) -> None:
        """Write Keras's `.h5` and OpenVINO's IR."""
        self.keras.save(folder / f"{name}.h5", include_optimizer=False)
        to_openvino(self.keras, folder / f"{name}.xml")


def export_model(
    model: TrainedModel,
    manifest: Manifest,
    folder: Path,
    held_out: HeldOut,
    *,
    calibration_images: NDArray[np.uint8] | None = None,
    evaluate: Callable[[Engine], dict[str, dict[str, float]]] = lambda _: {},
    write_novelty: Callable[[Path], object] = lambda _: None,
) -> Manifest:
    """Write the model's files, check that the service will score `held_out` as the model does, and publish them.

    Given calibration images, int8 serves if it is close enough, else bf16, else float32. `evaluate` returns the
    manifest's metrics of the network that serves; `write_novelty` may write novelty detectors to the given path.
    """
    canary_score = float(model.probabilities(canary(manifest.image.size)[np.newaxis])[0, 1])
    manifest = replace(manifest, canary_score=canary_score)
    with staging(folder, manifest.name) as staged:
        xml = staged / f"{manifest.name}.xml"
        model.write(staged, manifest.name)
        engine = Engine(_load(manifest, xml, "f32"), views=1)
        exact = engine.run_all(held_out.pixels)
        difference = float(np.abs(exact.probabilities - held_out.probabilities).max())
        if not difference <= MAX_SCORE_DIFFERENCE:
            raise ModelError(
                f"the exported network's scores differ from the trained model's by {difference:.3f}: "
                "nothing was changed"
            )
        if calibration_images is not None:
            manifest = choose_precision(manifest, xml, exact, held_out, calibration_images)
            if manifest.precision != "f32":
                network = f"{manifest.name}{INT8}.xml" if manifest.precision == "int8" else xml.name
                engine = Engine(_load(manifest, staged / network, manifest.precision), views=1)
        manifest = manifest.with_metrics(evaluate(engine))
        write_novelty(staged / f"{manifest.name}{NOVELTY}")
        return store.publish(staged, folder, manifest)


def choose_precision(
    manifest: Manifest, xml: Path, exact: Outputs, held_out: HeldOut, calibration_images: NDArray[np.uint8]
) -> Manifest:
    """The manifest with the lowest precision that is close enough, and the fidelity of each that was tried."""
    int8 = xml.with_name(f"{manifest.name}{INT8}.xml")
    quantised = to_int8(CORE.read_model(xml), calibration_images)
    save_network(quantised, int8)
    tried: dict[Precision, Fidelity] = {"int8": measure_fidelity(_load(manifest, int8, "int8"), exact, held_out)}
    if not tried["int8"].kept:
        int8.unlink()
        int8.with_suffix(".bin").unlink()
    if has_bf16():
        tried["bf16"] = measure_fidelity(_load(manifest, xml, "bf16"), exact, held_out)
    accepted: list[Precision] = [precision for precision, fidelity in tried.items() if fidelity.kept]
    return replace(manifest, precision=[*accepted, "f32"][0], fidelity=tried)


def measure_fidelity(low: VerifiedModel, exact: Outputs, held_out: HeldOut) -> Fidelity:
    """How close a low-precision network is to the trained model, and whether that is close enough."""
    engine, manifest = Engine(low, check=False, views=1), low.manifest
    outputs = engine.run_all(held_out.pixels)
    differences = np.abs(outputs.probabilities - held_out.probabilities).max(axis=1)
    same = manifest.predict(outputs.probabilities) == manifest.predict(held_out.probabilities)
    auc, exact_auc = (
        metrics.multiclass_metrics(held_out.labels, probabilities, manifest.classes)["auc"]
        for probabilities in (outputs.probabilities, held_out.probabilities)
    )
    same_share, auc_change = float(same.mean()), auc - exact_auc
    features = r_squared(outputs.features, exact.features)
    maps = r_squared(outputs.maps, exact.maps)
    return Fidelity(
        kept=same_share >= MIN_SAME_DECISIONS
        and not abs(auc_change) > MAX_AUC_CHANGE
        and min(features, maps) >= MIN_R_SQUARED,
        canary_score=engine.canary(),
        images=len(differences),
        same_decisions=same_share,
        largest_difference=float(differences.max()),
        mean_difference=float(differences.mean()),
        auc_difference=auc_change,
        features=features,
        maps=maps,
    )


def r_squared(values: Floats, exact: Floats) -> float:
    """Coefficient of determination, over all images together.

    Cosine similarity would flatter features, which all point the same way, and is undefined for a map that is zero.
    """
    error = np.square(values - exact, dtype=np.float64).sum()
    variation = np.square(exact - exact.mean(axis=0), dtype=np.float64).sum()
    return float(1 - error / max(variation, np.finfo(np.float64).tiny))


def to_int8(network: Any, pixels: NDArray[np.uint8]) -> Any:
    """Post-training quantisation of an OpenVINO network, calibrated on these images: see docs/decisions/models.md."""
    import nncf  # noqa: PLC0415 - takes seconds to load
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters  # noqa: PLC0415
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet  # noqa: PLC0415

    logging.getLogger("nncf").setLevel(logging.ERROR)
    with (
        ProgressBar("trying int8", len(pixels)) as bar,
        contextlib.redirect_stdout(io.StringIO()),
    ):  # NNCF prints bars too

        def as_batch(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
            bar.step()
            return image[np.newaxis]

        return nncf.quantize(
            network,
            nncf.Dataset(pixels, as_batch),
            subset_size=len(pixels),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=list(_float_operations(network))),
            advanced_parameters=AdvancedQuantizationParameters(
                # The mean of the images' extremes would clip the brightest galaxies.
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                disable_bias_correction=True,  # it made scores differ more, and takes half the time
            ),
        )


def _float_operations(network: Any) -> Iterator[str]:
    """The names of the operations that int8 would cost decisions, and that stay in float.

    The first convolution, because faint galaxies are in the lowest levels of the pixels. The head. The residual
    additions, because each passes its rounding on to all later blocks; except those of the first stage, which are the
    largest in memory and the least sensitive.
    """
    nodes = network.get_ordered_ops()
    convolutions = [node for node in nodes if node.get_type_name() == "Convolution"]
    outputs = network.output(SCORE).get_partial_shape()[1].get_length()  # as many channels as the map's convolution has
    yield convolutions[0].get_friendly_name()
    for node in nodes:
        if node.get_type_name() == "MatMul" or (node in convolutions and _channels(node) == outputs):
            yield node.get_friendly_name()
    additions = [node for node in nodes if node.get_type_name() == "Add" and not _has_constant(node)]
    for node in additions:
        if _channels(node) > _channels(additions[0]):
            yield node.get_friendly_name()


def _channels(node: Any) -> int:
    return int(node.output(0).get_partial_shape()[1].get_length())


def _has_constant(node: Any) -> bool:
    return any(entry.get_source_output().get_node().get_type_name() == "Constant" for entry in node.inputs())


def features_engine(model: keras.Model, contract: ImageContract, views: int = 1) -> Engine:
    """An engine that runs an untrained or unpublished network for its features, in the fastest precision here."""
    classes = [str(number) for number in range(max(2, model.output_shape[-1]))]
    manifest = Manifest("features", classes, contract, metrics={}, data={}, settings={}, versions={}, views=views)
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "features.xml"
        to_openvino(model, xml)
        return Engine(_load(manifest, xml, "bf16" if has_bf16() else "f32"), check=False)


def _load(manifest: Manifest, xml: Path, precision: Precision) -> VerifiedModel:
    return VerifiedModel(manifest, xml.read_bytes(), xml.with_suffix(".bin").read_bytes(), precision)
