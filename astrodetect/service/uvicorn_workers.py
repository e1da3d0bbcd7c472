"""Whether uvicorn runs this process, and how many of its processes share the machine."""

import multiprocessing
import os
import signal
import sys
from argparse import ArgumentParser
from pathlib import Path

from astrodetect.parent_process import when_parent_ends


def is_served() -> bool:
    """Whether this process is uvicorn's, by its command line, which its workers are given too."""
    program = Path(sys.argv[0])
    return "uvicorn" in {program.stem, program.parent.name}  # the script, or `python -m`


def worker_count() -> int:
    """The number of uvicorn's workers, of which this process is one: by the command line or WEB_CONCURRENCY; else 1.

    uvicorn tells its workers nothing of each other, but they are spawned with the command line of their parent.
    """
    if multiprocessing.parent_process() is None:
        return 1
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--workers", type=int)
    workers = parser.parse_known_args(sys.argv[1:])[0].workers or os.environ.get("WEB_CONCURRENCY", "")
    return max(1, int(workers)) if str(workers).isdecimal() else 1


def end_with_parent() -> None:
    """Shut down where uvicorn's first process is killed: its workers would keep the port from the next one."""
    when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))
