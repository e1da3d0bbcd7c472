"""A network that learns from labels: a linear head on the features of a backbone with ImageNet weights.

The features of all images are whitened, and a logistic regression learns from the labelled images, and from unlabelled
ones as weak ordinary ones; both become the head of the network. Heads that have each not seen one fold of the images
give every image a score by a head that has not seen it. By these the published network is judged and calibrated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from astrodetect.anomalies.active_learning import UNLABELLED_WEIGHT, logistic_regression
from astrodetect.anomalies.novelty import Novelty
from astrodetect.anomalies.teaching import FOLDS, TeachingSet
from astrodetect.anomalies.whitening import PcaWhitening
from astrodetect.datasets.dataset import Dataset
from astrodetect.datasets.tables import ListedImage
from astrodetect.evaluation.calibration import Calibration, fit_calibration
from astrodetect.features.extraction import extract_features
from astrodetect.inference.engine import SCORE
from astrodetect.inference.pipeline import network_extractor, read_ahead
from astrodetect.learning import export, network, training
from astrodetect.learning.efficientnet_lite import WEIGHTS_SHA256
from astrodetect.learning.keras_runtime import keras
from astrodetect.model_store.manifest import Manifest
from astrodetect.recipes import NO_NORMALISATION, TEACHING_RECIPE
from astrodetect.records import Floats, ImageContract, as_probabilities
from astrodetect.settings import settings

DIMENSIONS, IMAGES_PER_DIMENSION = 100, 10  # of the whitened features, fewer of few images
PENALTY = 100.0  # L2
MAX_COMPARED_IMAGES = 500  # that exported and trained network are compared on


@dataclass(frozen=True, slots=True)
class Backbone:
    """The network with a head of random weights, and its features of the teaching set (n, width)."""

    model: keras.Model
    features: Floats


@dataclass(frozen=True, slots=True)
class TaughtNetwork:
    """A network that learnt from all labels, calibrated."""

    model: export.TrainedNetwork
    probabilities: Floats  # (n, 2) of each image of the teaching set, by a head that has not seen it, calibrated
    calibration: Calibration


def describe_images(items: Sequence[ListedImage], contract: ImageContract, views: int, title: str) -> Backbone:
    """The backbone's features of images, averaged over so many orientations; cached."""
    model = network.build(TEACHING_RECIPE, contract.size, NO_NORMALISATION, 1)
    network.load_imagenet_weights(model, TEACHING_RECIPE)
    version = f"{TEACHING_RECIPE} {WEIGHTS_SHA256} {views}"
    extractor = network_extractor(export.features_engine(model, contract, views), "network", version)
    extracted = extract_features(
        items,
        extractor,
        settings().descriptions_dir,
        run_batches=read_ahead,
        title=title,
        max_pixels=settings().max_image_pixels,
    )
    return Backbone(model, extracted.features)


def teach_network(backbone: Backbone, images: TeachingSet, labelled: int) -> TaughtNetwork:
    """Fit the head to the teaching set, whose first images are the `labelled` ones."""
    dimensions = max(2, min(DIMENSIONS, len(backbone.features) // IMAGES_PER_DIMENSION))
    whitening = PcaWhitening.fit(backbone.features, dimensions)
    inputs = whitening.transform(backbone.features).astype(np.float64)
    weights = np.where(np.arange(len(inputs)) < labelled, 1.0, UNLABELLED_WEIGHT)
    targets = images.wanted.astype(np.float64)

    def fit(members: NDArray[np.bool_]) -> NDArray[np.float64]:
        return logistic_regression(inputs[members], targets[members], weights[members], PENALTY)

    logits = np.empty(len(inputs))
    for fold in range(FOLDS):
        held_out = images.folds == fold
        *coefficients, intercept = fit(~held_out)
        logits[held_out] = inputs[held_out] @ coefficients + intercept
    probabilities = as_probabilities(np.asarray(expit(logits[:, np.newaxis]), np.float32))
    ordinary = ~images.wanted
    undo_weights = float(np.log(weights[ordinary].sum() / ordinary.sum()))
    calibration = fit_calibration(images.wanted.astype(np.int64), probabilities[np.newaxis], [0.0, undo_weights])
    *coefficients, intercept = fit(np.ones(len(inputs), np.bool_))
    model = export.TrainedNetwork(backbone.model)
    backbone.model.get_layer(SCORE).set_weights(_head(whitening, np.array(coefficients), intercept))
    model.calibrate(calibration)
    return TaughtNetwork(model, calibration.apply(probabilities[np.newaxis])[0], calibration)


def publish_network(
    taught: TaughtNetwork, dataset: Dataset, manifest: Manifest, folder: Path, novelty: Novelty
) -> Manifest:
    """Export the network and publish it with the detectors."""
    order = np.random.default_rng(manifest.settings["seed"]).permutation(len(dataset))[:MAX_COMPARED_IMAGES]
    sample = dataset.subset(order)
    pixels = training.read_pixels(sample, manifest.image)
    return export.export_model(
        taught.model,
        manifest,
        folder,
        export.HeldOut(pixels, sample.labels, taught.model.probabilities(pixels)),
        calibration_images=pixels[: export.CALIBRATION_IMAGES],
        evaluate=lambda _: manifest.metrics,
        write_novelty=novelty.save,
    )


def _head(whitening: PcaWhitening, coefficients: NDArray[np.float64], intercept: float) -> list[Floats]:
    """The weights of a dense layer that does what the whitening and the regression do."""
    scaling = whitening.scaling
    of_standardised = whitening.axes @ coefficients
    kernel = scaling.scale * of_standardised
    bias = intercept - scaling.mean @ kernel - whitening.middle @ of_standardised
    return [kernel[:, np.newaxis].astype(np.float32), np.array([bias], np.float32)]
