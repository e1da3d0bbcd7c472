"""The folder of a run's results: replaced whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from astrodetect.errors import DataError

OUTPUT_NAMES = {"anomalies.csv", "anomalies.parquet", "anomalies.html", "ids"}


def check_output_folder(place: Path) -> None:
    """Whether results can come here, before any work is done for them: nothing that is not ours is ever removed."""
    before = _before(place)
    if before.is_dir() and not place.exists():
        before.rename(place)  # a process was killed between two renames
    if place.exists() and not place.is_dir():
        raise DataError(f"{place} is there and no folder: name another --output")
    strangers = sorted({path.name for path in place.iterdir()} - OUTPUT_NAMES) if place.is_dir() else []
    if strangers:
        raise DataError(f"{place} holds {strangers[0]}, which no run made: move it, or name another --output")


@contextmanager
def replace_output_folder(place: Path) -> Iterator[Path]:
    """An empty folder that takes the place of an earlier run's when all is in it."""
    staged = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        try:
            staged.mkdir(parents=True)
            yield staged
            check_output_folder(place)
            if place.is_dir():
                shutil.rmtree(_before(place), ignore_errors=True)
                place.rename(_before(place))
            staged.rename(place)
            shutil.rmtree(_before(place), ignore_errors=True)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        raise DataError(f"cannot write to {place}: {error.strerror or error}") from error


def _before(place: Path) -> Path:
    return place.with_name(f".{place.name}.before")
