"""The process that scores chunks, and is started again where it ends."""

import sys

import pytest

from astrodetect.errors import ModelError
from astrodetect.scoring.chunks import Chunk, WorkerTask
from astrodetect.scoring.worker_process import WorkerProcess


def test_a_worker_that_starts_again_with_another_model_ends_the_run() -> None:
    code = (
        "import os; from astrodetect.scoring.worker_messages import WorkerChannel; c = WorkerChannel(); c.receive();"
        "c.send({'ready': dict(model_version=str(os.getpid()), precision='f32', batch_size=1, columns=[])});"
        "c.receive()"
    )
    with WorkerProcess([sys.executable, "-c", code], WorkerTask("night"), notify=str) as process:
        process.wait_ready("")
        process.submit(Chunk(0, "id", ("a.jpg",)))
        with pytest.raises(ModelError, match="the model night is another one than when this run began"):
            process.next_event()
