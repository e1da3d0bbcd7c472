"""Heat maps: the places of an image that speak for its predicted class.

The network's own activation map comes with the score. Where it has too few places to show anything, the map is computed
by occlusion instead, on demand.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import scipy  # loads its submodules when they are first used
from numpy.typing import NDArray

from astrodetect.anomalies.occlusion import hide_places, occlusion_map
from astrodetect.model_store.manifest import Manifest
from astrodetect.records import Floats, HeatMap, Pixels

if TYPE_CHECKING:  # OpenVINO is slow to import
    from astrodetect.inference.engine import Engine

MIN_PLACES = 7  # along each axis, of an activation map that is shown
HIDDEN_GRID = 10  # places along each axis that are hidden
HIDING_BLUR = 1 / 8  # of a hidden place: standard deviation of the Gaussian, as a share of the side
HALVINGS = (1.0, 2.5)  # of the odds of the predicted class, at the ends of the colour scale
SMALLEST_PROBABILITY = 1e-6  # odds are finite


def heat_map(manifest: Manifest, probabilities: Floats, activation_map: Floats, image_sha256: str) -> HeatMap:
    """The activation map of the predicted class, as it is stored."""
    [predicted] = manifest.predict(probabilities[np.newaxis])
    evidence = class_evidence(activation_map, predicted, binary=manifest.task == "binary")
    return HeatMap(image_sha256, manifest.version, to_intensity(evidence), manifest.image.crop)


def class_evidence(activation_map: Floats, predicted: int, *, binary: bool) -> Floats:
    """The activation map of the predicted class: binary networks map the second class, whose negative is the first."""
    return -activation_map if binary and predicted == 0 else activation_map


def to_intensity(evidence: Floats) -> NDArray[np.uint8]:
    """Positive evidence scaled to 0 … 255."""
    positive = np.maximum(np.nan_to_num(evidence), 0)
    return np.asarray(255 * (positive / max(float(positive.max()), 1e-12)), np.uint8)


def has_detail(activation_map: Floats | NDArray[np.uint8]) -> bool:
    """Whether an activation map has enough places to be shown."""
    return bool(min(activation_map.shape) >= MIN_PLACES)


def odds_map(
    engine: "Engine",
    pixels: Pixels,
    predicted: int,
    *,
    batch_size: int | None = None,
    before_batch: Callable[[], object] = lambda: None,
) -> Floats:
    """By occlusion: how often the odds of a class are halved where a place is hidden, from 0 to 1 within HALVINGS.

    The scale is absolute: a place that hardly matters is 0 in every image. `before_batch` is called in the threads that
    compute, and may wait or raise.
    """
    sigma = HIDING_BLUR * len(pixels)
    copies = hide_places(pixels, scipy.ndimage.gaussian_filter(pixels, (sigma, sigma, 0), mode="nearest"), HIDDEN_GRID)

    def probabilities(batch: Pixels) -> Floats:
        before_batch()
        return engine.run(batch).probabilities[:, predicted]

    with ThreadPoolExecutor(engine.streams, thread_name_prefix="occlusion") as pool:
        size = batch_size or engine.batch_size
        batches = [copies[start : start + size] for start in range(0, len(copies), size)]
        values = np.concatenate(list(pool.map(probabilities, batches))).astype(np.float64)
    likely = values.clip(SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return occlusion_map(np.asarray(np.log2(likely / (1 - likely)), np.float32), *HALVINGS)
