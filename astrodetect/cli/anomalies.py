"""`anomalies`: rank images by how unusual they are, and explain why."""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from astrodetect.anomalies.detectors.registry import DEFAULT_DETECTORS, DETECTORS
from astrodetect.cli._options import (
    Subparsers,
    add_figure_options,
    add_ray_option,
    command_parser,
    describe_features,
    float_between,
    int_between,
    local_path,
    model_name,
    print_warnings,
)
from astrodetect.datasets import listing
from astrodetect.errors import DataError
from astrodetect.extras import require_extra
from astrodetect.recipes import DEFAULT_RECIPE, NO_NORMALISATION
from astrodetect.records import ImageContract
from astrodetect.settings import settings
from astrodetect.storage.references import as_image_path, folder_name, join_reference

if TYPE_CHECKING:  # slow to import, and not needed by the other commands
    from collections.abc import Iterator

    from astrodetect.anomalies.analysis import FittedDetectors
    from astrodetect.anomalies.results import AnomalyResults
    from astrodetect.datasets.tables import ListedImage
    from astrodetect.features.central_object import FeatureKind
    from astrodetect.features.extraction import ExtractedFeatures, FeatureExtractor
    from astrodetect.inference.engine import Engine
    from astrodetect.labels import LabelValue
    from astrodetect.records import BatchRunner

IMAGENET_PX = 224  # input side for ImageNet weights
MIN_CROP = 0.1
MAX_GALLERY = 1000
IMAGENET = "imagenet"
AUTOENCODER, ALL = "autoencoder", "all"
FEATURE_DESCRIPTIONS = {
    "shapes": "described by shapes and colours in the middle of the frame",
    "network": "described by {}",
    "both": "described by shapes and colours in the middle of the frame and by {}",
}
DESCRIPTION = """rank images by how unusual they are; writes an explained report and a table

DATA is one or more folders of images, a folder with class folders or parts, or a table of path,label[,part]; labels
only colour the map. The detectors are fitted on --normal, or on DATA itself, leaving each image out of its own
comparison. The features are shapes and colours in the middle of the frame, which need no model; with --features network
or both, those of a trained model (--model) or of a ResNet50 with ImageNet or other weights (--weights). Features are
cached in data/cache, up to 4 GB: a second run computes none, and after Ctrl-C or a crash the same command resumes.

The output folder holds anomalies.html; anomalies.csv or .parquet, the most unusual first; ids/METHOD.txt, the images
flagged by each detector, and ids/consensus.txt, those flagged by all. --detectors autoencoder,kmeans,dbscan selects the
three of the four-class study. --labels ranks by active learning from a .csv of label (interesting, ordinary, artefact)
and path or image_sha256. --attach stores the detectors with a trained model; the service then reports the novelty of
each image.
"""
EXAMPLES = """examples:
  python -m astrodetect anomalies my/images
  python -m astrodetect anomalies night7 --normal data/sample/train --output night7-anomalies
  python -m astrodetect anomalies my/images --detectors autoencoder,kmeans,dbscan --format parquet
  python -m astrodetect anomalies my/images --labels labels.csv
  python -m astrodetect anomalies data/sample/train --attach resnet50_model
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "anomalies", DESCRIPTION, EXAMPLES, run)
    parser.add_argument("data", nargs="+", type=as_image_path, metavar="DATA", help="images, labelled or not")
    parser.add_argument(
        "--normal", type=as_image_path, metavar="DATA", help="images to fit the detectors on (default: DATA itself)"
    )
    parser.add_argument(
        "--model", type=model_name, metavar="NAME", help="use the preprocessing and features of this trained model"
    )
    parser.add_argument(
        "--weights", metavar="FILE.h5", help="use the features of a ResNet50 with these weights, or with imagenet's"
    )
    parser.add_argument(
        "--features",
        choices=("shapes", "network", "both"),
        help="features to compare (default: shapes; network with --weights)",
    )
    parser.add_argument(
        "--detectors",
        type=_detector_names,
        metavar="NAME,…",
        help=f"of {', '.join(DETECTORS)}; or {ALL} (default: {','.join(DEFAULT_DETECTORS)})",
    )
    parser.add_argument("--labels", type=local_path, metavar="LABELS.csv", help="rank by these labels of some images")
    parser.add_argument("--attach", type=model_name, metavar="NAME", help="store the detectors with this trained model")
    parser.add_argument(
        "--crop",
        type=float_between(MIN_CROP, 1.0),
        help="central share of the frame to use, without a model (default: 0.5 for shapes, 1 for a network)",
    )
    parser.add_argument(
        "--top", type=int_between(1, MAX_GALLERY), default=60, help="images in the gallery (default: 60)"
    )
    parser.add_argument(
        "--output",
        type=as_image_path,
        default=Path("anomalies"),
        metavar="FOLDER",
        help="output folder, or its URL on an object store (default: ./anomalies)",
    )
    add_ray_option(parser)
    add_figure_options(parser, "sampled anomalies of each detector, and the latent space, coloured by class")
    parser.add_argument(
        "--format", choices=("csv", "parquet"), default="csv", help="format of the table (default: csv)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Rank the images and print a summary."""
    try:
        for line in rank_images(arguments):
            print(line)
    except KeyboardInterrupt:
        print("stopped: run the same command again to continue", file=sys.stderr)
        return 130
    return 0


def rank_images(arguments: argparse.Namespace) -> list[str]:
    """Extract features, run the detectors and write the results; returns the summary."""
    from astrodetect.anomalies import (  # noqa: PLC0415
        active_learning,
        analysis,
        domain,
        projection,
        results,
    )
    from astrodetect.anomalies.results import AnomalyResults, order_images  # noqa: PLC0415
    from astrodetect.features.extraction import extract_features  # noqa: PLC0415
    from astrodetect.labels import match_images, read_image_labels  # noqa: PLC0415
    from astrodetect.model_store import store  # noqa: PLC0415
    from astrodetect.reports import anomaly_report  # noqa: PLC0415
    from astrodetect.reports.html import ThumbnailReader  # noqa: PLC0415

    config = settings()
    results.check_output_folder(arguments.output)
    items = listing.list_images(arguments.data)
    normal_items = listing.list_images([arguments.normal]) if arguments.normal else None
    given_labels = read_image_labels(arguments.labels) if arguments.labels else []
    extractor, feature_source = _extractor(arguments)

    def extract(images: "Sequence[ListedImage]", title: str, run_batches: "BatchRunner") -> "ExtractedFeatures":
        return extract_features(
            images,
            extractor,
            config.descriptions_dir,
            run_batches=run_batches,
            title=title,
            max_pixels=config.max_image_pixels,
        )

    with _batch_runner(arguments, extractor) as run_batches:
        normal = extract(normal_items, str(arguments.normal), run_batches) if normal_items else None
        extracted = extract(items, " ".join(map(str, arguments.data)), run_batches)
    fitted = _fit_detectors(arguments, extracted, normal, extractor.kind)
    novelty = fitted.result
    paths = [item.path for item in extracted.items]
    labels: dict[int, LabelValue] = {}
    unmatched, interest = 0, None
    if given_labels:
        labels, unmatched = match_images(given_labels, paths, extracted.sha256)
        interest = active_learning.rank_by_labels(novelty.vectors, novelty.strength, labels).interest
    gallery = order_images(novelty.strength, interest)[: arguments.top].tolist()
    anomaly_results = AnomalyResults(
        paths=paths,
        labels=[item.label for item in extracted.items],
        sha256=extracted.sha256,
        novelty=novelty,
        projection=projection.project(novelty.vectors, gallery),
        review_labels=labels,
        interest=interest,
        skipped=[(file.path, file.reason) for file in extracted.skipped],
    )
    explanations = analysis.explain(fitted, extracted, gallery, extractor, max_pixels=config.max_image_pixels)
    description = anomaly_report.RunDescription(
        title=" ".join(map(folder_name, arguments.data)),
        features=FEATURE_DESCRIPTIONS[extractor.kind].format(feature_source),
        comparison=f"compared with {len(normal.items):,} of {folder_name(arguments.normal)}"
        if normal
        else "each compared with the others",
        reader=ThumbnailReader(extractor.contract, config.max_image_pixels),
    )
    with results.replace_output_folder(arguments.output) as staged:
        results.write_tables(staged, anomaly_results, arguments.format)
        anomaly_report.write_anomaly_report(staged / "anomalies.html", anomaly_results, explanations, description)
    if arguments.figures:
        from astrodetect.reports import figures  # noqa: PLC0415 - imports Matplotlib

        drawn = figures.anomaly_figures(anomaly_results, description.reader)
        figures.write_figures(drawn, arguments.figures, arguments.figure_format)
    if arguments.attach:
        novelty_with_limit = domain.calibrate_domain(fitted.novelty, (normal or extracted).features)
        store.attach_detectors(config.models_dir, arguments.attach, novelty_with_limit.save)
    summary = _summary_lines(anomaly_results, extracted, unmatched, arguments.attach)
    return [*summary, join_reference(str(arguments.output), "anomalies.html")]


def _summary_lines(
    anomaly_results: "AnomalyResults", extracted: "ExtractedFeatures", unmatched: int, attached: str | None
) -> list[str]:
    flagged = ", ".join(
        f"{'all' if name == 'consensus' else name} {int(flags.sum()):,}"
        for name, flags in anomaly_results.flagged_by().items()
    )
    lines = [
        f"{len(anomaly_results):,} images, features newly computed for {extracted.computed:,}; "
        f"{len(extracted.skipped):,} bad files",
        f"flagged by {flagged}",
    ]
    if anomaly_results.interest is not None:
        lines.append(
            f"ranked by the labels of {len(anomaly_results.review_labels):,} images; "
            f"{unmatched:,} labels match no image"
        )
    if attached:
        lines.append(f"the model {attached} now has these detectors: the service reports novelty")
    return lines


def _fit_detectors(
    arguments: argparse.Namespace,
    extracted: "ExtractedFeatures",
    normal: "ExtractedFeatures | None",
    kind: "FeatureKind",
) -> "FittedDetectors":
    """Fit the selected detectors; the autoencoder is trained separately with Keras."""
    from astrodetect.anomalies import analysis  # noqa: PLC0415

    names, extra = arguments.detectors or DEFAULT_DETECTORS, []
    if AUTOENCODER in names:
        require_extra("train", f"the detector {AUTOENCODER}")
        from astrodetect.learning import autoencoder  # noqa: PLC0415 - imports Keras

        extra = [autoencoder.fit_autoencoder((normal or extracted).features)]
    return analysis.fit_detectors(extracted, normal, kind, [name for name in names if name != AUTOENCODER], extra)


def _extractor(arguments: argparse.Namespace) -> "tuple[FeatureExtractor, str]":
    """The feature extractor of the options, and a description of where its network features come from."""
    from astrodetect.features.extraction import measured_contract, measured_extractor  # noqa: PLC0415
    from astrodetect.inference.pipeline import network_extractor  # noqa: PLC0415
    from astrodetect.model_store.store import read_current  # noqa: PLC0415

    config, model, weights = settings(), arguments.attach or arguments.model, arguments.weights
    kind: FeatureKind = arguments.features or ("network" if weights else "shapes")
    _check_consistent(arguments, kind)
    if weights:
        engine, version = _external_network(weights, arguments.crop or 1.0)
        source = f"the features of a ResNet50 with the weights of {Path(weights).name}"
        return network_extractor(engine, kind, version), source
    if kind == "shapes" and not model:
        return measured_extractor(measured_contract(arguments.crop)), ""
    model = model or config.model
    if kind == "shapes":
        return measured_extractor(read_current(config.models_dir, model).image), ""
    # After the quick checks, since importing OpenVINO takes a second.
    from astrodetect.inference.engine import Engine, load_verified  # noqa: PLC0415

    loaded = load_verified(config.models_dir, model, config.precision)
    extractor = network_extractor(Engine(loaded), kind, loaded.manifest.version)
    print_warnings(loaded.manifest)
    return extractor, describe_features(loaded.manifest)


@contextmanager
def _batch_runner(arguments: argparse.Namespace, extractor: "FeatureExtractor") -> "Iterator[BatchRunner]":
    """What runs the extractor: threads of this process, or a Ray cluster."""
    from astrodetect.features.extraction import measured_extractor  # noqa: PLC0415
    from astrodetect.inference.pipeline import open_network_extractor, read_ahead  # noqa: PLC0415

    if not arguments.ray:
        yield read_ahead
        return
    require_extra("cluster", "--ray")
    from astrodetect.cluster.ray_batches import open_extraction, ray_cluster  # noqa: PLC0415 - imports Ray

    config = settings()
    open_extractor = partial(measured_extractor, extractor.contract)
    if extractor.kind != "shapes":
        model = arguments.attach or arguments.model or config.model
        models = config.models_dir.absolute()
        open_extractor = partial(open_network_extractor, models, model, config.precision, extractor.kind)
    cache_folder = config.descriptions_dir.absolute()
    with ray_cluster(arguments.ray) as make_runner:
        yield make_runner(partial(open_extraction, open_extractor, cache_folder, config.max_image_pixels))


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
    if arguments.crop and (model or (kind != "shapes" and not arguments.weights)):
        raise DataError("the crop of a trained model is fixed: leave --crop out")


def _external_network(weights: str, crop: float) -> "tuple[Engine, str]":
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
    return features_engine(model, ImageContract(IMAGENET_PX, crop, stretch="asinh")), version


def _detector_names(text: str) -> list[str]:
    """Option type: names of detectors, separated by commas."""
    names = list(DETECTORS) if text == ALL else text.split(",")
    if not set(names) <= set(DETECTORS) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{ALL}, or a list of {', '.join(DETECTORS)}, each once, not {text}")
    return names
