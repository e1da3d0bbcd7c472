"""`python -m astrodetect VERB …`: one verb, one function."""

import argparse
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from astrodetect import images, postgres
from astrodetect.catalogue import simulated
from astrodetect.connections import read_url, without_password
from astrodetect.errors import AstrodetectError, DatabaseError, DataError
from astrodetect.settings import Settings, settings

if TYPE_CHECKING:
    from astrodetect.scoring import Record

MOST_IMAGES = 10_000_000  # of a class in one go
LARGEST_SIZE_PX = 4096
LARGEST_SEED = 2**31 - 1

SIMULATE_EXAMPLES = """examples:
  python -m astrodetect simulate
  python -m astrodetect simulate data/sample --train 700 --test 200 --classes E SB
  python -m astrodetect simulate data/odd --count E=990 --count merger=5 --count lens=5 --seed 7
"""
SCORE_MEANING = """score folders of images without the service, into one table

Every .jpg, .jpeg, .png and .webp under a FOLDER is scored, in the order of the paths; hidden names and links to folders
are passed over. A file that is named itself is scored whatever its name. An image that cannot be read has a row with
the reason. The columns: path, score, result, error, model, model_version; a path that is not UTF-8 stands in CSV as its
bytes are (Python reads it with errors="surrogateescape") and in Parquet with \\xff for each such byte.

Rows come to OUTPUT.part as the run goes. After Ctrl-C or a crash the same command goes on where that one was.
"""
SCORE_EXAMPLES = """examples:
  python -m astrodetect score data/sample/test
  python -m astrodetect score /survey/night1 /survey/night2 --output scores.parquet --log
  ASTRODETECT_PRECISION=f32 python -m astrodetect score galaxy.jpg --output one.csv
"""
PSQL_EXAMPLES = """examples:
  python -m astrodetect psql
  python -m astrodetect psql -c "SELECT * FROM predictions ORDER BY id DESC LIMIT 10"
  python -m astrodetect psql --show
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the verb: 0 done, 1 could not, 2 wrong usage, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.verb(arguments))
    except AstrodetectError as error:
        print(f"astrodetect: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: the same command goes on where this one was", file=sys.stderr)
        return 130


def simulate(arguments: argparse.Namespace) -> int:
    """Makes simulated sky images, and says where."""
    folder, seed, size = arguments.folder, arguments.seed, arguments.size
    try:
        if arguments.count:
            simulated.make(folder, dict(arguments.count), seed=seed, size=size)
        else:
            classes = tuple(arguments.classes)
            simulated.make_sample(folder, arguments.train, arguments.test, classes=classes, seed=seed, size=size)
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}") from error
    print(folder)
    return 0


def score(arguments: argparse.Namespace) -> int:
    """Scores folders of images into a table, and says what came out."""
    from astrodetect import bundle, scoring  # noqa: PLC0415 - the other verbs need none of this

    chosen = settings()
    task = scoring.Task(arguments.folders, arguments.output, arguments.restart, chosen.max_image_pixels)
    total = task.check()
    from astrodetect.inference.engine import Engine  # noqa: PLC0415 - OpenVINO takes its time, after the quick checks

    engine = Engine(bundle.load(chosen.models_dir, arguments.model or chosen.model, chosen.precision))
    try:
        with _log(chosen) if arguments.log else nullcontext() as record:
            try:
                print(scoring.score(task, engine, total=total, record=record))
            except DatabaseError as error:
                raise type(error)(f"{error}; {_going_on(arguments)}") from error
    except KeyboardInterrupt:
        print(f"stopped: {_going_on(arguments)}", file=sys.stderr)
        return 130
    return 0


def _going_on(arguments: argparse.Namespace) -> str:
    return f"the same command{' without --restart' if arguments.restart else ''} goes on where this one was"


@contextmanager
def _log(chosen: Settings) -> "Iterator[Record]":
    """Where rows of `predictions` are written."""
    from database import Database, server  # noqa: PLC0415 - this file is a program, but needs it for this alone

    with server(chosen) as url:
        database = Database(url, connections=1, timeout_s=chosen.database_timeout_s)
        try:
            database.check()
            yield database.record_many
        finally:
            database.close()


def psql(arguments: argparse.Namespace) -> int:
    """Opens psql on the log; the embedded PostgreSQL runs for as long as that takes."""
    given = settings().database_url
    if given:
        return _psql(given.get_secret_value(), arguments)
    with postgres.serve(settings().postgres_dir, postgres.EMBEDDED_DATABASE) as url:
        return _psql(url, arguments)


def _psql(url: str, arguments: argparse.Namespace) -> int:
    parts = read_url(url)
    shown = without_password(url)
    if arguments.show:
        print(postgres.psql_line(shown))
        return 0
    command = [str(postgres.psql()), shown, *(["-c", arguments.command] if arguments.command else [])]
    password = {"PGPASSWORD": parts["password"]} if "password" in parts else {}  # the arguments are for all to see
    before = signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is psql's: it cancels the query
    try:
        return subprocess.run(command, env={**os.environ, **password}, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m astrodetect",
        description="What is in these images, and which of them are strange?",
        epilog="exit codes: 0 done, 1 could not, 2 wrong usage, 130 stopped by Ctrl-C",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verb = _verb(verbs, "simulate", "make labelled sky images, as a survey would show them", SIMULATE_EXAMPLES)
    verb.set_defaults(verb=simulate)
    add, many = verb.add_argument, _number(0, MOST_IMAGES)
    sample = settings().data_dir / "sample"
    add("folder", type=Path, nargs="?", default=sample, help="where to (default: data/sample)")
    add("--train", type=many, default=700, help="images a class in FOLDER/train (default: 700)")
    add("--test", type=many, default=200, help="images a class in FOLDER/test (default: 200)")
    kinds = ", ".join(simulated.CLASSES)
    add("--classes", nargs="+", default=["E", "SB"], metavar="CLASS", help=f"of {kinds} (default: E SB)")
    add(
        "--count", action="append", type=_count, metavar="CLASS=N", help="instead: N images in FOLDER/CLASS, repeatable"
    )
    add(
        "--size",
        type=_number(images.MIN_SIDE_PX, LARGEST_SIZE_PX),
        default=227,
        help="side of an image, pixels (default: 227)",
    )
    add("--seed", type=_number(0, LARGEST_SEED), default=0, help="the same seed, the same images (default: 0)")

    verb = _verb(verbs, "score", SCORE_MEANING, SCORE_EXAMPLES)
    verb.set_defaults(verb=score)
    add = verb.add_argument
    add("folders", nargs="+", metavar="FOLDER", help="a folder tree of images, or one image")
    table = Path("scores.csv")
    add("--output", type=Path, default=table, help="a .csv or a .parquet (default: scores.csv, here)")
    add("--restart", action="store_true", help="from the first image, over what an earlier run left or finished")
    add("--model", type=_model, metavar="NAME", help=f"a trained model (default: {settings().model})")
    add("--log", action="store_true", help="log each score in the table `predictions` too, once")

    verb = _verb(verbs, "psql", "look into the log of predictions, whether the service runs or not", PSQL_EXAMPLES)
    verb.set_defaults(verb=psql)
    verb.add_argument("-c", dest="command", metavar="SQL", help="run this and leave")
    verb.add_argument("--show", action="store_true", help="print the psql command for the running service instead")
    return parser


def _verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, meaning: str, examples: str
) -> argparse.ArgumentParser:
    first, _, _ = meaning.partition("\n")
    return verbs.add_parser(
        name, help=first, description=meaning, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _number(least: int, most: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"from {least} to {most}, not {text}")
        return number

    return whole_number


def _model(text: str) -> str:
    if not re.fullmatch(r"[\w.-]+", text):
        raise argparse.ArgumentTypeError(f"a name in {settings().models_dir}, not {text}")
    return text


def _count(text: str) -> tuple[str, int]:
    name, equals, number = text.partition("=")
    if not equals or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"CLASS=N such as merger=5, not {text}")
    return name, _number(0, MOST_IMAGES)(number)


if __name__ == "__main__":
    sys.exit(main())
