"""The page: what people see at / in a browser; every section is a module of its own."""

from fastapi import FastAPI

from astrodetect.service.middleware.security_headers import SecurityHeadersMiddleware
from astrodetect.service.web import (
    history,
    live,
    models,
    neighbours,
    prediction,
    projection_map,
    review,
    samples,
    sign_in,
    static_files,
    thumbnails,
    upload,
)

SECTIONS = (
    static_files,
    upload,
    samples,
    neighbours,
    sign_in,
    thumbnails,
    review,
    live,
    projection_map,
    history,
    prediction,
    models,
)


def add(app: FastAPI) -> None:
    """Has the service show it, from this host alone."""
    for section in SECTIONS:
        app.include_router(section.router)
    app.add_middleware(SecurityHeadersMiddleware)
