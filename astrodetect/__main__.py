"""`python -m astrodetect VERB …`: one verb, one function."""

import argparse
import subprocess
import sys
from pathlib import Path

from astrodetect import postgres
from astrodetect.catalogue import simulated
from astrodetect.connections import without_password
from astrodetect.errors import AstrodetectError, DataError
from astrodetect.settings import settings

SIMULATE_EXAMPLES = """examples:
  python -m astrodetect simulate
  python -m astrodetect simulate data/sample --train 700 --test 200 --classes E SB
  python -m astrodetect simulate data/odd --count E=990 --count merger=5 --count lens=5 --seed 7
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


def psql(arguments: argparse.Namespace) -> int:
    """Opens psql on the log; the embedded PostgreSQL runs for as long as that takes."""
    given = settings().database_url
    if given:
        return _psql(given.get_secret_value(), arguments)
    with postgres.serve(settings().postgres_dir, postgres.EMBEDDED_DATABASE) as url:
        return _psql(url, arguments)


def _psql(url: str, arguments: argparse.Namespace) -> int:
    if arguments.show:
        print(postgres.psql_line(without_password(url)))
        return 0
    command = ["-c", arguments.command] if arguments.command else []
    return subprocess.run([postgres.psql(), url, *command], check=False).returncode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m astrodetect",
        description="What is in these images, and which of them are strange?",
        epilog="exit codes: 0 done, 1 could not, 2 wrong usage, 130 stopped by Ctrl-C",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verb = _verb(verbs, "simulate", "make labelled sky images, as a survey would show them", SIMULATE_EXAMPLES)
    verb.set_defaults(verb=simulate)
    sample = settings().data_dir / "sample"
    verb.add_argument("folder", type=Path, nargs="?", default=sample, help="where to (default: data/sample)")
    verb.add_argument("--train", type=int, default=700, help="images a class in FOLDER/train (default: 700)")
    verb.add_argument("--test", type=int, default=200, help="images a class in FOLDER/test (default: 200)")
    kinds = ", ".join(simulated.CLASSES)
    verb.add_argument("--classes", nargs="+", default=["E", "SB"], metavar="CLASS", help=f"of {kinds} (default: E SB)")
    verb.add_argument(
        "--count", action="append", type=_count, metavar="CLASS=N", help="instead: N images in FOLDER/CLASS, repeatable"
    )
    verb.add_argument("--size", type=int, default=227, help="side of an image, pixels (default: 227)")
    verb.add_argument("--seed", type=int, default=0, help="the same seed, the same images (default: 0)")

    verb = _verb(verbs, "psql", "look into the log of predictions, whether the service runs or not", PSQL_EXAMPLES)
    verb.set_defaults(verb=psql)
    verb.add_argument("-c", dest="command", metavar="SQL", help="run this and leave")
    verb.add_argument("--show", action="store_true", help="print the psql command for the running service instead")
    return parser


def _verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, meaning: str, examples: str
) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name, help=meaning, description=meaning, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _count(text: str) -> tuple[str, int]:
    name, equals, number = text.partition("=")
    if not equals or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"CLASS=N such as merger=5, not {text}")
    return name, int(number)


if __name__ == "__main__":
    sys.exit(main())
