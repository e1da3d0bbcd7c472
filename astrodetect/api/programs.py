"""The predictions database and the training in Python, which are programs at the top of the repository."""

import contextlib
import importlib
import io
import random
import sys
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import SecretStr

from astrodetect.api.models import Model, load_model
from astrodetect.cli import train_options
from astrodetect.errors import DataError
from astrodetect.extras import require_extra
from astrodetect.records import Prediction, PredictionFilters
from astrodetect.settings import PROGRAMS, settings
from astrodetect.storage.objects import forget_listed

if TYPE_CHECKING:
    import pandas as pd

ROWS_PER_PAGE = 5_000  # predictions that are read at once


def read_predictions(
    url: str | None = None, *, where: PredictionFilters | None = None, limit: int | None = None
) -> "pd.DataFrame":
    """The table `predictions` as a DataFrame, newest first: those that meet the conditions, at most `limit` of them.

    `url` is that of a PostgreSQL database; without one it is DATABASE_URL, or the embedded PostgreSQL, which is started
    where no service runs.
    """
    require_extra("notebook", "a DataFrame")
    import pandas as pd  # noqa: PLC0415 - optional

    if limit is not None and limit < 0:
        raise DataError(f"limit is a number of predictions from 0, not {limit}")
    config = settings().model_copy(update={"database_url": SecretStr(url)} if url else {})
    predictions: list[Prediction] = []
    with _program("database").open_database(config, connections=1) as database:
        before = None
        while limit is None or len(predictions) < limit:
            size = ROWS_PER_PAGE if limit is None else min(ROWS_PER_PAGE, limit - len(predictions))
            page = database.predictions(where or PredictionFilters(), limit=size, before=before)
            predictions += page.predictions
            before = page.next_before
            if before is None:
                break
    return pd.DataFrame({field.name: [getattr(row, field.name) for row in predictions] for field in fields(Prediction)})


def train_model(data: str | Path, **options: object) -> Model:
    """Train, publish and load a model; an interrupted training continues when it is called again.

    `data` has labelled images in folders of classes, or in parts with such folders, or is a .csv. The options are those
    of `astrodetect train`, with underscores: `train_model("my/images", classes=["E", "SB"], recipe="cnn", epochs=20)`.
    """
    arguments = ["--data", str(data)]
    for name, value in options.items():
        arguments += _option(name.replace("_", "-"), value)
    program, errors = _program("train_model"), io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            parsed = train_options.parse_train_options(arguments, None)
    except SystemExit as error:
        message = errors.getvalue().strip().rpartition("error: ")[2]
        raise DataError(message or "help is no option here: see astrodetect train --help") from error
    states = random.getstate(), np.random.get_state()
    forget_listed()
    try:
        return load_model(program.train(parsed, arguments))
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _option(name: str, value: object) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, Mapping):  # CLASS=N
        return [word for key, number in value.items() for word in (f"--{name}", f"{key}={number}")]
    if isinstance(value, list | tuple):
        return [f"--{name}", *map(str, value)]
    return [] if value is None else [f"--{name}", str(value)]


@cache
def _program(name: str) -> Any:
    """A program at the top of the repository, whatever other modules `database` or `setup_db` are loaded here."""
    names = ("database", "setup_db", "train_model")
    others = {other: sys.modules.pop(other) for other in names if other in sys.modules}
    sys.path.insert(0, str(PROGRAMS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(PROGRAMS))
        for other in names:
            sys.modules.pop(other, None)
        sys.modules |= others
