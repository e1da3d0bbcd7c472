"""Work is cancelled when its client disconnects."""

import asyncio
from functools import partial

import pytest
from protocol_server import GET, POST, WAIT_S, Server

from astrodetect.service.disconnection import Disconnection


@pytest.mark.parametrize("path", ["/wait", "/wait-under-another-server"])
def test_work_is_cancelled_when_its_client_disconnects_and_not_by_others(path: str) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(WAIT_S), Server().run(max_connections=10) as server:
            client, other = await server.connect(), await server.connect()
            client.writer.write(POST.replace(b" / ", b" %s " % path.encode()) + b"0\r\n\r\n")
            await server.at_work.wait()
            assert await other.status(GET) == 200
            other.writer.transport.abort()
            assert await (await server.connect()).status(GET) == 200
            assert not server.cancelled.is_set()
            client.writer.transport.abort()
            await server.cancelled.wait()

    asyncio.run(scenario())


def test_what_is_to_be_done_after_a_disconnection_is_done_at_once_where_it_has_happened() -> None:
    disconnection, done = Disconnection(), list[str]()
    disconnection.add(kept := partial(done.append, "kept"))
    disconnection.add(discarded := partial(done.append, "discarded"))
    disconnection.discard(discarded)
    assert done == []
    disconnection.happen()
    disconnection.discard(kept)
    disconnection.add(partial(done.append, "late"))
    assert done == ["kept", "late"]
