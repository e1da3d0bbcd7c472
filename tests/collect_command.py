"""Runs `collect` as its user does, and looks at what came."""

import csv
import hashlib
import subprocess
from pathlib import Path

from programs import run_here
from source_server import SourceServer

from astrodetect import images
from astrodetect.__main__ import main
from astrodetect.records import ImageContract

QUERIES = ("--class", "galaxy=spiral galaxy", "--class", "nebula=nebula")


def collect(server: SourceServer, *arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    return run_here(main, "collect", *arguments, environment=server.environment | environment)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def collected(folder: Path) -> dict[str, bytes]:
    """The images in class folders, by path: what training would read."""
    found = (path for path in folder.glob("*/*") if not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def assert_true(folder: Path) -> None:
    """Every file decodes; every row is that of its file, and every file has one."""
    files = collected(folder)
    for data in files.values():
        images.decode(data, ImageContract(stretch="linear"))
    sums = {row["path"]: row["sha256"] for row in rows(folder / "catalogue.csv")}
    assert sums == {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    assert len(sums) == len(rows(folder / "catalogue.csv"))
