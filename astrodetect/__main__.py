"""`astrodetect COMMAND …`, or `python -m astrodetect COMMAND …`: the commands are in `cli/`."""

import os
import signal
import sys

IS_PROGRAM = __name__ == "__main__" or sys.argv[0].endswith("astrodetect")
if IS_PROGRAM:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports needs no traceback
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed: what is opened next would take its place, and get what is printed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 - before other imports, until the end
            os.set_inheritable(getattr(sys, name).fileno(), True)

import argparse  # noqa: E402
from pathlib import Path  # noqa: E402

import shtab  # noqa: E402

from astrodetect import __version__  # noqa: E402
from astrodetect.cli import (  # noqa: E402
    adapt,
    anomalies,
    backup,
    collect,
    crossmatch,
    evaluate,
    explore,
    keys,
    labels,
    models,
    predict,
    programs,
    psql,
    recall,
    score,
    simulate,
    split,
    teach,
)
from astrodetect.cli._options import command_parser, complete_paths  # noqa: E402
from astrodetect.errors import AstrodetectError, is_interrupt  # noqa: E402
from astrodetect.progress import escape_output  # noqa: E402
from astrodetect.settings import PROGRAMS  # noqa: E402

COMMANDS = (
    *(collect, simulate, explore, split, programs, evaluate, models),
    *(predict, score, anomalies, crossmatch, recall, adapt, labels, teach, psql, backup, keys),
)
COMPLETION_DESCRIPTION = """print a script that lets a shell complete commands, options and file names

It completes the installed command `astrodetect`.
"""
COMPLETION_EXAMPLES = """examples:
  astrodetect completion bash > ~/.local/share/bash-completion/completions/astrodetect
  astrodetect completion zsh > "${fpath[1]}/_astrodetect"
  astrodetect completion fish > ~/.config/fish/completions/astrodetect.fish
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit code is 0 on success, 1 on failure, 2 for wrong usage, 130 after Ctrl-C."""
    installed = Path(sys.argv[0]).stem == "astrodetect" or (argv or sys.argv[1:])[:1] == ["completion"]
    parser = argparse.ArgumentParser(
        prog="astrodetect" if installed else "python -m astrodetect",
        description="Classify sky images and find the unusual ones.",
        epilog="exit codes: 0 success, 1 failure, 2 wrong usage, 130 stopped by Ctrl-C",
    )
    parser.add_argument("--version", action="version", version=f"astrodetect {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    completion = command_parser(subparsers, "completion", COMPLETION_DESCRIPTION, COMPLETION_EXAMPLES)
    shtab.add_argument_to(completion, "shell", help="(default: bash)", parent=parser)
    complete_paths(parser)
    if str(PROGRAMS) != sys.path[0]:
        sys.path.insert(0, str(PROGRAMS))  # what commands run of main.py, train_model.py and the others
    if os.getpid() == 1:  # of a container, which would ignore SIGTERM: it acts as Ctrl-C
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if IS_PROGRAM:
            escape_output()
        arguments = parser.parse_args(argv, argparse.Namespace(argv=sys.argv[1:] if argv is None else argv))
        if IS_PROGRAM:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        status = int(arguments.command(arguments))
        print(end="", flush=True)  # or Python would do it at its end, with a traceback if the disk is full
        return status  # noqa: TRY300
    except AstrodetectError as error:
        print(f"astrodetect: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # what reads the output has ended, as `head` does
            print(f"astrodetect: {error}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python would write to it once more
        return 1
    except (KeyboardInterrupt, ImportError) as error:
        if not is_interrupt(error):
            raise
        print("stopped: run the same command again to continue", file=sys.stderr)
        return 130


if __name__ == "__main__":
    status = main()
    exec("")  # noqa: S102 - where Ctrl-C met an exec() of text, as in a dataclass, Python would end by SIGINT, not 130
    sys.exit(status)
