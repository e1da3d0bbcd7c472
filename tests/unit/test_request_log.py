"""The handler that writes the log lines of requests."""

import asyncio
import io
import logging

from astrodetect.service.middleware.request_log import LineHandler


class Stream(io.StringIO):
    """Remembers what was written at once."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return len(text)


def lines(*texts: str) -> list[logging.LogRecord]:
    return [logging.LogRecord("test", logging.INFO, __file__, 1, "%s", (text,), None) for text in texts]


def test_the_lines_of_one_turn_of_the_event_loop_are_written_together_in_their_order() -> None:
    handler = LineHandler(stream := Stream())

    async def turns() -> None:
        for record in lines("first", "second"):
            handler.handle(record)
        assert stream.writes == []
        await asyncio.sleep(0)
        for record in lines("third"):
            handler.handle(record)
        await asyncio.sleep(0)

    asyncio.run(turns())
    assert stream.writes == ["first\nsecond\n", "third\n"]


def test_without_an_event_loop_a_line_is_written_at_once_and_at_the_end_what_waits() -> None:
    handler = LineHandler(stream := Stream())
    for record in lines("first", "second"):
        handler.handle(record)
    assert stream.writes == ["first\n", "second\n"]

    async def ends() -> None:
        for record in lines("third"):
            handler.handle(record)
        handler.flush()  # as logging.shutdown does
        assert stream.writes[2:] == ["third\n"]

    asyncio.run(ends())
    assert len(stream.writes) == 3
