"""Signals of uvicorn's workers, where the service waits before it stops."""

import asyncio
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from astrodetect.service.shutdown import Shutdown


@pytest.mark.parametrize("signals", [1, 2])
def test_a_worker_that_drains_stops_whether_or_not_its_group_got_the_signal_too(signals: int) -> None:
    """It gets one signal where only its parent does, as in a container, and two where its group does."""
    server: Any = SimpleNamespace(started=False, should_exit=False, config=SimpleNamespace(use_subprocess=True))
    shutdown = Shutdown(60, 0.05)

    async def scenario() -> bool:
        with shutdown.handle_signals(server):
            for _ in range(signals):
                signal.raise_signal(signal.SIGTERM)
            assert (shutdown.draining, shutdown.begun) == (True, False)
            async with asyncio.timeout(10):
                while not server.should_exit:
                    await asyncio.sleep(0.01)
            return shutdown.begun

    assert asyncio.run(scenario())
