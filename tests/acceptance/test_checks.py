"""Linters, the type checker and the build of the documentation have nothing to report."""

import subprocess
import sys

import pytest
from programs import ROOT

LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"


@pytest.mark.parametrize(
    "check",
    [
        ("-m", "ruff", "check", "."),
        ("-m", "ruff", "format", "--check", "."),
        ("-m", "mypy"),
        ("-c", LINT_IMPORTS),
        ("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", ".venv/docs"),
    ],
    ids=["lint", "format", "types", "imports", "documentation"],
)
def test_a_check_passes(check: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, *check], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
