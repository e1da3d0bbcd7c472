"""Limits of connections and headers, by a uvicorn server with a small application."""

import asyncio
import logging

import pytest
from protocol_server import GET, POST, WAIT_S, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from astrodetect.service import connection_limits, http_protocol


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "CHECK_S", 0.05)
    for name, value in {"HEADERS_TIMEOUT_S": 1.0, "DISCARD_TIMEOUT_S": 0.5, "LINGER_S": 0.05}.items():
        monkeypatch.setattr(http_protocol, name, value)


@pytest.mark.usefixtures("short_waits")
def test_headers_that_do_not_end_are_answered_408_and_silent_connections_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "astrodetect.requests")

    async def scenario() -> None:
        async with Server().run(max_connections=10) as server:
            slow, silent, healthy = [await server.connect() for _ in range(3)]
            assert await healthy.status(GET) == 200
            asyncio.get_running_loop().call_later(0.5, slow.writer.write, b"X-More: 1\r\n")  # begins no new time
            assert await slow.status(b"GET / HTTP/1.1\r\n") == 408
            assert await slow.closed()
            assert await silent.closed()
            assert await healthy.status(GET) == 200  # it waits for as long as uvicorn lets it
            assert server.calls == 2
            assert b'status="408"} 1.0' in server.metrics.export()

    asyncio.run(scenario())
    [record] = caplog.records
    assert '"status": 408, "code": "headers_too_slow", "client": "127.0.0.1"' in record.getMessage()


@pytest.mark.parametrize(
    "parts",
    [
        (b"GET / HTTP/1.1\r\nX: ", *[b"x" * 40_000] * 3),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 66_000 + b"\r\n\r\n",),
        (b"GET /" + b"x" * 66_000 + b" HTTP/1.1\r\n\r\n",),
        (b"GET / HTTP/1.1\r\n" + b"X:1\r\n" * 300 + b"\r\n",),
        (POST, b"0\r\nX: ", *[b"x" * 40_000] * 3),  # trailers of a body that has ended
        (POST, b"1\r\nx\r\n" * 20_000),  # much more framing than body
    ],
)
def test_headers_beyond_the_limit_are_answered_431(parts: tuple[bytes, ...]) -> None:
    async def scenario() -> None:
        async with Server().run(max_connections=10) as server:
            client = await server.connect()
            assert await client.status(*parts) == 431
            assert await client.closed()
            assert server.calls == (parts[0] == POST)

    asyncio.run(scenario())


def test_headers_and_framing_within_the_limits_are_answered() -> None:
    async def scenario() -> None:
        async with Server().run(max_connections=10) as server:
            client = await server.connect()
            assert await client.status(b"GET / HTTP/1.1\r\nX: " + b"x" * 60_000, b"\r\n\r\n") == 200
            large = b"POST / HTTP/1.1\r\nContent-Length: 500000\r\n\r\n"
            assert await client.status(large + b"x" * 500_000) == 200
            chunks = b"1\r\nx\r\n" * 10_000 + (b"80\r\n" + b"x" * 128 + b"\r\n") * 10_000
            assert await client.status(POST, chunks + b"0\r\n\r\n" + GET[:10]) == 200
            assert await client.status(GET[10:]) == 200

    asyncio.run(scenario())


def test_chunks_of_a_byte_reach_the_request_by_the_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    passed, pass_on = list[int](), HttpToolsProtocol.on_body

    def count(self: HttpToolsProtocol, body: bytes) -> None:
        passed.append(len(body))
        pass_on(self, body)

    async def scenario() -> None:
        async with Server().run(max_connections=10) as server:
            client = await server.connect()
            assert await client.status(POST, b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n") == 200

    monkeypatch.setattr(HttpToolsProtocol, "on_body", count)
    asyncio.run(scenario())
    assert sum(passed) == 10_000
    assert len(passed) < 100


def test_pipelined_requests_are_parsed_a_few_at_a_time_and_all_answered_in_order() -> None:
    count, waiting = 5_000, [0]

    async def scenario() -> None:
        async with Server().run(max_connections=10) as server:
            server.observe = lambda: waiting.extend(len(each.pipeline) for each in server.connections())
            client = await server.connect()
            body = b"x" * 100_000
            client.writer.write(b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + body)
            client.writer.write(GET * count + b"POST / HTTP/1.1\r\nContent-Length: 3\r\nConnection: close\r\n\r\nend")
            async with asyncio.timeout(WAIT_S):
                responses = (await client.reader.read()).split(b"HTTP/1.1 200 OK")[1:]
            sizes = [response.rpartition(b"\r\n")[2] for response in responses]
            assert sizes == [b"100000", *[b"0"] * count, b"3"]

    asyncio.run(scenario())
    assert max(waiting) <= http_protocol.PIECE_BYTES / len(GET)


def test_trailers_are_no_headers() -> None:
    names: list[bytes] = []

    async def scenario() -> None:
        async with Server().run(max_connections=10) as server:
            server.observe = lambda: names.extend(
                name for connection in server.connections() for name, _ in connection.headers
            )
            client = await server.connect()
            assert await client.status(POST + b"4\r\nbody\r\n0\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n") == 200
            assert await client.status(GET) == 200

    asyncio.run(scenario())
    assert names == [b"host", b"transfer-encoding", b"host"]


@pytest.mark.parametrize("request_", [b"NONSENSE / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00"])
def test_what_is_not_http_is_answered_400_and_logged(request_: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "astrodetect.requests")

    async def scenario() -> None:
        async with Server().run(max_connections=10) as server:
            assert await (await server.connect()).status(request_) == 400

    asyncio.run(scenario())
    assert '"status": 400, "code": "malformed_request"' in caplog.records[-1].getMessage()


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize(
    "bad",
    [
        b"NONSENSE / HTTP/1.1\r\n\r\n",
        POST + b"z\r\n",
        GET[:-2] + b"X:1\r\n" * 300 + b"\r\n",
        POST.replace(b"chunked", b"gzip, chunked") + b"0\r\n\r\n",
    ],
)
def test_requests_before_one_that_is_refused_are_answered_first(bad: bytes) -> None:
    async def scenario() -> None:
        async with Server().run(max_connections=10) as server:
            client = await server.connect()
            client.writer.write(GET * 3 + b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nend" + bad + GET)
            async with asyncio.timeout(WAIT_S):
                responses = (await client.reader.read()).split(b"HTTP/1.1 ")[1:]
            assert [response[:3] for response in responses[:-1]] == [b"200"] * 4
            assert responses[3].endswith(b"3")
            assert responses[-1][:3] in {b"400", b"431"}
            assert server.calls == 4

    asyncio.run(scenario())


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("size", [7, 10_000])  # of the pieces that arrive
@pytest.mark.parametrize("closes", [False, True])
def test_a_request_that_offers_another_protocol_is_answered_with_its_body(size: int, *, closes: bool) -> None:
    offer = (
        b" / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AAM\r\n"
    )
    requests = b"".join(
        [
            b"POST" + offer % b"h2c" + b"Content-Length: %d\r\n\r\n" % len(GET) + GET,  # not another request
            b"GET" + offer % b"websocket" + b"\r\n",
            b"POST" + offer % b"h2c" + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
            GET[:-2] + b"Connection: Upgrade, close\r\nUpgrade: h2c\r\n\r\n"
            if closes
            else b"CONNECT" + offer % b"h2c" + b"\r\n",
        ]
    )

    async def scenario() -> None:
        async with Server().run(max_connections=10) as server:
            client = await server.connect()
            for start in range(0, len(requests), size):
                client.writer.write(requests[start : start + size])
                await asyncio.sleep(0)
            async with asyncio.timeout(WAIT_S):
                responses = (await client.reader.read()).split(b"HTTP/1.1 ")[1:]
            sizes = [response.rpartition(b"\r\n")[2] for response in responses[:-1]]
            assert sizes == [b"%d" % len(GET), b"0", b"4"]
            assert responses[-1].startswith(b"200" if closes else b"400")

    asyncio.run(scenario())


@pytest.mark.usefixtures("short_waits")
def test_a_body_that_is_discarded_after_the_response_is_cut() -> None:
    async def scenario() -> None:
        async with Server().run(max_connections=10) as server:
            client = await server.connect()
            assert await client.status(b"POST /unread HTTP/1.1\r\nContent-Length: 1000\r\n\r\n") == 200
            assert await client.closed()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "head",
    [
        b"POST /unread HTTP/1.1\r\nHost: test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /unread HTTP/1.0\r\nContent-Length: 500000\r\n\r\n",  # as nginx passes it on
    ],
)
def test_a_client_that_still_sends_its_body_receives_a_response_that_closes(head: bytes) -> None:
    """A reset instead loses the response, and is a failure of the service to a proxy."""

    async def scenario() -> None:
        async with Server().run(max_connections=10) as server:
            client = await server.connect()
            client.writer.write(head)
            for _ in range(100):
                client.writer.write(b"1000\r\n" + bytes(4096) + b"\r\n")
                await client.writer.drain()
                await asyncio.sleep(0.001)
            assert await client.status() == 200
            client.writer.close()
            assert await client.closed()

    asyncio.run(scenario())


def test_a_client_that_does_not_read_its_response_is_cut_and_a_slow_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "WRITE_TIMEOUT_S", 0.3)

    async def scenario() -> None:
        async with Server().run(max_connections=10) as server:
            silent, slow = await server.connect(), await server.connect()
            for client in (silent, slow):
                client.writer.write(GET.replace(b"/ ", b"/large ", 1))
            body = 0
            while body < 20_000_000:
                body += len(await slow.reader.read(2**20))
                await asyncio.sleep(0.01)
            assert len(server.connections()) == 1
            assert server.connections()[0].client[1] == slow.writer.get_extra_info("sockname")[1]  # type: ignore[index]

    asyncio.run(scenario())


def test_at_the_limit_connections_without_a_request_give_way_and_others_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_limits, "MIN_WAIT_S", 60.0)

    async def scenario() -> None:
        async with Server().run(max_connections=3) as server:
            busy = await server.connect()
            assert await busy.status(GET) == 200
            busy.writer.write(POST)
            attackers = [await server.connect() for _ in range(2)]
            refused = await server.connect()
            assert await refused.status() == 503  # the others have just been opened
            assert await refused.closed()
            monkeypatch.setattr(connection_limits, "MIN_WAIT_S", 0.0)
            assert await (await server.connect()).status(GET) == 200
            assert await attackers[0].closed()
            assert await busy.status(b"0\r\n\r\n") == 200

    asyncio.run(scenario())
