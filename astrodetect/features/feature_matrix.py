"""The feature vectors of pixels: morphology and colours, a network's features, or both. No file is read here."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from astrodetect.features.central_object import OBJECT_FEATURES, measure_central_object
from astrodetect.features.cutout import STRUCTURE_FEATURES, cut_stamps, measure_structure
from astrodetect.records import Floats

FeatureKind = Literal["shapes", "network", "both"]

CENTRAL_SHARE = 0.5  # of the frame's side: the centre that is measured
MEASURED_WIDTHS: tuple[int, ...] = (OBJECT_FEATURES, STRUCTURE_FEATURES)  # columns of each block


def feature_matrix(
    kind: FeatureKind, pixels: NDArray[np.uint8], crop: float, network_features: Floats | None = None
) -> Floats:
    """(n, d) feature vectors of images whose pixels show the central `crop` of the frame; "shapes" needs no network."""
    if kind != "shapes" and network_features is None:
        raise ValueError(f"feature kind {kind} needs the network's features")
    if kind == "network":
        return np.asarray(network_features)
    stamps = cut_stamps(pixels, min(1.0, CENTRAL_SHARE / crop))
    measured = [measure_central_object(stamps), measure_structure(stamps)]
    if kind == "both":
        measured.append(np.asarray(network_features))
    return np.concatenate(measured, axis=1)
