"""`uvicorn main:app` as a process: its life, its ends, and PostgreSQL's."""

import io
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import psutil
import pytest
from PIL import Image
from programs import ROOT, Program, ServerUser, Service, query

from astrodetect import images
from astrodetect.db.embedded.lifetime import psql_command

MEMORY_LIMIT_BYTES = 500_000_000


@pytest.fixture
def jpeg(tmp_path: Path) -> bytes:
    images.write_jpeg(tmp_path / "sky.jpg", np.random.default_rng(0).integers(0, 255, (227, 227, 3), dtype=np.uint8))
    return (tmp_path / "sky.jpg").read_bytes()


def test_with_its_own_postgresql_it_sets_up_serves_and_leaves_nothing_running(
    model_folder: Path, tmp_path: Path, jpeg: bytes
) -> None:
    environment = {"ASTRODETECT_DATA_DIR": str(tmp_path / "data"), "ASTRODETECT_MODELS_DIR": str(model_folder)}
    for start in (1, 2):
        with Service(log=tmp_path / f"log{start}", environment=environment) as service:
            service.wait_until(service.ready)
            answer = service.detect(jpeg).json()
            assert answer["id"] == start
            shown = subprocess.run(
                [sys.executable, "-m", "astrodetect", "psql", "--show"],
                cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=True,
            ).stdout.strip()  # fmt: skip
            pasted = subprocess.run(
                f'{shown} -At -c "SELECT id, image_name, score, result FROM predictions ORDER BY id DESC LIMIT 1"',
                shell=True, capture_output=True, text=True, check=True,
            ).stdout.strip()  # fmt: skip
            assert pasted == f"{start}|sky.jpg|{answer['score']!r}|{answer['result']}"
            service.signal(signal.SIGINT if start == 1 else signal.SIGTERM)
            assert service.wait() == 0
        assert "Application shutdown complete" in service.output
        assert not (tmp_path / "data" / "postgres" / "postmaster.pid").exists()


def test_killed_it_loses_no_row_and_starts_again(model_folder: Path, tmp_path: Path, jpeg: bytes) -> None:
    environment = {"ASTRODETECT_DATA_DIR": str(tmp_path / "data"), "ASTRODETECT_MODELS_DIR": str(model_folder)}
    with Service(log=tmp_path / "log1", environment=environment) as service:
        service.wait_until(service.ready)
        ids = [service.detect(jpeg).json()["id"] for _ in range(5)]
        service.signal(signal.SIGKILL)
        service.wait()
    with Service(log=tmp_path / "log2", environment=environment) as service:
        service.wait_until(service.ready)
        rows = httpx2.get(f"{service.url}/predictions").json()["predictions"]
        assert [row["id"] for row in rows] == ids[::-1]
        service.signal(signal.SIGINT)
        service.wait()
    assert not (tmp_path / "data" / "postgres" / "postmaster.pid").exists()


def test_a_postgresql_that_goes_and_comes_back_costs_no_restart(
    model_folder: Path, tmp_path: Path, jpeg: bytes
) -> None:
    folder = tmp_path / "data" / "postgres"
    other = ServerUser(folder)
    url = other.url()
    query(url, "CREATE DATABASE log")
    address = url.replace("/postgres?", "/log?", 1)
    environment = {"DATABASE_URL": address, "ASTRODETECT_MODELS_DIR": str(model_folder)}
    with Program("setup_db.py", log=tmp_path / "setup.log", environment=environment) as setup:
        assert setup.wait() == 0
    with Service(log=tmp_path / "log", environment=environment) as service:
        service.wait_until(service.ready)
        first = service.detect(jpeg).json()["id"]
        other.leave()
        away = service.detect(jpeg).json()
        assert (away["logged"], away["id"]) == ("queued", None)
        assert httpx2.get(f"{service.url}/predictions").status_code == 503
        other = ServerUser(folder)
        other.url()
        service.wait_until(lambda: httpx2.get(f"{service.url}/health/ready").json()["logged"] == "committed")
        assert service.detect(jpeg).json()["id"] > first + 1
        [late] = httpx2.get(f"{service.url}/predictions?request_id={away['request_id']}").json()["predictions"]
        assert late == away | {"id": late["id"], "logged": "committed"}
        assert "Traceback" not in service.output
    other.leave()


def test_it_uses_little_memory_whatever_the_images(
    database_url: str, model_folder: Path, tmp_path: Path, jpeg: bytes
) -> None:
    environment = {"DATABASE_URL": database_url, "ASTRODETECT_MODELS_DIR": str(model_folder)}
    with Service(log=tmp_path / "log", environment=environment) as service:
        service.wait_until(service.ready)
        for _ in range(50):
            service.detect(jpeg)
        buffer = io.BytesIO()
        Image.new("RGBA", (4096, 4096), (9, 9, 9, 200)).save(buffer, "PNG")
        with ThreadPoolExecutor(8) as crowd:
            answers = list(crowd.map(service.detect, [buffer.getvalue()] * 8))
        assert [answer.status_code for answer in answers] == [200] * 8
        assert psutil.Process(service.process.pid).memory_info().rss < MEMORY_LIMIT_BYTES


@pytest.mark.parametrize("broken", ["resnet50_model.bin", "resnet50_model.json"])
def test_a_model_that_cannot_be_trusted_ends_the_start_in_one_line(
    database_url: str, model_folder: Path, tmp_path: Path, broken: str
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for path in model_folder.iterdir():
        if path.is_file():
            (models / path.name).write_bytes(path.read_bytes())
    (models / broken).write_bytes(b"{}")
    environment = {"DATABASE_URL": database_url, "ASTRODETECT_MODELS_DIR": str(models)}
    with Service(log=tmp_path / "log", environment=environment) as service:
        assert service.wait() != 0
    assert "Traceback" not in service.output
    assert sum(broken in line for line in service.output.splitlines()) == 1


@pytest.mark.parametrize("setting", ["ASTRODETECT_MAX_BODY_BYTES", "ASTRODETECT_DATABASE_CONNECTIONS"])
def test_a_setting_that_cannot_be_used_is_named(tmp_path: Path, setting: str) -> None:
    with Service(log=tmp_path / "log", environment={setting: "many"}) as service:
        assert service.wait() != 0
    assert setting in service.output
    assert "Traceback" not in service.output


def test_psql_line_is_pasted_into_a_shell_as_it_stands() -> None:
    assert psql_command("postgresql://postgres@/a?host=/x y&port=5432").endswith(
        "'postgresql://postgres@/a?host=/x y&port=5432'"
    )
