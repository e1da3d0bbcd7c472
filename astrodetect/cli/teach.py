"""`teach`: train a network on labels, which ranks images together with the measurements if it ranks them better."""

import argparse
import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from astrodetect.anomalies.teaching import TAUGHT
from astrodetect.cli._options import (
    Subparsers,
    add_reading_options,
    command_parser,
    int_at_least,
    local_path,
    model_name,
    print_warnings,
)
from astrodetect.errors import DataError
from astrodetect.extras import require_extra
from astrodetect.images import ORIENTATIONS
from astrodetect.labels import INTERESTING, ORDINARY
from astrodetect.model_store.manifest import TEACHING
from astrodetect.model_store.publication import RESERVED_SUFFIXES
from astrodetect.progress import print_notice
from astrodetect.recipes import TEACHING_RECIPE
from astrodetect.settings import settings
from astrodetect.storage.references import as_image_path, folder_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from astrodetect.anomalies.teaching import TaughtComparison
    from astrodetect.model_store.manifest import Manifest

TITLES = {
    "ranking": "ranking without labels",
    "labels": "ranking and labels, without a network",
    "network": "the network alone",
    "together": "ranking, labels and network",
}
DESCRIPTION = """train a network on labels, to rank images by

A linear head on the ImageNet features of EfficientNet-Lite0, which come with the installation, learns from the labelled
images, and from up to 1,500 others of DATA as ordinary ones. It needs the labels of 10 interesting images or more; they
are made on the Review page, or by hand. It takes a minute for some thousand images.

Every label is also judged by a head that has seen neither its image nor a copy of it: the command prints how well the
interesting images are ranked with the network and without it. Copies of labelled images without a label of their own
are left out. The network is published as the model NAME, with novelty detectors fitted on DATA.
Where images are ranked better with it, `anomalies --model NAME` and, if NAME is the default model of the service, the
Review page rank by the network too; otherwise they do not. The score of the model is the probability that an image is
interesting. Features are cached in data/cache: after Ctrl-C or a crash the same command continues.
"""
EXAMPLES = """examples:
  python -m astrodetect labels export labels.csv
  python -m astrodetect teach my/images --labels labels.csv
  python -m astrodetect anomalies my/more/images --model taught --labels labels.csv
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "teach", DESCRIPTION, EXAMPLES, run)
    add = parser.add_argument
    add("data", nargs="+", type=as_image_path, metavar="DATA", help="images, most of them without a label")
    add(
        "--labels",
        type=local_path,
        required=True,
        metavar="LABELS.csv",
        help="a .csv of label (interesting, ordinary, artefact, or a name of your own) and path or image_sha256",
    )
    add("--name", type=model_name, default=TAUGHT, help=f"of the model (default: {TAUGHT})")
    add_reading_options(parser, "central share of the frame that network and measurements use (default: 0.5)")
    add(
        "--views",
        type=int,
        choices=(1, ORIENTATIONS),
        default=ORIENTATIONS,
        help="orientations of each image that the network averages, which takes as many times longer wherever it is "
        f"used (default: {ORIENTATIONS})",
    )
    add("--seed", type=int_at_least(0), default=0, help="draws the unlabelled images and the folds (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """Teach, publish, and print the comparison."""
    from astrodetect.model_store import store  # noqa: PLC0415
    from astrodetect.model_store.training_progress import report_progress  # noqa: PLC0415

    require_extra("train", "teaching a network")
    folder, name = settings().models_dir, arguments.name
    if name.endswith(RESERVED_SUFFIXES):
        raise DataError(f"--name ends in neither {' nor '.join(RESERVED_SUFFIXES)}, as the files of other models do")
    with (
        store.exclusive_lock(folder, name),
        report_progress(folder, name, recipe=TEACHING_RECIPE, command=arguments.argv),
    ):
        published, comparison = _teach(arguments, folder)
    print("\n".join(_summary(published, comparison)))
    print_warnings(published)
    return 0


def _teach(arguments: argparse.Namespace, folder: Path) -> "tuple[Manifest, TaughtComparison]":
    """Measure the images, teach the network, and publish it with the comparison."""
    import numpy as np  # noqa: PLC0415 - slow to import

    from astrodetect import provenance  # noqa: PLC0415 - slow to import
    from astrodetect.anomalies import adaptation, domain, teaching  # noqa: PLC0415
    from astrodetect.anomalies.novelty import Novelty  # noqa: PLC0415
    from astrodetect.datasets import health, listing  # noqa: PLC0415
    from astrodetect.datasets.dataset import Dataset  # noqa: PLC0415
    from astrodetect.evaluation import calibration, metrics  # noqa: PLC0415
    from astrodetect.features.extraction import measured_contract  # noqa: PLC0415
    from astrodetect.inference.pipeline import read_ahead  # noqa: PLC0415
    from astrodetect.labels import match_images, read_image_labels  # noqa: PLC0415
    from astrodetect.model_store.manifest import Manifest  # noqa: PLC0415

    given, contract = read_image_labels(arguments.labels), measured_contract(arguments.crop, arguments.planes)
    title = " ".join(map(folder_name, arguments.data))
    measured = adaptation.measure_files(listing.list_images(arguments.data), contract, read_ahead, title)
    if bad := measured.skipped:
        print_notice(f"{len(bad):,} files cannot be read; the first, {bad[0].path}: {bad[0].reason}")
    paths = [item.path for item in measured.items]
    labels, unmatched = match_images(given, paths, measured.sha256)

    def group_copies(rows: "NDArray[np.int64]") -> "NDArray[np.int64]":
        items = [measured.items[row] for row in rows]
        scan = health.scan_images(items, title="looking for copies", bands=contract.bands)
        numbers, _ = health.group_duplicates(scan)
        groups = {image.item.path: group for image, group in zip(scan.images, numbers.tolist(), strict=True)}
        return np.array([groups.get(paths[row], -1 - row) for row in rows.tolist()], np.int64)

    images = teaching.TeachingSet.draw(labels, len(paths), arguments.seed, group_copies)
    fingerprint = hashlib.sha256("".join(measured.sha256[row] for row in images.rows).encode()).hexdigest()
    dataset = Dataset(
        (ORDINARY, INTERESTING), [paths[row] for row in images.rows], images.wanted.astype("int64"), fingerprint
    )
    print_notice(
        f"{len(labels):,} labelled images, {images.wanted.sum():,} of them interesting, and "
        f"{len(dataset) - len(labels):,} others as ordinary; {unmatched:,} labels match no image"
    )
    novelty = Novelty.fit(measured.features, feature_kind="shapes")

    # TensorFlow takes seconds to load: unusable images and labels are reported before.
    from astrodetect.learning import label_network  # noqa: PLC0415

    backbone = label_network.describe_images(
        [measured.items[row] for row in images.rows], contract, arguments.views, "the images to learn from"
    )
    if len(backbone.features) != len(dataset):
        raise DataError("images were changed while they were read: start again")
    taught = label_network.teach_network(backbone, images, len(labels))
    ranked = novelty.score_training_images()
    scores = taught.probabilities[:, 1]
    comparison = teaching.compare_rankings(
        images, ranked.vectors, ranked.strength, labels, scores, blocks=novelty.block_dimensions
    )
    threshold = calibration.choose_threshold("f1", dataset.labels, scores)
    predicted = metrics.predict_classes(taught.probabilities, threshold)
    counts = dataset.counts()
    manifest = Manifest(
        name=arguments.name,
        recipe=TEACHING_RECIPE,
        classes=list(dataset.classes),
        image=contract,
        metrics={"held-out folds": metrics.headline_metrics(dataset.labels, taught.probabilities, predicted)},
        data={
            "train": {
                "images": counts,
                "fingerprint": fingerprint,
                "skipped": [{"path": str(file.path), "reason": file.reason} for file in measured.skipped],
                "simulated": listing.count_simulated(dataset.paths),
            },
            TEACHING: {
                "source": title,
                "labels": dict(Counter(labels.values())),
                "unlabelled": len(dataset) - len(labels),
                "average_precision": comparison.as_dict(),
                "improves": comparison.improves,
            },
        },
        settings={"seed": arguments.seed},
        versions=provenance.software_versions(),
        temperature=taught.calibration.temperature,
        bias=list(taught.calibration.bias),
        balance={name: count / len(dataset) for name, count in counts.items()},
        threshold=threshold,
        views=arguments.views,
        simulated=2 * listing.count_simulated(dataset.paths) > len(dataset),
    )
    published = label_network.publish_network(taught, dataset, manifest, folder, domain.calibrate_domain(novelty))
    return published, comparison


def _summary(published: "Manifest", comparison: "TaughtComparison") -> list[str]:
    """The comparison, and what follows from it."""
    name = published.name
    lines = ["average precision of the interesting images among images that were not learnt from:"]
    lines += [f"  {TITLES[ranking]:<37} {value:.3f}" for ranking, value in comparison.as_dict().items()]
    if comparison.improves:
        lines.append(f"{name}: version {published.version}; images are ranked better with it, so it ranks them:")
        lines.append(f"  python -m astrodetect anomalies FOLDER --model {name} --labels LABELS.csv")
    else:
        lines.append(
            f"{name}: version {published.version}; images are not ranked better with it, so the ranking stays as it "
            "is: label more images, then teach again"
        )
    return lines
