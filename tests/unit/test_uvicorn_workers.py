"""Workers of one machine divide its processors among them."""

import multiprocessing
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from programs import ROOT

from astrodetect.service.uvicorn_workers import is_served, worker_count

KILLED_PARENT = """
import multiprocessing, os, time
from astrodetect.service.uvicorn_workers import end_with_parent

def work():
    end_with_parent()
    time.sleep(60)

if __name__ == "__main__":
    worker = multiprocessing.get_context("spawn").Process(target=work)
    worker.start()
    print(worker.pid, flush=True)
    os._exit(1)
"""


@pytest.mark.parametrize(
    ("arguments", "concurrency", "count"),
    [
        (["uvicorn", "main:app", "--workers", "4", "--port", "80"], None, 4),
        (["astrodetect", "serve", "--workers=3"], "2", 3),
        (["uvicorn", "main:app"], "2", 2),
        (["uvicorn", "main:app"], "many", 1),
        (["uvicorn", "main:app"], None, 1),
    ],
)
def test_a_worker_knows_how_many_there_are(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], concurrency: str | None, count: int
) -> None:
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)
    if concurrency:
        monkeypatch.setenv("WEB_CONCURRENCY", concurrency)
    assert worker_count() == 1  # this process is none
    monkeypatch.setattr(multiprocessing, "parent_process", object)
    assert worker_count() == count


@pytest.mark.parametrize(
    ("program", "served"),
    [
        ("/venv/bin/uvicorn", True),
        ("/venv/lib/python3.11/site-packages/uvicorn/__main__.py", True),
        ("/venv/bin/pytest", False),
        ("-c", False),
        ("", False),
    ],
)
def test_only_uvicorn_opens_the_model_while_the_service_is_imported(
    monkeypatch: pytest.MonkeyPatch, program: str, served: bool
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "main:app"])
    assert is_served() == served


def test_a_worker_ends_where_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(KILLED_PARENT)
    command, environment = [sys.executable, str(script)], {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        worker = psutil.Process(int(parent.stdout.readline()))
        assert psutil.wait_procs([worker], timeout=10)[1] == []
