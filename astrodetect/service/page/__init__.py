"""The page: what people see at / in a browser; every section is a module of its own."""

from fastapi import FastAPI

from astrodetect.service.page import (
    alike,
    files,
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

SECTIONS = (files, trying, samples, alike, key, pictures, reviewing, live, mapping, history, prediction, trained)


def add(app: FastAPI) -> None:
    """Has the service show it, from this host alone."""
    for section in SECTIONS:
        app.include_router(section.router)
    app.add_middleware(Guarded)
