"""The OpenAPI document and its Swagger page at /docs, with scripts from this host alone."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from astrodetect.service.authentication import SAFE_METHODS, ApiKeys
from astrodetect.service.routes import health
from astrodetect.service.schemas import ErrorResponse

OPENAPI_URL = "/openapi.json"
CHANGE_STATUSES = HTTPStatus.FORBIDDEN, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE
KEY_STATUSES = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.TOO_MANY_REQUESTS,  # wrong keys
    HTTPStatus.SERVICE_UNAVAILABLE,  # PostgreSQL knows the keys
)
SWAGGER_POLICY = "default-src 'self' 'unsafe-inline'; img-src 'self' data:"  # the page starts Swagger inline


def add(app: FastAPI, keys: ApiKeys) -> None:
    """Adds the OpenAPI document with the keys, /docs and its static files."""
    app.openapi_url = OPENAPI_URL
    app.setup()
    files = StaticFiles(packages=[("fastapi_swagger", "resources")])

    @app.get("/swagger/{path:path}", include_in_schema=False)
    async def swagger(request: Request, path: str) -> Response:  # no mount: it needs the prefix of --root-path
        return await files.get_response(path, request.scope)

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> HTMLResponse:
        root_path = request.scope["root_path"]
        page = get_swagger_ui_html(
            openapi_url=root_path + OPENAPI_URL,
            title=app.title,
            swagger_js_url=f"{root_path}/swagger/swagger-ui-bundle.js",
            swagger_css_url=f"{root_path}/swagger/swagger-ui.css",
            swagger_favicon_url=f"{root_path}/swagger/favicon-32x32.png",
        )
        page.headers["Content-Security-Policy"] = SWAGGER_POLICY
        return page

    document_keys(app, keys)


def document_keys(app: FastAPI, keys: ApiKeys) -> None:
    """Adds the API keys, and the errors that the middleware answers, to the OpenAPI document."""
    generate = app.openapi
    error = {"application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorResponse.__name__}"}}}

    def declare(operation: dict[str, Any], statuses: Iterable[HTTPStatus]) -> None:
        for status in statuses:
            response = operation["responses"].get(str(status.value), {"description": status.phrase})
            operation["responses"][str(status.value)] = response | {"content": response.get("content", {}) | error}

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        document = generate()
        last = {getattr(route, "path", "") for route in health.router.routes}  # first in the application
        document["paths"] = dict(sorted(document["paths"].items(), key=lambda item: item[0] in last))
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if method.upper() not in SAFE_METHODS:
                    declare(operation, CHANGE_STATUSES)
                if keys.required(method.upper(), path):
                    declare(operation, KEY_STATUSES)
                    operation["security"] = [{"key": []}]
        if keys:
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return document

    app.openapi = openapi  # type: ignore[method-assign]
