"""Scores folders of images into a table."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from astrodetect.cli._options import Subparsers, command_parser, model_name
from astrodetect.errors import DatabaseError
from astrodetect.scoring import batch_scoring
from astrodetect.settings import Settings, settings

if TYPE_CHECKING:
    from astrodetect.records import HeatMap, ScoredImage, Thumbnail
    from astrodetect.scoring.batch_scoring import RecordBatch
    from database import Database

PRUNED_EVERY = 10_000  # pictures

MEANING = """score folders of images without the service, into one table

Every .jpg, .jpeg, .png and .webp under a FOLDER is scored, in the order of the paths; hidden names and links to folders
are passed over. A file that is named itself is scored whatever its name. An image that cannot be read has a row with
the reason. The columns: path, score, result, error, model, model_version; of a model of several classes the result is
the most probable class, the score its probability, and p_CLASS that of each. A path that is not UTF-8 stands in CSV as
its bytes are (Python reads it with errors="surrogateescape") and in Parquet with \\xff for each such byte.

Rows come to OUTPUT.part as the run goes. After Ctrl-C or a crash the same command goes on where that one was.
"""
EXAMPLES = """examples:
  python -m astrodetect score data/sample/test
  python -m astrodetect score /survey/night1 /survey/night2 --output scores.parquet --log
  ASTRODETECT_PRECISION=f32 python -m astrodetect score galaxy.jpg --output one.csv
"""


def add(verbs: Subparsers) -> None:
    """Its command line."""
    option = command_parser(verbs, "score", MEANING, EXAMPLES, run)
    option("folders", nargs="+", metavar="FOLDER", help="a folder tree of images, or one image")
    table = Path("scores.csv")
    option("--output", type=Path, default=table, help="a .csv or a .parquet (default: scores.csv, here)")
    option("--restart", action="store_true", help="from the first image, over what an earlier run left or finished")
    option("--model", type=model_name, metavar="NAME", help=f"a trained model (default: {settings().model})")
    option("--log", action="store_true", help="log each score in the table `predictions` too, once")


def run(arguments: argparse.Namespace) -> int:
    """Scores folders of images into a table, and says what came out."""
    from astrodetect.anomalies.novelty import Novelty  # noqa: PLC0415

    chosen = settings()
    picture_px = chosen.thumbnail_px if chosen.thumbnail_max_bytes else 0
    task = batch_scoring.ScoringTask(
        arguments.folders, arguments.output, arguments.restart, chosen.max_image_pixels, picture_px
    )
    total = task.check()
    # After the quick checks, since importing OpenVINO takes a second.
    from astrodetect.inference.engine import Engine, load_model  # noqa: PLC0415

    loaded = load_model(chosen.models_dir, arguments.model or chosen.model, chosen.precision)
    engine = Engine(loaded)
    novelty = None if loaded.novelty is None else Novelty.load(loaded.novelty)
    try:
        with _log(chosen) if arguments.log else nullcontext() as record:
            try:
                print(batch_scoring.score_task(task, engine, total=total, record=record, novelty=novelty))
            except DatabaseError as error:
                raise type(error)(f"{error}; {_going_on(arguments)}") from error
    except KeyboardInterrupt:
        print(f"stopped: {_going_on(arguments)}", file=sys.stderr)
        return 130
    return 0


def _going_on(arguments: argparse.Namespace) -> str:
    return f"run the same command{' without --restart' if arguments.restart else ''} again to continue"


@contextmanager
def _log(chosen: Settings) -> "Iterator[RecordBatch]":
    """Where rows of `predictions` are written."""
    from database import Database, database_url  # noqa: PLC0415 - this file is a program, but needs it for this alone

    with database_url(chosen) as url:
        database = Database(url, connections=1, timeout_s=chosen.database_timeout_s)
        try:
            database.check()
            log = _Log(database, chosen)
            yield log.record
            log.prune()
        finally:
            database.close()


class _Log:
    """Writes rows with their pictures, which take no more room than the service lets them."""

    def __init__(self, database: "Database", chosen: Settings) -> None:
        self._database, self._chosen, self._kept, self._said = database, chosen, 0, False

    def record(self, scored: "list[ScoredImage]", pictures: "list[Thumbnail]", heats: "list[HeatMap]") -> None:
        """A batch, its rows durable on return."""
        self._database.record_many(scored)
        with self._never_mind("some scores are logged without their pictures"):
            self._database.save_thumbnails(pictures, heats)
        self._kept += len(pictures)
        if self._kept >= PRUNED_EVERY:
            self.prune()

    def prune(self) -> None:
        """Lets go of what is too old or too much."""
        self._kept, chosen = 0, self._chosen
        with self._never_mind("old pictures stay"):
            self._database.prune_thumbnails(days=chosen.thumbnail_days, max_bytes=chosen.thumbnail_max_bytes)

    @contextmanager
    def _never_mind(self, outcome: str) -> "Iterator[None]":
        """What goes wrong with pictures is said, once; the run goes on."""
        try:
            yield
        except DatabaseError as error:
            if not self._said:
                print(f"{outcome}: {error}", file=sys.stderr)
            self._said = True
