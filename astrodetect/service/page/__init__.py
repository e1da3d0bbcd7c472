"""The page: what people see at / in a browser; every section is a module of its own."""

from pathlib import Path

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from astrodetect.service.page import (
    alike,
    history,
    key,
    live,
    mapping,
    pictures,
    prediction,
    reviewing,
    samples,
    trained,
    trying,
)
from astrodetect.service.page.guarded import Guarded

STATIC = Path(__file__).parent.parent / "static"
SECTIONS = (trying, samples, alike, key, pictures, reviewing, live, mapping, history, prediction, trained)


def add(app: FastAPI) -> None:
    """Has the service show it, from this host alone."""
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    for section in SECTIONS:
        app.include_router(section.router)
    app.add_middleware(Guarded)
