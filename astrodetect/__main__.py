"""`python -m astrodetect VERB …`: each verb is a file in `verbs/`."""

import argparse
import sys

from astrodetect.cli import anomalies, collect, evaluate, explore, labels, models, psql, score, simulate, split
from astrodetect.errors import AstrodetectError

VERBS = (collect, simulate, explore, split, evaluate, models, score, anomalies, labels, psql)


def main(argv: list[str] | None = None) -> int:
    """Runs the verb: 0 done, 1 could not, 2 wrong usage, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m astrodetect",
        description="What is in these images, and which of them are strange?",
        epilog="exit codes: 0 done, 1 could not, 2 wrong usage, 130 stopped by Ctrl-C",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb in VERBS:
        verb.add(verbs)
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.verb(arguments))
    except AstrodetectError as error:
        print(f"astrodetect: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: start the same command again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
