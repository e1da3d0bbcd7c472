"""Run `collect` and read the collected files and their manifest."""

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


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def collected_files(folder: Path) -> dict[str, bytes]:
    """Contents of the images in class folders, by relative path."""
    paths = (path for path in folder.glob("*/*") if not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def assert_consistent(folder: Path) -> None:
    """Check that every file can be decoded and has exactly one row with its SHA-256."""
    files = collected_files(folder)
    for data in files.values():
        images.decode(data, ImageContract(stretch="linear"))
    digests = {row["path"]: row["sha256"] for row in read_rows(folder / "catalogue.csv")}
    assert digests == {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    assert len(digests) == len(read_rows(folder / "catalogue.csv"))
