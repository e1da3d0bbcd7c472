"""A map drawn by a process of its own, which takes only what others leave of the cores."""

import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO

import numpy as np

from astrodetect.anomalies import projection
from astrodetect.errors import DrawingFailed
from astrodetect.records import Floats
from astrodetect.settings import ROOT

COMMAND = (sys.executable, "-m", "astrodetect.anomalies.projection_process")
NICENESS = 19  # of os.nice: every other process goes before it
PARENT_GONE_STATUS = 1  # its exit status where whoever started it has gone
DONE = b"done\n"  # what it says before the map
KIND = np.dtype("<f4")  # of the numbers between the two


class ProjectionProcess:
    """The process, from its start on; to be stopped by any thread, and by whoever made it in the end."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe would have to be read all the time
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            creationflags=getattr(subprocess, "IDLE_PRIORITY_CLASS", 0),  # on Windows, which knows no os.nice
        )

    def of(self, vectors: Floats, told: Callable[[float], None]) -> Floats:
        """The map of these vectors as `flat.tsne` draws it; `told` hears what share of the work is done."""
        assert self._process.stdin  # noqa: S101 - it is a pipe
        assert self._process.stdout  # noqa: S101
        try:
            self._process.stdin.write(b"%d %d\n" % vectors.shape + vectors.astype(KIND).tobytes())
            self._process.stdin.flush()  # and not closed: its end tells the process that nobody waits any more
            while (line := self._process.stdout.readline()) != DONE:
                told(float(line))
            return np.frombuffer(self._process.stdout.read(), KIND).reshape(len(vectors), 2).astype(np.float32)
        except (OSError, ValueError) as error:
            raise DrawingFailed(self._reason()) from error

    def stop(self) -> None:
        """Ends it, whatever it is at; `of` then fails."""
        self._process.kill()

    def close(self) -> None:
        """It is there no more when this returns."""
        self.stop()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe:
                with suppress(OSError):  # what it did not read: EPIPE, on Windows EINVAL
                    pipe.close()

    def _reason(self) -> str:
        status = self._process.wait()
        if status < 0:
            return f"the process that draws the map was ended by signal {-status}: was the memory too little?"
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"the process that draws the map failed: {said[-1] if said else f'status {status}'}"


def main() -> None:
    """Reads vectors, writes how far it is, then the map."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is meant for the service, which stops us
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    given, out = sys.stdin.buffer, sys.stdout.buffer
    shape = [int(number) for number in given.readline().split()]
    vectors = np.frombuffer(given.read(math.prod(shape) * KIND.itemsize), KIND).reshape(shape)
    threading.Thread(target=_end_with, args=(given.fileno(),), daemon=True).start()
    done = 0

    def stepped(count: int) -> None:
        nonlocal done
        done += count
        out.write(b"%.3f\n" % (done / projection.TSNE_STEPS))
        out.flush()

    xy = projection.tsne_projection(vectors, stepped)
    out.write(DONE + xy.astype(KIND).tobytes())
    out.flush()


def _end_with(given: int) -> None:
    """A service that was killed ends nobody, but its end of the pipe closes."""
    os.read(given, 1)
    os._exit(PARENT_GONE_STATUS)


if __name__ == "__main__":
    main()
