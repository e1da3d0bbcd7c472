"""Responses of many rows, sent as they are read: exports of predictions, labels and the audit log."""

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.responses import StreamingResponse
from starlette.types import Send

from astrodetect.errors import DatabaseError

log = logging.getLogger("uvicorn.error")
_thread = CapacityLimiter(1)  # of all such responses


class RowsResponse(StreamingResponse):
    """Rows that are sent as they are read; where PostgreSQL ends that, the connection is closed without their end."""

    def __init__(self, parts: Iterator[str], status_code: int = 200, **options: Any) -> None:
        super().__init__(_in_turns(parts), status_code, **options)  # FastAPI reads the default of `status_code`

    async def stream_response(self, send: Send) -> None:
        """Sends them."""
        try:
            await super().stream_response(send)
        except DatabaseError as error:  # the status has been sent
            log.error("a file of rows is cut short: %s", error)


async def _in_turns(parts: Iterator[str]) -> AsyncIterator[str]:
    """Each part in a thread, of which one works at a time: many would hold up the event loop, and uploads."""
    while (part := await to_thread.run_sync(next, parts, None, limiter=_thread)) is not None:
        yield part
