"""How unusual images are, for many callers at once: measured beside the network, many images together."""

from collections.abc import Callable

import numpy as np

from astrodetect.anomalies.novelty import Novelty, NoveltyResult
from astrodetect.inference.batching import Batcher
from astrodetect.records import Floats, Pixels

MOST = 16  # images measured together: a third of the time an image that one alone takes
NO_FEATURES: Floats = np.empty(0, np.float32)


class NoveltyBatcher:
    """A model's detectors, in a thread of their own; `spare` says how long images wait for the network anyway."""

    def __init__(self, novelty: Novelty, crop: float, *, spare: Callable[[], float]) -> None:
        self.needs_features = novelty.feature_kind != "shapes"
        self._novelty, self._crop = novelty, crop
        self._batcher: Batcher[tuple[Pixels, Floats], NoveltyResult] = Batcher(
            self._look, max_batch=MOST, threads=1, name="looker", max_delay=spare
        )

    async def look(self, pixels: Pixels, features: Floats = NO_FEATURES) -> NoveltyResult:
        """At one image; the network's features of it where they are needed."""
        return (await self._batcher.submit((pixels, features))).result

    def close(self) -> None:
        """Once what waits is done."""
        self._batcher.close()

    def _look(self, images: list[tuple[Pixels, Floats]]) -> list[NoveltyResult]:
        pixels, features = (np.stack(part) for part in zip(*images, strict=True))
        looked = self._novelty.score_images(pixels, self._crop, features)
        return [looked[place : place + 1] for place in range(len(images))]
