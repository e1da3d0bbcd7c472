"""`score`: score folders of images into a table."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from astrodetect.cli._options import Subparsers, command_parser, model_name, print_warnings
from astrodetect.errors import DatabaseError
from astrodetect.images import accepted_text
from astrodetect.settings import Settings, settings

if TYPE_CHECKING:
    from astrodetect.records import HeatMap, ScoredImage, Thumbnail
    from astrodetect.scoring.batch_scoring import RecordBatch
    from database import Database

PRUNE_INTERVAL = 10_000  # thumbnails

DESCRIPTION = """score folders of images into one table, without the service

Every {formats} file under a FOLDER is scored, sorted by path; hidden names and links to
folders are skipped. A .csv lists images in a column path, filename, file or image_name. Any other file given by name is
scored whatever its suffix. An unreadable image has a row with the reason in `error`; if no image is readable, the exit
code is 1.
Columns: path, score, result, error, model, model_version; for a model of several classes, result is the most probable
class, score its probability and p_CLASS the probability of each class. Paths that are not UTF-8 are written to CSV as
raw bytes (read it with errors="surrogateescape") and to Parquet with \\xff for each invalid byte.

Rows are appended to OUTPUT.part. After Ctrl-C or a crash, run the same command again to continue.
"""
EXAMPLES = """examples:
  python -m astrodetect score data/sample/test
  python -m astrodetect score /survey/night1 /survey/night2 --output scores.parquet --log
  python -m astrodetect score my/catalogue.csv
  ASTRODETECT_PRECISION=f32 python -m astrodetect score galaxy.jpg --output one.csv
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "score", DESCRIPTION.format(formats=accepted_text()), EXAMPLES, run)
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", help="folder of images, searched recursively, one image, or a .csv"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("scores.csv"), help="a .csv or .parquet file (default: ./scores.csv)"
    )
    parser.add_argument(
        "--restart", action="store_true", help="start from the first image and overwrite an earlier OUTPUT"
    )
    parser.add_argument("--model", type=model_name, metavar="NAME", help=f"trained model (default: {settings().model})")
    parser.add_argument("--log", action="store_true", help="also record each score in the table `predictions`, once")


def run(arguments: argparse.Namespace) -> int:
    """Score the images and print a summary."""
    from astrodetect.anomalies.novelty import Novelty  # noqa: PLC0415 - not needed by the other commands
    from astrodetect.scoring import batch_scoring  # noqa: PLC0415

    config = settings()
    thumbnail_px = config.thumbnail_px if config.thumbnail_max_bytes else 0
    task = batch_scoring.ScoringTask(
        arguments.folders, arguments.output, arguments.restart, config.max_image_pixels, thumbnail_px
    )
    total = task.check()
    # After the quick checks, since importing OpenVINO takes a second.
    from astrodetect.inference.engine import Engine, load_verified  # noqa: PLC0415

    loaded = load_verified(config.models_dir, arguments.model or config.model, config.precision)
    engine = Engine(loaded)
    novelty = None if loaded.novelty is None else Novelty.load(loaded.novelty)
    try:
        with open_recorder(config) if arguments.log else nullcontext() as record:
            try:
                summary = batch_scoring.score_task(task, engine, total=total, record=record, novelty=novelty)
            except DatabaseError as error:
                raise type(error)(f"{error}; {_how_to_resume(arguments)}") from error
    except KeyboardInterrupt:
        print(f"stopped: {_how_to_resume(arguments)}", file=sys.stderr)
        return 130
    print(summary.text)
    print_warnings(loaded.manifest)
    if summary.bad_files == summary.files:
        print(f"every file is bad: the column error of {arguments.output} says why", file=sys.stderr)
        return 1
    return 0


def _how_to_resume(arguments: argparse.Namespace) -> str:
    return f"run the same command {' without --restart' if arguments.restart else ''} again to continue"


@contextmanager
def open_recorder(config: Settings) -> "Iterator[RecordBatch]":
    """A function that records batches in the table `predictions`."""
    from database import open_database  # noqa: PLC0415 - imported here because most runs do not need it

    with open_database(config, connections=1) as database:
        recorder = _PredictionsRecorder(database, config)
        yield recorder.record
        recorder.prune()


class _PredictionsRecorder:
    """Records scores with their thumbnails, within the limits of the settings on thumbnails."""

    def __init__(self, database: "Database", config: Settings) -> None:
        self._database, self._config = database, config
        self._since_pruning, self._warned = 0, False

    def record(self, scored: "list[ScoredImage]", thumbnails: "list[Thumbnail]", heat_maps: "list[HeatMap]") -> None:
        """Record a batch; its rows are committed on return."""
        self._database.record_many(scored)
        with self._warn_once("some scores are recorded without thumbnails"):
            self._database.save_thumbnails(thumbnails, heat_maps)
        self._since_pruning += len(thumbnails)
        if self._since_pruning >= PRUNE_INTERVAL:
            self.prune()

    def prune(self) -> None:
        """Delete thumbnails that are too old or exceed the size limit."""
        self._since_pruning = 0
        with self._warn_once("old thumbnails were not deleted"):
            self._database.prune_thumbnails(
                days=self._config.thumbnail_days, max_bytes=self._config.thumbnail_max_bytes
            )

    @contextmanager
    def _warn_once(self, consequence: str) -> "Iterator[None]":
        """Thumbnails are optional: report the first database error and continue."""
        try:
            yield
        except DatabaseError as error:
            if not self._warned:
                print(f"{consequence}: {error}", file=sys.stderr)
            self._warned = True
