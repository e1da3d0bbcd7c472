"""Where a result comes from: the versions, the machine and the commit that made it."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from astrodetect import __version__
from astrodetect.settings import ROOT

NAMED = ("tensorflow", "keras", "jax", "openvino", "nncf", "numpy", "scikit-learn", "pillow")
CPU_INFO = Path("/proc/cpuinfo")
ASK_WITHIN_S = 5


def software_versions() -> dict[str, str]:
    """Of everything that may change a result, this machine's processor and the commit of the code among them."""
    found = {"astrodetect": __version__, "python": platform.python_version()}
    for name in NAMED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"commit": _commit(), "hardware": _hardware(), "system": platform.platform(terse=True)}


def _hardware() -> str:
    named = platform.processor() or platform.machine()
    if CPU_INFO.exists():
        models = [line.partition(":")[2].strip() for line in CPU_INFO.read_text().splitlines() if "model name" in line]
        named = models[0] if models else named
    return f"{os.cpu_count()} × {named}"


def _commit() -> str:
    """The commit, and whether files differ from it; empty outside of a clone."""
    try:
        asked = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"],  # noqa: S607 - wherever it is
            capture_output=True,
            text=True,
            timeout=ASK_WITHIN_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.strip()
