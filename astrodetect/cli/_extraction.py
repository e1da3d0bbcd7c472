"""What extracts the features that the options of `anomalies` name, and where: in this process or on a Ray cluster."""

import argparse
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astrodetect.anomalies.detectors.registry import DETECTORS, available_detectors, default_detectors
from astrodetect.cli._options import describe_features, print_warnings, refuse_unused
from astrodetect.errors import DataError
from astrodetect.extras import require_extra
from astrodetect.recipes import DEFAULT_RECIPE, NO_NORMALISATION
from astrodetect.records import BatchRunner, Floats, ImageContract
from astrodetect.settings import settings

if TYPE_CHECKING:  # slow to import, and not needed by the other commands
    from astrodetect.anomalies.analysis import FittedDetectors
    from astrodetect.features.central_object import FeatureKind
    from astrodetect.features.extraction import ExtractedFeatures, FeatureExtractor, ReadImages
    from astrodetect.inference.engine import Engine

IMAGENET_PX = 224  # input side for ImageNet weights
IMAGENET = "imagenet"
AUTOENCODER = "autoencoder"  # the detector that Keras trains

# The runner for a function of a batch whose features are extracted; it is pickled for the nodes of a cluster.
MakeRunner = Callable[[Callable[[Any], Any]], BatchRunner]


def open_extractor(arguments: argparse.Namespace) -> "tuple[FeatureExtractor, str]":
    """The feature extractor of the options, and a description of where its network features come from."""
    from astrodetect.features.extraction import measured_contract, measured_extractor  # noqa: PLC0415
    from astrodetect.inference.pipeline import network_extractor  # noqa: PLC0415
    from astrodetect.model_store.store import read_current  # noqa: PLC0415

    config, model, weights = settings(), arguments.attach or arguments.model, arguments.weights
    kind: FeatureKind = arguments.features or ("network" if weights else "shapes")
    _check_consistent(arguments, kind)
    if weights:
        engine, version = _external_network(weights, arguments.crop or 1.0, arguments.planes)
        source = f"the features of a ResNet50 with the weights of {Path(weights).name}"
        return network_extractor(engine, kind, version), source
    if kind == "shapes" and not model:
        return measured_extractor(measured_contract(arguments.crop, arguments.planes)), ""
    model = model or config.model
    if kind == "shapes":
        return measured_extractor(read_current(config.models_dir, model).image), ""
    # After the quick checks, since importing OpenVINO takes a second.
    from astrodetect.inference.engine import Engine, load_verified  # noqa: PLC0415

    loaded = load_verified(config.models_dir, model, config.precision)
    extractor = network_extractor(Engine(loaded), kind, loaded.manifest.version)
    print_warnings(loaded.manifest)
    return extractor, describe_features(loaded.manifest)


def network_scores(arguments: argparse.Namespace, images: "ReadImages") -> Floats | None:
    """The score of each image by the model of the options, if it learnt from labels and ranks images better."""
    from astrodetect.model_store.store import read_current  # noqa: PLC0415

    config, name = settings(), arguments.model
    if not name or images.kind != "shapes" or not read_current(config.models_dir, name).ranks:
        return None
    from astrodetect.datasets.dataset import Dataset  # noqa: PLC0415 - OpenVINO takes a second, as below
    from astrodetect.inference.engine import Engine, load_verified  # noqa: PLC0415
    from astrodetect.scoring.evaluate import compute_outputs  # noqa: PLC0415

    loaded = load_verified(config.models_dir, name, config.precision)
    paths = [item.path for item in images.items]
    dataset = Dataset(tuple(loaded.manifest.classes), paths, np.zeros(len(paths), np.int64), "")
    return compute_outputs(dataset, Engine(loaded), f"the images by {name}").probabilities[:, 1]


def fit_detectors(
    arguments: argparse.Namespace, reference: "ExtractedFeatures", *, all_ordinary: bool
) -> "FittedDetectors":
    """Fit the selected detectors; the autoencoder is trained separately with Keras."""
    from astrodetect.anomalies import analysis  # noqa: PLC0415

    names, extra = arguments.detectors or default_detectors(reference.kind), []
    if set(names) == set(DETECTORS):
        names = [*available_detectors(reference.kind), AUTOENCODER]
    if AUTOENCODER in names:
        require_extra("train", f"the detector {AUTOENCODER}")
        from astrodetect.learning import autoencoder  # noqa: PLC0415 - imports Keras

        extra = [autoencoder.fit_autoencoder(reference.features)]
    fitted_names = [name for name in names if name != AUTOENCODER]
    return analysis.fit_detectors(reference, fitted_names, extra, all_ordinary=all_ordinary)


@contextmanager
def open_runners(arguments: argparse.Namespace, extractor: "FeatureExtractor") -> Iterator[MakeRunner]:
    """What runs the extractor: threads of this process, or a Ray cluster."""
    from astrodetect.features.extraction import measured_extractor  # noqa: PLC0415
    from astrodetect.inference.pipeline import read_ahead  # noqa: PLC0415

    if not arguments.ray:
        yield lambda _: read_ahead
        return
    require_extra("cluster", "--ray")
    from astrodetect.cluster.ray_batches import (  # noqa: PLC0415 - imports Ray
        open_extraction,
        open_extractor_of_node,
        ray_cluster,
    )

    config = settings()
    open_on_node = partial(measured_extractor, extractor.contract)
    if extractor.kind != "shapes":
        model = arguments.attach or arguments.model or config.model
        models = config.models_dir.absolute()
        open_on_node = partial(open_extractor_of_node, models, model, config.precision, extractor.kind)
    cache_folder = config.descriptions_dir.absolute()
    with ray_cluster(arguments.ray) as make_runner:
        open_function = partial(
            open_extraction, open_on_node, extractor.cache_key, cache_folder, config.max_image_pixels
        )
        yield lambda apply: make_runner(partial(open_function, apply))


def _check_consistent(arguments: argparse.Namespace, kind: "FeatureKind") -> None:
    """Raise DataError for options that exclude each other."""
    model = arguments.attach or arguments.model
    if arguments.attach and arguments.model not in {None, arguments.attach}:
        raise DataError(
            f"detectors of {arguments.model}'s features do not fit {arguments.attach}: "
            "--attach and --model must name one model"
        )
    if arguments.weights and arguments.ray:
        raise DataError("--weights needs Keras, which the nodes of a cluster have not: leave --ray out")
    if arguments.weights and (model or kind == "shapes"):
        raise DataError("--weights selects a network of its own: leave --model, --attach and --features shapes out")
    if model or (kind != "shapes" and not arguments.weights):
        refuse_unused(arguments, "crop planes", "on the images of a trained model")


def _external_network(weights: str, crop: float, planes: str) -> "tuple[Engine, str]":
    """A ResNet50 with external weights, and a version that identifies them."""
    if weights != IMAGENET and not Path(weights).is_file():
        raise DataError(f"no weights file {weights}: give a Keras .h5 file, or {IMAGENET}")
    require_extra("train", "--weights")
    from astrodetect.learning import network  # noqa: PLC0415 - imports Keras
    from astrodetect.learning.export import features_engine  # noqa: PLC0415

    model = network.build(DEFAULT_RECIPE, IMAGENET_PX, NO_NORMALISATION, 1)
    if weights == IMAGENET:
        network.load_imagenet_weights(model, DEFAULT_RECIPE)
        version = IMAGENET
    else:
        network.load_weights_file(model, DEFAULT_RECIPE, Path(weights))
        with Path(weights).open("rb") as file:
            version = hashlib.file_digest(file, "sha256").hexdigest()
    return features_engine(model, ImageContract(IMAGENET_PX, crop, planes, stretch="asinh")), version
