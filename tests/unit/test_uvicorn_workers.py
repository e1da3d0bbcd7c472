"""Workers of one machine divide its processors among them."""

import multiprocessing
import sys

import pytest

from astrodetect.service.uvicorn_workers import is_served, worker_count


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
