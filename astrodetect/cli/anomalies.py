"""`anomalies`: rank images by how unusual they are, and explain why."""

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from astrodetect.anomalies.conformal import FALSE_DISCOVERY_RATE
from astrodetect.anomalies.detectors.registry import DETECTORS, VIEWS, default_detectors
from astrodetect.anomalies.novelty import MAX_REFERENCE_IMAGES, MIN_IMAGES
from astrodetect.cli._catalogue import add_catalogue_options, missing_rows, open_catalogue
from astrodetect.cli._extraction import MakeRunner, fit_detectors, network_scores, open_extractor, open_runners
from astrodetect.cli._known import add_known_options, check_known, known_of_results
from astrodetect.cli._mosaics import add_mosaic_options, check_inputs, open_mosaics
from astrodetect.cli._options import (
    Subparsers,
    add_figure_options,
    add_ray_option,
    add_reading_options,
    add_samp_option,
    check_figures,
    check_samp,
    command_parser,
    float_between,
    int_at_least,
    int_between,
    local_path,
    model_name,
    refuse_unused,
    send_by_samp,
)
from astrodetect.datasets import listing
from astrodetect.datasets.tables import ListedImage
from astrodetect.errors import DataError
from astrodetect.settings import settings
from astrodetect.sky.table_writers import TABLE_FORMATS
from astrodetect.storage.references import as_image_path, folder_name, join_reference

if TYPE_CHECKING:  # slow to import, and not needed by the other commands
    from astrodetect.anomalies.analysis import FittedDetectors
    from astrodetect.anomalies.novelty_result import NoveltyResult
    from astrodetect.anomalies.results import AnomalyResults
    from astrodetect.features.extraction import ExtractedFeatures, FeatureExtractor, ReadImages
    from astrodetect.labels import LabelValue
    from astrodetect.sky.catalogue import Catalogue

MAX_GALLERY = 1000
ALL = "all"
FEATURE_DESCRIPTIONS = {
    "shapes": "described by shapes and colours in the middle of the frame",
    "network": "described by {}",
    "both": "described by shapes and colours in the middle of the frame and by {}",
}
DESCRIPTION = """rank images by how unusual they are; writes an explained report and a table

DATA is one or more folders of images, a folder with class folders or parts, or a table of path,label[,part]; labels
only colour the map. The detectors are fitted on --normal, or on DATA itself, leaving each image out of its own
comparison; with --sample on a random sample, and every image is scored by them without its features staying in memory.
The features are shapes and colours in the middle of the frame, which need no model; with --features network or both,
those of a trained model (--model) or of a ResNet50 with ImageNet or other weights (--weights). Features are cached in
data/cache, up to 4 GB: a second run computes none, and after Ctrl-C or a crash the same command resumes.

The output folder holds anomalies.html; anomalies.csv, .parquet, .vot, .fits or .hats, the most unusual first;
ids/METHOD.txt, the images flagged by each detector, and ids/consensus.txt, those flagged by all.
--detectors autoencoder,kmeans,dbscan selects the three of the four-class study. --labels ranks by active learning from
a .csv of label (interesting, ordinary, artefact, or a name of your own) and path or image_sha256; a --model of the
command teach ranks by its network too.
--attach stores the detectors with a trained model; the service then reports the novelty of each image.
"""
EXAMPLES = """examples:
  python -m astrodetect anomalies my/images
  python -m astrodetect anomalies night7 --normal data/sample/train --output night7-anomalies
  python -m astrodetect anomalies my/images --detectors autoencoder,kmeans,dbscan --format parquet
  python -m astrodetect anomalies my/images --labels labels.csv --like merger
  python -m astrodetect anomalies s3://survey/shards --sample 10000 --ray auto --format parquet
  python -m astrodetect anomalies --mosaic survey.fits --catalogue objects.fits --size 8arcsec --format vot
  python -m astrodetect anomalies my/images --catalogue objects.fits --known hyperleda.fits
  python -m astrodetect anomalies data/sample/train --attach resnet50_model
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "anomalies", DESCRIPTION, EXAMPLES, run)
    parser.add_argument("data", nargs="*", type=as_image_path, metavar="DATA", help="images, labelled or not")
    parser.add_argument(
        "--normal", type=as_image_path, metavar="DATA", help="images to fit the detectors on (default: DATA itself)"
    )
    parser.add_argument(
        "--sample",
        type=int_between(MIN_IMAGES, MAX_REFERENCE_IMAGES),
        metavar="N",
        help="fit the detectors on a random sample of so many images",
    )
    parser.add_argument("--seed", type=int_at_least(0), default=0, help="draws the sample (default: 0)")
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
        help=f"of {', '.join(DETECTORS)}; or {ALL} (default: {','.join(VIEWS)}, or "
        f"{','.join(default_detectors('network'))} of features of a network)",
    )
    parser.add_argument(
        "--fdr",
        type=float_between(0.001, 0.5),
        default=FALSE_DISCOVERY_RATE,
        metavar="RATE",
        help=f"false discovery rate of the flagged images (default: {FALSE_DISCOVERY_RATE})",
    )
    parser.add_argument("--labels", type=local_path, metavar="LABELS.csv", help="rank by these labels of some images")
    parser.add_argument("--like", metavar="LABEL", help="with --labels: more of the kind with this label first")
    parser.add_argument("--attach", type=model_name, metavar="NAME", help="store the detectors with this trained model")
    add_reading_options(
        parser, "central share of the frame to use, without a model (default: 0.5 for shapes, 1 for a network)"
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
    add_samp_option(parser)
    add_catalogue_options(parser)
    add_known_options(parser)
    add_mosaic_options(parser)
    add_figure_options(parser, "sampled anomalies of each detector, and the latent space, coloured by class")
    parser.add_argument(
        "--format",
        choices=TABLE_FORMATS,
        default="csv",
        help="of the table: vot is a VOTable, hats a folder partitioned by HEALPix (default: csv)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Rank the images and print a summary."""
    check_figures(arguments)
    if not arguments.sample:
        refuse_unused(arguments, "seed", "without --sample")
    try:
        for line in rank_images(arguments):
            print(line)
        if arguments.samp:
            send_by_samp(Path(arguments.output, "anomalies.vot"))
    except KeyboardInterrupt:
        print("stopped: run the same command again to continue", file=sys.stderr)
        return 130
    return 0


def rank_images(arguments: argparse.Namespace) -> list[str]:
    """Extract features, run the detectors and write the results; returns the summary."""
    from astrodetect.anomalies import active_learning, analysis, domain, projection, results  # noqa: PLC0415
    from astrodetect.anomalies.conformal import Discoveries  # noqa: PLC0415
    from astrodetect.anomalies.results import AnomalyResults, order_images  # noqa: PLC0415
    from astrodetect.labels import match_images, read_image_labels, require_label  # noqa: PLC0415
    from astrodetect.model_store import store  # noqa: PLC0415
    from astrodetect.reports import anomaly_report  # noqa: PLC0415
    from astrodetect.reports.html import ThumbnailReader  # noqa: PLC0415

    config = settings()
    results.check_output_folder(arguments.output)
    items, catalogue = _list_images(arguments)
    normal_items = listing.list_images([arguments.normal]) if arguments.normal else None
    if arguments.like and not arguments.labels:
        raise DataError("--like needs the labels of some images: add --labels LABELS.csv")
    given_labels = read_image_labels(arguments.labels) if arguments.labels else []
    extractor, feature_source = open_extractor(arguments)
    if mosaics := open_mosaics(arguments, lambda: extractor.contract):
        items, catalogue = [ListedImage(cutout, "") for cutout in mosaics.cutouts], mosaics.catalogue
        arguments.data = [Path(file) for file in arguments.mosaic]  # for titles
    with open_runners(arguments, extractor) as make_runner:
        scored = _score_images(arguments, items, normal_items, extractor, make_runner)
    novelty, read_images = scored.result, scored.images
    paths = [item.path for item in read_images.items]
    labels: dict[int, LabelValue] = {}
    unmatched, interest = 0, None
    if given_labels:
        labels, unmatched = match_images(given_labels, paths, read_images.sha256)
    network = network_scores(arguments, read_images)
    if labels or network is not None:
        blocks = scored.fitted.novelty.block_dimensions
        interest = active_learning.rank_by_labels(
            novelty.vectors,
            novelty.strength,
            labels,
            blocks=blocks,
            like=require_label(arguments.like, labels.values()),
            network=network,
        ).interest
    gallery = order_images(novelty.strength, interest)[: arguments.top].tolist()
    anomaly_results = AnomalyResults(
        paths=paths,
        labels=[item.label for item in read_images.items],
        sha256=read_images.sha256,
        novelty=novelty,
        discoveries=Discoveries.find(
            novelty.strength, arguments.fdr, len(scored.reference.items if arguments.normal else novelty.strength)
        ),
        projection=projection.project(novelty.vectors, gallery),
        review_labels=labels,
        interest=interest,
        skipped=[(file.path, file.reason) for file in read_images.skipped],
        catalogue=catalogue,
        sky_positions=read_images.positions,
    )
    anomaly_results, known = known_of_results(arguments, anomaly_results)
    explanations = analysis.explain(
        scored.fitted.ordinary, read_images, novelty.vectors, gallery, extractor, max_pixels=config.max_image_pixels
    )
    description = anomaly_report.RunDescription(
        title=" ".join(map(folder_name, arguments.data)),
        features=FEATURE_DESCRIPTIONS[extractor.kind].format(feature_source),
        comparison=scored.comparison + ("" if network is None else f"; ranked by the network {arguments.model} too"),
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
        save = (domain.with_domain if arguments.normal else domain.calibrate_domain)(scored.fitted.novelty).save
        store.attach_detectors(config.models_dir, arguments.attach, save, extractor.contract, extractor.model_version)
    summary = [*_summary_lines(anomaly_results, scored, unmatched, arguments.attach), *known]
    summary[:0] = mosaics.summary if mosaics else []
    if network is not None:
        summary.append(f"ranked by the network {arguments.model} too, which learnt from labels")
    return [*summary, join_reference(str(arguments.output), "anomalies.html")]


def _list_images(arguments: argparse.Namespace) -> "tuple[list[ListedImage], Catalogue | None]":
    """The images of DATA and their catalogue; none where there are mosaics instead."""
    check_inputs(arguments, arguments.data, "DATA")
    check_known(arguments)
    check_samp(arguments, f"{arguments.output}.{arguments.format}", "add --format vot, and a local --output")
    if arguments.mosaic:
        return [], None
    items = listing.list_images(arguments.data)
    return items, open_catalogue(arguments, arguments.data, (item.path for item in items))


@dataclass(frozen=True, slots=True)
class _ScoredImages:
    """The results of all images, and of what the detectors were fitted on."""

    images: "ReadImages"
    result: "NoveltyResult"
    fitted: "FittedDetectors"
    reference: "ExtractedFeatures"  # that the detectors were fitted on
    comparison: str  # in words
    computed: int  # images whose features were not in the cache


def _score_images(
    arguments: argparse.Namespace,
    items: "list[ListedImage]",
    normal_items: "list[ListedImage] | None",
    extractor: "FeatureExtractor",
    make_runner: MakeRunner,
) -> _ScoredImages:
    """Fits the detectors on the images, on a sample of them, or on the normal images or a sample of those."""
    from astrodetect.anomalies import sampling  # noqa: PLC0415
    from astrodetect.features.extraction import extract_features, readable_features  # noqa: PLC0415

    config, sample = settings(), arguments.sample
    title, reference_items, reference_title = " ".join(map(str, arguments.data)), items, "the sample"
    if normal_items:
        reference_items, reference_title = normal_items, str(arguments.normal)
    if sample:
        reference_items = sampling.draw_sample(reference_items, sample, arguments.seed)
    separate = bool(normal_items or sample)
    reference = extract_features(
        reference_items,
        extractor,
        config.descriptions_dir,
        run_batches=make_runner(readable_features),
        title=reference_title if separate else title,
        max_pixels=config.max_image_pixels,
    )
    fitted = fit_detectors(arguments, reference, all_ordinary=bool(normal_items))
    if not separate:
        comparison = "each compared with the others"
        return _ScoredImages(reference, fitted.result, fitted, reference, comparison, reference.computed)
    images, result = sampling.score_images(
        items,
        fitted.novelty,
        extractor,
        config.descriptions_dir,
        run_batches=make_runner(partial(sampling.score_batch, fitted.novelty.for_scoring())),
        title=title,
        max_pixels=config.max_image_pixels,
    )
    comparison = f"compared with {len(reference.items):,} of {folder_name(arguments.normal or arguments.data[0])}"
    if sample:
        comparison += f", drawn at random (seed {arguments.seed})"
    if not normal_items:
        result = sampling.replace_by_left_out(result, images, reference, fitted.result)
        comparison += ", each of which is left out of its own comparison"
    return _ScoredImages(images, result, fitted, reference, comparison, reference.computed + images.computed)


def _summary_lines(
    anomaly_results: "AnomalyResults", scored: _ScoredImages, unmatched: int, attached: str | None
) -> list[str]:
    flagged = ", ".join(f"{name} {int(flags.sum()):,}" for name, flags in anomaly_results.flagged_by().items())
    lines = [
        f"{len(anomaly_results):,} images, features newly computed for {scored.computed:,}; "
        f"{len(scored.images.skipped):,} bad files",
        *([f"{scored.comparison}"] if scored.reference is not scored.images else []),
        anomaly_results.discoveries.text,
        f"single detectors flag: {flagged}",
    ]
    if anomaly_results.review_labels:
        lines.append(
            f"ranked by the labels of {len(anomaly_results.review_labels):,} images; "
            f"{unmatched:,} labels match no image"
        )
    catalogue = anomaly_results.catalogue
    if catalogue and (missing := missing_rows(catalogue, anomaly_results.paths)):
        lines.append(missing)
    if attached:
        lines.append(f"the model {attached} now has these detectors: the service reports novelty")
    return lines


def _detector_names(text: str) -> list[str]:
    """Option type: names of detectors, separated by commas."""
    names = list(DETECTORS) if text == ALL else text.split(",")
    if not set(names) <= set(DETECTORS) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{ALL}, or a list of {', '.join(DETECTORS)}, each once, not {text}")
    return names
