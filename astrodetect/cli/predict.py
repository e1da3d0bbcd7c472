"""`predict`: the prediction of a model for images, printed."""

import argparse
import json
import sys
import uuid
from contextlib import closing
from operator import attrgetter
from typing import TYPE_CHECKING

from astrodetect.cli._options import Subparsers, add_prior_option, command_parser, model_name, print_warnings
from astrodetect.datasets import listing
from astrodetect.progress import printable
from astrodetect.settings import settings
from astrodetect.storage.references import as_reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astrodetect.inference.pipeline import ScoredFile
    from astrodetect.records import ImageContract, ScoredImage

DESCRIPTION = """print what a trained model predicts for images

IMAGE is an image, a folder (searched recursively), a .csv or .parquet with a column path, filename, file or image_name,
a tar shard or Parquet file of images, or the URL of one (s3://, gs://, az://, https://). For each image: the predicted
class, the probability of each class and, if the model has detectors, the novelty (the share of the training images that
are less unusual) and whether the image is like them (in domain). Of a binary model, the second class is predicted where
its probability is above the threshold. --json prints an object per line, with `error` for a bad file. If every file is
bad, the exit code is 1. `score` writes tables of any size, and can resume.
"""
EXAMPLES = """examples:
  python -m astrodetect predict galaxy.jpg
  python -m astrodetect predict my/images --model kinds
  python -m astrodetect predict my/images --json | jq 'select(.novelty > 0.99) | .path'
"""
BAD_FILE = "bad file"
JSON_FIELDS = (
    *("label", "result", "score", "threshold", "probabilities", "novelty", "in_domain"),
    *("ra", "dec", "model", "model_version", "image_sha256"),
)
MIN_WIDTH = 5  # of a probability


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "predict", DESCRIPTION, EXAMPLES, run)
    parser.add_argument(
        "images", nargs="+", type=as_reference, metavar="IMAGE", help="image, folder of images, table, shard, or URL"
    )
    parser.add_argument("--model", type=model_name, metavar="NAME", help=f"trained model (default: {settings().model})")
    add_prior_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, one object per line")


def run(arguments: argparse.Namespace) -> int:
    """Print a line for each image."""
    from astrodetect.anomalies.novelty import Novelty  # noqa: PLC0415 - not needed by the other commands
    from astrodetect.inference import pipeline  # noqa: PLC0415
    from astrodetect.inference.decision import decide_file  # noqa: PLC0415

    config = settings()
    listing.check_paths(arguments.images)
    if next(listing.list_references(arguments.images), None) is None:
        raise listing.no_images(arguments.images)
    from astrodetect.inference.engine import Engine, load_verified  # noqa: PLC0415 - slow to import: after the checks

    loaded = load_verified(config.models_dir, arguments.model or config.model, config.precision, prior=arguments.prior)
    manifest, engine = loaded.manifest, Engine(loaded)
    novelty = None if loaded.novelty is None else Novelty.load(loaded.novelty)
    if not arguments.json:
        print(_header(manifest.classes))
    count = bad_files = 0

    def read(file: listing.ImageFile, contract: "ImageContract") -> pipeline.ReadImage:
        return pipeline.decode_image(file.read(), contract, config.max_image_pixels)

    files = listing.open_images(listing.list_references(arguments.images))
    with closing(pipeline.score_files(files, engine, read, novelty, name=attrgetter("name"))) as batches:
        for file in (file for batch in batches for file in batch):
            scored = None if file.error else decide_file(manifest, file, uuid.uuid4())
            count, bad_files = count + 1, bad_files + (scored is None)
            line = _json_line(file, scored) if arguments.json else _text_line(file, scored, manifest.classes)
            print(line, flush=True)
    print_warnings(manifest)
    if bad_files == count:
        print("every file is bad", file=sys.stderr)
        return 1
    return 0


def _json_line(file: "ScoredFile", scored: "ScoredImage | None") -> str:
    fields = {name: getattr(scored, name) for name in JSON_FIELDS} if scored else {"error": file.error}
    return json.dumps({"path": file.path, **fields})


def _header(classes: "Sequence[str]") -> str:
    probabilities = "  ".join(f"{name:>{MIN_WIDTH}}" for name in classes)
    return f"{'class':{_label_width(classes)}}  {probabilities}  novelty  in domain  image"


def _text_line(file: "ScoredFile", scored: "ScoredImage | None", classes: "Sequence[str]") -> str:
    path, width = printable(file.path), _label_width(classes)
    if scored is None:
        return f"{BAD_FILE:{width}}  {path}: {file.error}"
    values = scored.probabilities or {}
    probabilities = "  ".join(f"{values[name]:>{max(len(name), MIN_WIDTH)}.3f}" for name in classes)
    novelty = "–" if scored.novelty is None else f"{scored.novelty:.3f}"
    in_domain = {None: "–", True: "yes", False: "no"}[scored.in_domain]
    return f"{scored.label:{width}}  {probabilities}  {novelty:>7}  {in_domain:>9}  {path}"


def _label_width(classes: "Sequence[str]") -> int:
    return max(len(BAD_FILE), *map(len, classes))
