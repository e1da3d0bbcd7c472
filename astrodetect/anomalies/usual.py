"""What is usual, learnt from a model's training images: so that the service tells how unusual others are."""

import numpy as np

from astrodetect.anomalies.novelty import MAX_REFERENCE_IMAGES, Novelty
from astrodetect.datasets.dataset import Dataset, ListedImage
from astrodetect.features import extract
from astrodetect.records import ImageContract
from astrodetect.settings import settings


def fit_novelty(catalogue: Dataset, contract: ImageContract, seed: int) -> Novelty:
    """Detectors that know these images, or MOST_IMAGES drawn from them, prepared as the model wants them."""
    drawn = np.sort(np.random.default_rng(seed).permutation(len(catalogue))[:MAX_REFERENCE_IMAGES])
    some = catalogue.subset(drawn)
    chosen = settings()
    seen = extract.extract_features(
        [ListedImage(path, some.classes[label]) for path, label in zip(some.paths, some.labels.tolist(), strict=True)],
        extract.by_shapes(contract),
        chosen.descriptions_dir,
        title="training images",
        max_pixels=chosen.max_image_pixels,
    )
    return Novelty.fit(seen.rows, sight="shapes")
