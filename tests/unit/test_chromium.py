"""The browser that the tests of pages run in: found, brought, or told to be missing."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from browser import chromium

FAILS = (sys.executable, "-c", "raise SystemExit(1)")
REAL = next((path for name in chromium.NAMES if (path := shutil.which(name))), None)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without a browser; the folder where its programs are."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "fetched"))
    monkeypatch.setattr(chromium, "CHANNELS", ())
    monkeypatch.setattr(chromium, "ELSEWHERE", ())
    return tmp_path


def test_without_a_browser_it_says_in_one_line_what_to_install(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = (sys.executable, "-c", "")
    monkeypatch.setattr(chromium, "ways", lambda: [[FAILS], [nothing]])
    assert chromium.ensure_installed() == chromium.LEFT_OUT
    assert "\n" not in chromium.LEFT_OUT


@pytest.mark.skipif(REAL is None or os.name != "posix", reason="no browser here that could be brought")
def test_the_first_way_that_brings_a_browser_is_the_last(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts, late = bare / "starts", bare / "late"
    starts.write_text(f'#!/bin/sh\nPATH={os.defpath} exec {REAL} "$@"\n')
    starts.chmod(0o700)
    brings = (sys.executable, "-c", f"import os; os.rename({str(starts)!r}, {str(bare / chromium.NAMES[0])!r})")
    too_many = (sys.executable, "-c", f"open({str(late)!r}, 'w')")
    monkeypatch.setattr(chromium, "ways", lambda: [[FAILS, too_many], [brings], [too_many]])
    assert chromium.ensure_installed().startswith("Chromium ")
    assert not late.exists()


@pytest.mark.parametrize(("user", "programs", "count"), [(0, {"apt-get"}, 3), (1000, {"apt-get"}, 1), (0, set(), 1)])
def test_packages_of_the_system_are_installed_only_by_who_may(
    monkeypatch: pytest.MonkeyPatch, user: int, programs: set[str], count: int
) -> None:
    monkeypatch.setattr(os, "name", "posix")
    monkeypatch.setattr(os, "geteuid", lambda: user, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in programs else None)
    assert len(chromium.ways()) == count


def test_a_way_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chromium, "FETCH_WITHIN_S", 0.1)
    assert not chromium.done((sys.executable, "-c", "import time; time.sleep(60)"))
    assert not chromium.done(("astrodetect-has-no-such-program",))
