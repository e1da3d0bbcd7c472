"""`python -m benchmarks.heat_maps MODEL FOLDER [--images 15]`: deletion and insertion tests of heat maps.

FOLDER has a folder for each class. The places that a map ranks highest are hidden first (deletion), or shown first in a
hidden image (insertion); what is reported is the mean probability of the predicted class with insertion minus that with
deletion, at 2 to 70 % of the pixels. A map without information gives 0 or less. Hidden is blurred, or the median colour
of the frame's edge.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage

from astrodetect import images
from astrodetect.anomalies.occlusion import enlarge, hide_places, occlusion_map
from astrodetect.inference.engine import Engine, load_verified
from astrodetect.inference.heat_maps import HIDDEN_GRID, HIDING_BLUR, class_evidence, odds_map
from astrodetect.records import Floats, Pixels
from astrodetect.settings import settings

SHARES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7)  # of the pixels
SMALLEST = 1e-6
Fill = Callable[[Pixels], Floats]


def blurred(pixels: Pixels) -> Floats:
    """The image without its structure."""
    sigma = HIDING_BLUR * len(pixels)
    return np.asarray(ndimage.gaussian_filter(pixels.astype(np.float32), (sigma, sigma, 0), mode="nearest"))


def edge_colour(pixels: Pixels) -> Floats:
    """The median colour of the frame's edge: the sky."""
    edge = np.concatenate([pixels[:3].reshape(-1, 3), pixels[-3:].reshape(-1, 3), pixels[:, :3].reshape(-1, 3)])
    return np.broadcast_to(np.median(edge, axis=0), pixels.shape).astype(np.float32)


FILLS: dict[str, Fill] = {
    "blurred": blurred,
    "sky": edge_colour,
    "black": lambda pixels: np.zeros(pixels.shape, np.float32),
    "mean colour": lambda pixels: np.broadcast_to(pixels.mean(axis=(0, 1)), pixels.shape).astype(np.float32),
}


def log_odds(engine: Engine, pixels: Pixels, predicted: int) -> Floats:
    """Of the predicted class, in halvings."""
    likely = engine.run_all(pixels).probabilities[:, predicted].astype(np.float64).clip(SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log2(likely / (1 - likely)), np.float32)


def candidates(engine: Engine, pixels: Pixels, predicted: int, own: Floats, seed: int) -> dict[str, Floats]:
    """The maps that are compared, (side, side)."""
    side, random = len(pixels), np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    maps = {}
    for name, fill in FILLS.items():
        copies = hide_places(pixels, np.rint(fill(pixels)).astype(np.uint8), HIDDEN_GRID)
        maps[f"occlusion, {name}"] = occlusion_map(log_odds(engine, copies, predicted), 0, 100)
    maps["activation map"] = own
    return {name: enlarge(places, side) for name, places in maps.items()} | {
        "centre": np.asarray(np.exp(-(x**2 + y**2) / (2 * (side / 5) ** 2)), np.float32),
        "random": ndimage.gaussian_filter(random.standard_normal((side, side)), side / 12).astype(np.float32),
    }


def insertion_minus_deletion(engine: Engine, pixels: Pixels, predicted: int, heat: Floats, hidden: Floats) -> float:
    """The difference of the mean probabilities."""
    order, image = np.argsort(-heat.ravel(), kind="stable"), pixels.astype(np.float32)
    steps = []
    for share in SHARES:
        mask = np.zeros(heat.size, np.float32)
        mask[order[: int(share * heat.size)]] = 1
        soft = ndimage.gaussian_filter(mask.reshape(heat.shape), len(pixels) / 64)[..., np.newaxis]
        steps += [hidden + (image - hidden) * soft, image + (hidden - image) * soft]
    batch = np.rint(np.stack(steps)).astype(np.uint8)
    probabilities = engine.run_all(batch).probabilities[:, predicted]
    return float(probabilities[::2].mean() - probabilities[1::2].mean())


def main() -> None:
    """Print a table of the maps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=15, help="of each class")
    arguments = parser.parse_args()
    engine = Engine(load_verified(settings().models_dir, arguments.model))
    manifest, random = engine.manifest, np.random.default_rng(0)
    scores: dict[str, list[list[float]]] = {}
    seconds = []
    for name in manifest.classes:
        paths = sorted(path for path in (arguments.folder / name).iterdir() if path.is_file())
        for index in random.permutation(len(paths))[: arguments.images].tolist():
            pixels = images.decode_file(paths[index], manifest.image)
            outputs = engine.run(pixels[np.newaxis])
            [predicted] = manifest.predict(outputs.probabilities).tolist()
            started = time.process_time()
            odds_map(engine, pixels, predicted)
            seconds.append(time.process_time() - started)
            own = class_evidence(outputs.maps[0], predicted, binary=manifest.task == "binary")
            for title, heat in candidates(engine, pixels, predicted, own, index).items():
                tests = [
                    insertion_minus_deletion(engine, pixels, predicted, heat, fill(pixels))
                    for fill in (blurred, edge_colour)
                ]
                scores.setdefault(title, []).append(tests)
    print(f"{len(seconds)} images, {np.mean(seconds):.2f} s of processor time for each map, in {engine.precision}")
    print(f"{'map':<24} hidden: blurred    sky")
    for title, values in scores.items():
        mean, error = np.mean(values, axis=0), np.std(values, axis=0) / np.sqrt(len(values))
        print(f"{title:<24} {mean[0]:+.3f} ± {error[0]:.3f}  {mean[1]:+.3f} ± {error[1]:.3f}")


if __name__ == "__main__":
    main()
