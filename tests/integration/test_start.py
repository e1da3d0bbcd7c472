"""What a start imports, and what answers before all routes are imported."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI
from programs import ROOT
from starlette.testclient import TestClient

from astrodetect.errors import ModelMissing
from astrodetect.service import deferred_routes
from astrodetect.service.opened_model import OpenedModel
from astrodetect.settings import Settings
from main import create_app

import_routers = deferred_routes.import_routers


@pytest.fixture
def starting_app(tmp_path: Path) -> FastAPI:
    """The application as uvicorn gets it, without a model and with a database that does not answer."""
    opening: Future[OpenedModel] = Future()
    opening.set_exception(ModelMissing("no model"))
    url = "postgresql://someone@127.0.0.1:1/astrodetect"
    return create_app(Settings(DATABASE_URL=url, models_dir=tmp_path, data_dir=tmp_path), opening)


@pytest.fixture
def starting(starting_app: FastAPI) -> Iterator[TestClient]:
    """A client of it that gets the response to an unexpected error."""
    with TestClient(starting_app, raise_server_exceptions=False) as client:
        yield client


def test_the_service_starts_without_what_is_slow_to_import(tmp_path: Path) -> None:
    """Under uvicorn not even the pages are imported, nor the models of OpenAPI documents built; ours are."""
    slow = "tensorflow keras scipy.ndimage scipy.optimize numpy.f2py sklearn matplotlib pandas pyarrow astropy requests"
    code = (
        "import sys; sys.argv[0] = 'uvicorn'; import main; from fastapi.openapi.models import OpenAPI\n"
        "from astrodetect.service.schemas import PredictionResponse\n"
        "print('jinja2' in sys.modules, OpenAPI.__pydantic_complete__, PredictionResponse.__pydantic_complete__)\n"
        "main.app.router.default.load()\n"
        f"print('jinja2' in sys.modules, {{*'{slow} openvino.tools.ovc rich'.split()}} & {{*sys.modules}})"
    )
    environment = {**os.environ, "ASTRODETECT_MODELS_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert process.stdout.splitlines() == ["False False True", "True set()"]


@pytest.mark.parametrize(
    ("request_line", "accept", "status", "content"),
    [
        ("GET /openapi.json", "*/*", 200, '"/predictions"'),
        ("GET /models/", "*/*", 200, "[]"),  # by a redirect
        ("HEAD /docs", "*/*", 200, ""),
        ("GET /nowhere", "*/*", 404, '"not_found"'),
        ("GET /nowhere", "text/html", 404, 'href="/history"'),  # the page of an error has the navigation
        ("GET /detect", "text/html", 405, 'href="/history"'),
    ],
)
def test_a_route_that_is_not_loaded_yet_answers(
    starting: TestClient, request_line: str, accept: str, status: int, content: str
) -> None:
    assert isinstance(starting.app, FastAPI)
    assert all(getattr(route, "path", "") != "/docs" for route in starting.app.routes)
    response = starting.request(*request_line.split(), headers={"accept": accept})
    assert (response.status_code, content in response.text) == (status, True)
    assert starting.get("/docs").status_code == 200


def test_requests_during_the_loading_wait_and_others_do_not(
    starting: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, finish = threading.Event(), threading.Event()

    def slow_import() -> tuple[APIRouter, ...]:
        assert not loading.is_set()
        loading.set()
        finish.wait()
        return import_routers()

    monkeypatch.setattr(deferred_routes, "import_routers", slow_import)
    with ThreadPoolExecutor(2) as pool:
        responses = [pool.submit(starting.get, "/models") for _ in range(2)]
        loading.wait()
        assert starting.get("/health/live").status_code == 200
        assert not any(response.done() for response in responses)
        finish.set()
        assert [response.result().status_code for response in responses] == [200, 200]
    assert isinstance(starting.app, FastAPI)
    assert [getattr(route, "path", "") for route in starting.app.routes].count("/docs") == 1


def test_routes_that_cannot_be_loaded_are_an_error_of_theirs_and_tried_again(
    starting_app: FastAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed = threading.Event()

    def broken_import() -> tuple[APIRouter, ...]:
        failed.set()
        raise ImportError("broken")

    monkeypatch.setattr(deferred_routes, "LOAD_AFTER_S", 0.0)
    monkeypatch.setattr(deferred_routes, "import_routers", broken_import)
    with TestClient(starting_app, raise_server_exceptions=False) as client:
        failed.wait()
        assert client.get("/models").json()["error"]["code"] == "internal_error"
        assert client.get("/health/live").status_code == 200
        assert "cannot be loaded" in caplog.text
        monkeypatch.setattr(deferred_routes, "import_routers", import_routers)
        assert client.get("/models").status_code == 200
