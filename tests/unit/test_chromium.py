"""The browser of the page tests is found, installed, or reported missing in one line."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from browser import chromium

FAILS = (sys.executable, "-c", "raise SystemExit(1)")
REAL = next((path for name in chromium.NAMES if (path := shutil.which(name))), None)


@pytest.fixture
def no_browser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without a browser; returns the only folder of its PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "downloaded"))
    monkeypatch.setattr(chromium, "CHANNELS", ())
    monkeypatch.setattr(chromium, "MACOS_PATHS", ())
    return tmp_path


def test_a_missing_browser_is_reported_in_one_line(no_browser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    succeeds = (sys.executable, "-c", "")
    monkeypatch.setattr(chromium, "install_methods", lambda: [[FAILS], [succeeds]])
    assert chromium.ensure_installed() == chromium.SKIPPED
    assert "\n" not in chromium.SKIPPED


def test_a_driver_that_does_not_start_is_reported_as_a_missing_browser(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chromium, "DRIVER_VERSION", FAILS)
    monkeypatch.setattr(chromium, "install_methods", lambda: [[FAILS]])
    assert chromium.ensure_installed() == chromium.SKIPPED
    assert capfd.readouterr().err == ""


def test_root_on_debian_installs_the_drivers_library_with_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "name", "posix")
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "apt-get" else None)
    assert {"chromium", "libatomic1"} <= set(chromium.install_methods()[-1][-1])


@pytest.mark.skipif(REAL is None or os.name != "posix", reason="no browser to copy")
def test_installation_stops_at_the_first_method_that_works(no_browser: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapper, late = no_browser / "wrapper", no_browser / "late"
    wrapper.write_text(f'#!/bin/sh\nPATH={os.defpath} exec {REAL} "$@"\n')
    wrapper.chmod(0o700)
    installs = (
        sys.executable,
        "-c",
        f"import os; os.rename({str(wrapper)!r}, {str(no_browser / chromium.NAMES[0])!r})",
    )
    too_late = (sys.executable, "-c", f"open({str(late)!r}, 'w')")
    monkeypatch.setattr(chromium, "install_methods", lambda: [[FAILS, too_late], [installs], [too_late]])
    assert chromium.ensure_installed().startswith("Chromium ")
    assert not late.exists()


@pytest.mark.parametrize(("user", "programs", "count"), [(0, {"apt-get"}, 3), (1000, {"apt-get"}, 1), (0, set(), 1)])
def test_system_packages_are_installed_only_as_root(
    monkeypatch: pytest.MonkeyPatch, user: int, programs: set[str], count: int
) -> None:
    monkeypatch.setattr(os, "name", "posix")
    monkeypatch.setattr(os, "geteuid", lambda: user, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in programs else None)
    assert len(chromium.install_methods()) == count


def test_an_installation_command_that_hangs_or_is_missing_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chromium, "INSTALL_TIMEOUT_S", 0.1)
    assert not chromium.run_quietly((sys.executable, "-c", "import time; time.sleep(60)"))
    assert not chromium.run_quietly(("astrodetect-has-no-such-program",))
