"""Shared fixtures of the integration tests: a database connection, and models fitted on noise images."""

from collections.abc import Iterator
from pathlib import Path

import colour_models
import numpy as np
import pytest
from malicious_server import png

from astrodetect import images
from astrodetect.records import ImageContract
from database import Database


@pytest.fixture
def log(database_url: str) -> Iterator[Database]:
    """Connections to a new, migrated database."""
    log = Database(database_url, connections=2, timeout_s=5)
    yield log
    log.close()


@pytest.fixture(scope="session")
def noise_models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Published colour models, not to be modified: `resnet50_model` with detectors fitted on `png(100)` to `png(159)`,
    and `plain` without detectors."""
    folder = tmp_path_factory.mktemp("noise_models")
    contract = ImageContract(size=colour_models.SIZE)
    pixels = np.stack([images.decode(png(seed), contract) for seed in range(100, 160)])
    colour_models.publish_with_detectors(folder, "resnet50_model", pixels)
    colour_models.publish(folder, "plain", colour_models.TWO_CLASSES)
    return folder
