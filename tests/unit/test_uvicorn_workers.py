"""Workers of one machine divide its processors among them."""

import multiprocessing
import sys

import pytest

from astrodetect.service.uvicorn_workers import worker_count


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
