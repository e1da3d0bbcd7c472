"""The routes that no first answer needs: all but detection and health. Importing them takes a quarter of the start."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module

from fastapi import APIRouter, FastAPI
from starlette.types import Receive, Scope, Send

from astrodetect.service.authentication import ApiKeys

LOAD_AFTER_S = 1.0  # from when the service is ready: the first requests have the interpreter to themselves
MODULES = ("predictions", "cone_search", "labels_review", "models")  # of `routes`

log = logging.getLogger("uvicorn.error")


class DeferredRoutes:
    """Adds the routes to the application once: soon after the start, or when a request needs one of them.

    Until then it is what answers a request that no route matches. No path of theirs may match one of the others.
    """

    def __init__(self, app: FastAPI, keys: ApiKeys) -> None:
        self._app, self._keys, self._lock = app, keys, asyncio.Lock()
        self._not_found = app.router.default
        app.router.default = self

    def load(self) -> None:
        """Imports the routes and adds them."""
        self._add(import_routers())

    async def load_once(self) -> None:
        """The same in the event loop, at most once; requests are answered while a thread imports."""
        async with self._lock:
            if self._app.router.default is self:
                self._add(await asyncio.to_thread(import_routers))

    @asynccontextmanager
    async def load_soon(self) -> AsyncIterator[None]:
        """Loads them after LOAD_AFTER_S, unless the block has ended."""
        loading = asyncio.create_task(self._load_later())
        try:
            yield
        finally:
            loading.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request that no route has matched yet."""
        await self.load_once()
        await self._app.router(scope, receive, send)

    async def _load_later(self) -> None:
        await asyncio.sleep(LOAD_AFTER_S)
        try:
            await self.load_once()
        except Exception:
            log.exception("routes of the pages and the log cannot be loaded")
        gc.freeze()  # as what the start made

    def _add(self, routers: tuple[APIRouter, ...]) -> None:
        for router in routers:
            self._app.include_router(router)
        import_module("astrodetect.service.routes.api_docs").add(self._app, self._keys)
        self._app.router.default = self._not_found


def import_routers() -> tuple[APIRouter, ...]:
    """The routers, in the order in which their routes match."""
    routers = (import_module(f"astrodetect.service.routes.{name}").router for name in MODULES)
    sections: tuple[APIRouter, ...] = import_module("astrodetect.service.web.sections").ROUTERS
    import_module("astrodetect.service.routes.api_docs")  # now, not when they are added
    return (*routers, *sections)
