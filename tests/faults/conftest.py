"""A PostgreSQL that tests may stop, and services that they may kill."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from programs import Service, query

import setup_db
from faults.postgres_process import PostgresServer, PredictionsDatabase
from faults.service_state import Start

_number = itertools.count(1)


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path_factory.mktemp("faults") / "postgres")
    query(server.url("postgres"), "ALTER SYSTEM SET fsync = off")  # processes are killed here, not machines
    query(server.url("postgres"), "SELECT pg_reload_conf()")
    query(server.url("postgres"), "CREATE DATABASE set_up")
    setup_db.migrate(server.url("set_up"))
    yield server
    server.stop()


@pytest.fixture
def log(_server: PostgresServer) -> Iterator[PredictionsDatabase]:
    """A database as setup_db leaves it."""
    name = f"faults_{next(_number)}"
    query(_server.url("postgres"), f"CREATE DATABASE {name} TEMPLATE set_up")
    yield PredictionsDatabase(_server, name)
    _server.start()


@pytest.fixture
def start(log: PredictionsDatabase, model_folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts the service on that database, with these settings, and waits until it is ready."""
    with ExitStack() as stack:

        def start_service(
            *, wait: bool = True, url: str = log.url, arguments: Sequence[str] = (), **chosen: object
        ) -> Service:
            environment = {f"ASTRODETECT_{name}".upper(): str(value) for name, value in chosen.items()}
            environment = {"ASTRODETECT_MODELS_DIR": str(model_folder)} | environment | {"DATABASE_URL": url}
            service = Service(log=tmp_path / f"log{next(_number)}", environment=environment, arguments=arguments)
            stack.enter_context(service)
            if wait:
                service.wait_until(service.ready)
            return service

        yield start_service
