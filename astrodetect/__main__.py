"""`python -m astrodetect COMMAND …`: each command is a module in `cli/`."""

import argparse
import sys

from astrodetect.cli import anomalies, collect, evaluate, explore, labels, models, psql, score, simulate, split
from astrodetect.errors import AstrodetectError

COMMANDS = (collect, simulate, explore, split, evaluate, models, score, anomalies, labels, psql)


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit code is 0 on success, 1 on failure, 2 for wrong usage, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m astrodetect",
        description="Classify sky images and find the unusual ones.",
        epilog="exit codes: 0 success, 1 failure, 2 wrong usage, 130 stopped by Ctrl-C",
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except AstrodetectError as error:
        print(f"astrodetect: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: run the same command again to continue", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
