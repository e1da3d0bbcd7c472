"""Routes that read PostgreSQL, in threads of their own: while it is slow, they take none from uploads."""

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi.routing import APIRoute

from astrodetect.errors import Overloaded

THREADS = 4  # more do not read faster, as they take the interpreter in turns, and an upload waits for all
MAX_QUEUED_S = 5.0  # for a thread

_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="reader")


class DatabaseRoute(APIRoute):
    """A route whose function, unless it is a coroutine, runs in one of THREADS."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint if inspect.iscoroutinefunction(endpoint) else _in_thread(endpoint), **options)


def _in_thread(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(endpoint)
    async def call(*arguments: Any, **values: Any) -> Any:
        context = contextvars.copy_context()
        future = _threads.submit(context.run, functools.partial(endpoint, *arguments, **values))
        result = asyncio.wrap_future(future)
        done, _ = await asyncio.wait({result}, timeout=MAX_QUEUED_S)
        if not done and future.cancel():
            raise Overloaded("too many requests wait for PostgreSQL: try again soon")
        return await result

    return call
