"""Provenance of a result: package versions, hardware, operating system and commit."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from astrodetect import __version__
from astrodetect.settings import INSTALLED, ROOT

PACKAGES = ("tensorflow", "keras", "jax", "openvino", "nncf", "numpy", "scikit-learn", "pillow")
CPU_INFO = Path("/proc/cpuinfo")
GIT_TIMEOUT_S = 5


def software_versions() -> dict[str, str]:
    """Versions of everything that may change a result, with the hardware and the commit."""
    versions = {"astrodetect": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions | {"commit": _commit(), "hardware": _hardware(), "system": platform.platform(terse=True)}


def _hardware() -> str:
    processor = platform.processor() or platform.machine()
    if CPU_INFO.exists():
        models = [line.partition(":")[2].strip() for line in CPU_INFO.read_text().splitlines() if "model name" in line]
        processor = models[0] if models else processor
    return f"{os.cpu_count()} × {processor}"


def _commit() -> str:
    """The commit, with -dirty if files differ; empty outside a clone."""
    if INSTALLED:
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"],  # noqa: S607 - its folder differs
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
