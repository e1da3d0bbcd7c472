"""Shared fixtures: a PostgreSQL server for the session, databases, services and models; no developer settings."""

import gc
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fasteners
import numpy as np
import pytest
from programs import query

import setup_db
from astrodetect import images
from astrodetect.datasets import dataset
from astrodetect.datasets.dataset import Dataset
from astrodetect.db.embedded.lifetime import embedded_server
from astrodetect.model_store.manifest import Manifest
from astrodetect.records import ImageContract
from astrodetect.settings import Settings, settings

if TYPE_CHECKING:
    from s3_server import S3Server
    from starlette.testclient import TestClient

_number = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --full, which runs fault and bulk tests at full length, and those that are marked `long`."""
    parser.addoption("--full", action="store_true", help="run every test, at full length: about two hours")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Use a new base folder as root: PostgreSQL then runs under another account, and pytest, as it starts, closes its
    usual base folder to other accounts, also while another session uses it."""
    if os.name == "posix" and os.geteuid() == 0 and not config.option.basetemp:
        config.option.basetemp = tempfile.mkdtemp(prefix="astrodetect-tests-")
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --full, leave out the tests that are marked `long`."""
    if not config.getoption("--full"):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]


@pytest.fixture(autouse=True)
def default_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Ignore DATABASE_URL, PORT, ASTRODETECT_*, `.env` and secrets; put the data folder under `tmp_path`."""
    for name in [name for name in os.environ if name.startswith("ASTRODETECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("PORT", raising=False)
    monkeypatch.setitem(Settings.model_config, "env_file", None)
    monkeypatch.setitem(Settings.model_config, "secrets_dir", None)
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("ASTRODETECT_DATA_DIR", str(tmp_path / "data"))
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether --full was given."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="module")
def s3_server() -> "Iterator[S3Server]":
    """An S3 server, with a proxy that can fail."""
    from s3_server import run_s3_server

    with run_s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_server: "S3Server", monkeypatch: pytest.MonkeyPatch) -> "Iterator[S3Server]":
    """The S3 server, with the environment and short waits of a client."""
    from astrodetect.storage import clients

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(clients, "BACKOFF_S", 0.01)
    monkeypatch.setattr(clients, "RETRY_S", 10.0)
    clients.forget_servers()
    yield s3_server
    s3_server.faults.clear()
    s3_server.requests.clear()
    clients.forget_servers()


@pytest.fixture
def bucket(s3: "S3Server") -> str:
    """The URL of a new bucket."""
    return s3.make_bucket(f"bucket-{next(_number)}")


@pytest.fixture(scope="session")
def postgres_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the session's PostgreSQL server."""
    return tmp_path_factory.mktemp("server") / "postgres"


@pytest.fixture(scope="session")
def postgres_server(postgres_folder: Path) -> Iterator[str]:
    """The session's PostgreSQL server: the URL of its database `postgres`."""
    with embedded_server(postgres_folder, "postgres") as url:
        query(url, "ALTER SYSTEM SET fsync = off")  # durability is not needed here
        query(url, "SELECT pg_reload_conf()")
        yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """A new, empty database."""
    return _database(postgres_server, template="template0")


@pytest.fixture(scope="session")
def _set_up(postgres_server: str) -> str:
    setup_db.migrate(_database(postgres_server, template="template0", name="set_up"))
    return "set_up"


@pytest.fixture(scope="session")
def new_database(postgres_server: str, _set_up: str) -> Callable[[], str]:
    """A function that creates migrated databases."""
    return partial(_database, postgres_server, template=_set_up)


@pytest.fixture
def database_url(new_database: Callable[[], str]) -> str:
    """A new, migrated database."""
    return new_database()


@pytest.fixture(scope="module")
def log_url(new_database: Callable[[], str]) -> str:
    """The module's migrated database, used by `page_client`."""
    return new_database()


@pytest.fixture(scope="session")
def colour_models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Published colour models, not to be modified: `resnet50_model` of two classes with novelty detectors, and
    `colours` of three classes without."""
    import colour_models

    folder = tmp_path_factory.mktemp("colour_models")
    colour_models.publish_with_detectors(
        folder, "resnet50_model", np.stack([colour_models.image("nebula", seed) for seed in range(30)])
    )
    colour_models.publish(folder, "colours")
    return folder


@pytest.fixture(scope="session")
def models_dir(colour_models_dir: Path) -> Path:
    """The models of the services that `start` starts; a test file with other models defines its own."""
    return colour_models_dir


@pytest.fixture
def service_settings() -> dict[str, Any]:
    """Settings of the services that `start` starts; a test file with other settings defines its own."""
    return {}


@pytest.fixture(scope="module")
def _apps_collected() -> Iterator[None]:
    """Frees a module's apps, which are reference cycles that hold networks: a collection traverses all of TensorFlow's
    objects, and one after each test was a seventh of the time of all tests."""
    yield
    gc.collect()


@pytest.fixture
def start(
    _apps_collected: None, database_url: str, models_dir: Path, service_settings: dict[str, Any], tmp_path: Path
) -> "Iterator[Callable[..., TestClient]]":
    """A function that starts services with `service_settings` and given settings; redirects are not followed."""
    from starlette.testclient import TestClient

    from main import create_app

    with ExitStack() as stack:

        def start_service(**overrides: Any) -> TestClient:
            fields = {"database_url": database_url, "models_dir": models_dir, "data_dir": tmp_path / "data"}
            app = create_app(Settings.model_validate({**fields, **service_settings, **overrides}))
            return stack.enter_context(TestClient(app, follow_redirects=False))

        yield start_service


@pytest.fixture
def client(start: "Callable[..., TestClient]") -> "TestClient":
    """A test client of a service with a new database."""
    return start()


@pytest.fixture(scope="module")
def _service(_apps_collected: None, log_url: str, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[TestClient]":
    from starlette.testclient import TestClient

    from main import create_app

    folder = tmp_path_factory.mktemp("service")
    with TestClient(create_app(Settings(DATABASE_URL=log_url, models_dir=folder, data_dir=folder))) as client:
        yield client


@pytest.fixture
def page_client(_service: "TestClient", log_url: str) -> "TestClient":
    """A test client of the module's service, with no model and an empty `predictions` table."""
    query(log_url, "TRUNCATE predictions, pictures, heat_maps, image_tags, label_names CASCADE")
    _service.cookies.clear()
    return _service


def _database(server: str, *, template: str, name: str | None = None) -> str:
    name = name or f"test_{next(_number)}"
    query(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    return server.replace("/postgres?", f"/{name}?", 1)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published, untrained ResNet50 at 32 px; the processes that run tests side by side make it once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "models"
    with fasteners.InterProcessLock(folder.with_suffix(".lock")):
        if not folder.exists():
            _export_resnet50(folder)
    return folder


def _export_resnet50(folder: Path) -> None:
    from astrodetect.learning import export, network
    from astrodetect.recipes import PixelStatistics

    size = 32
    network.set_seed(0)
    model = export.TrainedNetwork(network.build("resnet50", size, PixelStatistics((128.0,) * 3, (5000.0,) * 3), 1))
    manifest = Manifest(
        name="resnet50_model",
        classes=["SB", "E"],
        image=ImageContract(size=size),
        metrics={},
        data={},
        settings={},
        versions={},
    )
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    held_out = export.HeldOut(pixels, np.array([0, 1]), model.probabilities(pixels))
    export.export_model(model, manifest, folder, held_out)


@pytest.fixture(scope="module")
def noise_images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Eleven images of 40 px in each of two classes."""
    random, folder = np.random.default_rng(2), tmp_path_factory.mktemp("images")
    for name in ("SB", "E"):
        (folder / name).mkdir()
        for number in range(11):
            images.write_jpeg(folder / name / f"{number}.jpg", random.integers(0, 255, (40, 40, 3), dtype=np.uint8))
    return dataset.read_dataset(folder, ("SB", "E"), title="images")
