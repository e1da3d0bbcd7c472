"""`uvicorn main:app` as a process: start-up, exits, and outages of PostgreSQL."""

import io
import os
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import psutil
import pytest
from PIL import Image
from programs import Program, ServerUser, Service, query, run_here

from astrodetect import images
from astrodetect.__main__ import main
from astrodetect.db.embedded.lifetime import psql_command

MEMORY_LIMIT_BYTES = 500_000_000


@pytest.fixture
def jpeg(tmp_path: Path) -> bytes:
    images.write_jpeg(tmp_path / "sky.jpg", np.random.default_rng(0).integers(0, 255, (227, 227, 3), dtype=np.uint8))
    return (tmp_path / "sky.jpg").read_bytes()


def test_the_service_with_the_embedded_postgresql_leaves_nothing_running(
    colour_models_dir: Path, tmp_path: Path, jpeg: bytes
) -> None:
    environment = {"ASTRODETECT_DATA_DIR": str(tmp_path / "data"), "ASTRODETECT_MODELS_DIR": str(colour_models_dir)}
    for start in (1, 2):
        with Service(log=tmp_path / f"log{start}", environment=environment) as service:
            service.wait_until(service.ready)
            response = service.detect(jpeg).json()
            assert response["id"] == start
            command = run_here(main, "psql", "--show", environment=environment).stdout.strip()
            output = subprocess.run(
                f'{command} -At -c "SELECT id, image_name, score, result FROM predictions ORDER BY id DESC LIMIT 1"',
                shell=True, capture_output=True, text=True, check=True,
            ).stdout.strip()  # fmt: skip
            assert output == f"{start}|sky.jpg|{response['score']!r}|{response['result']}"
            if start == 2:
                server = int((tmp_path / "data" / "postgres" / "postmaster.pid").read_text().split()[0])
                os.kill(server, signal.SIGKILL)  # the service starts it again
                service.wait_until(lambda: service.detect(jpeg).json()["logged"] == "queued")
                service.wait_until(lambda: httpx2.get(f"{service.url}/health/ready").json()["logged"] == "committed")
                assert service.detect(jpeg).json()["logged"] == "committed"
            service.signal(signal.SIGINT if start == 1 else signal.SIGTERM)
            assert service.wait() == 0
        assert "Application shutdown complete" in service.output
        assert not (tmp_path / "data" / "postgres" / "postmaster.pid").exists()


def test_a_killed_service_loses_no_row_and_starts_again(colour_models_dir: Path, tmp_path: Path, jpeg: bytes) -> None:
    environment = {"ASTRODETECT_DATA_DIR": str(tmp_path / "data"), "ASTRODETECT_MODELS_DIR": str(colour_models_dir)}
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


def test_an_outage_of_postgresql_needs_no_restart(colour_models_dir: Path, tmp_path: Path, jpeg: bytes) -> None:
    folder = tmp_path / "data" / "postgres"
    other = ServerUser(folder)
    url = other.url()
    query(url, "CREATE DATABASE log")
    address = url.replace("/postgres?", "/log?", 1)
    environment = {"DATABASE_URL": address, "ASTRODETECT_MODELS_DIR": str(colour_models_dir)}
    with Program("setup_db.py", log=tmp_path / "setup.log", environment=environment) as setup_program:
        assert setup_program.wait() == 0
    with Service(log=tmp_path / "log", environment=environment) as service:
        service.wait_until(service.ready)
        first = service.detect(jpeg).json()["id"]
        other.leave()
        queued = service.detect(jpeg).json()
        assert (queued["logged"], queued["id"]) == ("queued", None)
        assert httpx2.get(f"{service.url}/predictions").status_code == 503
        other = ServerUser(folder)
        other.url()
        service.wait_until(lambda: httpx2.get(f"{service.url}/health/ready").json()["logged"] == "committed")
        assert service.detect(jpeg).json()["id"] > first + 1
        [committed] = httpx2.get(f"{service.url}/predictions?request_id={queued['request_id']}").json()["predictions"]
        assert committed == queued | {"id": committed["id"], "logged": "committed"}
        assert "Traceback" not in service.output
    other.leave()


def test_the_service_uses_little_memory_with_large_images(
    database_url: str, model_folder: Path, tmp_path: Path, jpeg: bytes
) -> None:
    environment = {"DATABASE_URL": database_url, "ASTRODETECT_MODELS_DIR": str(model_folder)}
    environment["ASTRODETECT_REQUEST_TIMEOUT_S"] = "120"  # slow machines decode one for seconds
    with Service(log=tmp_path / "log", environment=environment) as service:
        service.wait_until(service.ready)
        for _ in range(50):
            service.detect(jpeg)
        buffer = io.BytesIO()
        Image.new("RGBA", (4096, 4096), (9, 9, 9, 200)).save(buffer, "PNG")
        with ThreadPoolExecutor(8) as executor:
            responses = list(executor.map(service.detect, [buffer.getvalue()] * 8))
        assert [response.status_code for response in responses] == [200] * 8
        assert psutil.Process(service.process.pid).memory_info().rss < MEMORY_LIMIT_BYTES


@pytest.mark.parametrize("broken", ["resnet50_model.bin", "resnet50_model.json"])
def test_a_damaged_model_ends_the_start_with_one_line(
    database_url: str, colour_models_dir: Path, tmp_path: Path, broken: str
) -> None:
    models = shutil.copytree(colour_models_dir, tmp_path / "models")
    (models / broken).write_bytes(b"{}")
    environment = {"DATABASE_URL": database_url, "ASTRODETECT_MODELS_DIR": str(models)}
    with Service(log=tmp_path / "log", environment=environment) as service:
        assert service.wait() != 0
    assert "Traceback" not in service.output
    assert sum(broken in line for line in service.output.splitlines()) == 1


def test_an_invalid_setting_is_named(tmp_path: Path) -> None:
    setting = "ASTRODETECT_MAX_BODY_BYTES"
    with Service(log=tmp_path / "log", environment={setting: "many"}) as service:
        assert service.wait() != 0
    assert setting in service.output
    assert "Traceback" not in service.output


def test_the_psql_command_is_quoted_for_a_shell() -> None:
    assert psql_command("postgresql://postgres@/a?host=/x y&port=5432").endswith(
        "'postgresql://postgres@/a?host=/x y&port=5432'"
    )
