"""`python -m benchmarks.model`: a model to measure speed with, made in seconds and without trained weights.

What it is: the project's own ResNet50, exported and checked by the project's own code, so its files, its arithmetic
and its memory are those of any model that serves. Its backbone is random: batch normalisation is calibrated on
simulated skies, and only the head is fitted, by ridge regression on the pooled features. Random features see little
but light, so its question is an easy one: is the sky of this image dark, or flooded with moonlight? That is enough
for scores on both sides of the threshold, and for int8 to be earned or refused honestly on images held out.

What it is not: a classifier of galaxies. Nothing about accuracy follows from it.
"""

import argparse
import hashlib
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from astrodetect import images, provenance
from astrodetect.datasets import dataset
from astrodetect.datasets.simulation import generator
from astrodetect.evaluation import metrics
from astrodetect.model_store.manifest import Manifest
from astrodetect.records import Floats, ImageContract, Pixels
from astrodetect.settings import ROOT, settings

if TYPE_CHECKING:
    import keras

NAME = "resnet50_model"
SIZE = 227
CLASSES = ("dark", "moonlit")
LEARNT, HELD = 16, 20  # images a class
CALIBRATING_BATCH, CALIBRATING_BATCHES = 8, 3
BRANCH_SCALE = 0.2  # of each residual branch: the more of it, the more a random network of 50 layers is chaos
RIDGE = 100.0
SURE = 3.0  # the logit that the head is fitted to
MOONLIGHT = (0.1, 0.9)  # share of the way to white
RECIPE = (
    "benchmarks/model.py",
    "astrodetect/model_store/*.py",
    "astrodetect/images.py",
    "astrodetect/inference/*.py",
    "astrodetect/learning/*.py",
)
VERSIONED = ("tensorflow", "keras", "openvino", "nncf", "numpy", "pillow")


def prepare(size: int = SIZE) -> Path:
    """The models folder with the bundle, made where this recipe with these versions has not made it yet."""
    home = settings().data_dir / "benchmark"
    folder = home / f"{size}-{key()}"
    if not (folder / f"{NAME}.json").exists():
        make(folder, size)
        for older in home.glob(f"{size}-*"):
            if older != folder:
                shutil.rmtree(older, ignore_errors=True)
    return folder


def jpegs(folder: Path) -> list[Path]:
    """The held-out images of a prepared folder, both classes in turn: what callers send."""
    by_class = [sorted((folder / "images" / "test" / name).glob("*.jpg")) for name in CLASSES]
    return [path for pair in zip(*by_class, strict=True) for path in pair]


def key() -> str:
    """A name for this recipe: another where the files it follows or the versions it uses have changed."""
    digest = hashlib.sha256()
    for path in (path for pattern in RECIPE for path in sorted(ROOT.glob(pattern))):
        digest.update(path.read_bytes())
    digest.update("".join(version(name) for name in VERSIONED).encode())
    return digest.hexdigest()[:12]


def make(folder: Path, size: int) -> None:
    """Images, network, head and bundle."""
    for part, count, seed in (("train", LEARNT, 1), ("test", HELD, 2)):
        write_images(folder / "images" / part, count, seed)
    learn, held = (dataset.read_dataset(folder / "images" / part, CLASSES, title=part) for part in ("train", "test"))

    from astrodetect.learning import export, network, training  # noqa: PLC0415 - TensorFlow: only where one must be made
    from astrodetect.recipes import PixelStatistics  # noqa: PLC0415

    contract = ImageContract(size=size)
    pixels = {part: training.read_pixels(catalogue, contract) for part, catalogue in (("train", learn), ("test", held))}
    network.set_seed(0)
    mean, variance = pixels["train"].mean((0, 1, 2)), pixels["train"].var((0, 1, 2))
    model = network.build("resnet50", size, PixelStatistics(tuple(mean.tolist()), tuple(variance.tolist())), 1)
    calibrate(model, pixels["train"], np.random.default_rng(0).permutation(len(learn)))
    fit_head(model, features(model, pixels["train"]), learn.labels)
    said = export.TrainedNetwork(model).probabilities(pixels["test"])
    manifest = Manifest(
        name=NAME,
        classes=list(CLASSES),
        image=contract,
        metrics={"test": metrics.binary_metrics(held.labels, said[:, 1])},
        data={"train": {"images": len(learn)}, "test": {"images": len(held)}},
        settings={"made_by": "benchmarks.model", "backbone": "random"},
        versions=provenance.software_versions(),
    )
    shown = export.HeldOut(pixels["test"], held.labels, said)
    export.export_model(export.TrainedNetwork(model), manifest, folder, shown, calibration_images=pixels["train"])


def write_images(folder: Path, count: int, seed: int) -> None:
    """`count` JPEGs of each class: ellipticals and barred spirals, under a dark sky and under a moonlit one."""
    for moonlit, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            sky = generator.render_image(("E", "SB")[number % 2], 1000 * seed + 2 * number + moonlit)
            if moonlit:
                sky = flood(sky, np.random.default_rng([seed, number]))
            images.write_jpeg(folder / name / f"{number:05}.jpg", sky)


def flood(sky: Pixels, random: np.random.Generator) -> Pixels:
    """The same image under moonlight, stronger towards one side."""
    size = len(sky)
    angle, strength = random.uniform(0, 2 * np.pi), random.uniform(*MOONLIGHT)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    light = strength * (0.5 + 0.5 * (np.cos(angle) * x + np.sin(angle) * y))[..., np.newaxis]
    flooded: Pixels = (sky + (255.0 - sky) * light).astype(np.uint8)
    return flooded


def calibrate(model: "keras.Model", pixels: Pixels, order: Any) -> None:
    """Opens the residual branches, and sets each batch normalisation to the mean of what some batches show it."""
    from astrodetect.learning.network import LAST_NORM_OF_BLOCK  # noqa: PLC0415

    layers = [layer for layer in model.layers if hasattr(layer, "moving_mean")]
    for layer in layers:
        if layer.name.endswith(LAST_NORM_OF_BLOCK):
            layer.gamma.assign(np.full(layer.gamma.shape, BRANCH_SCALE, np.float32))
    for done in range(CALIBRATING_BATCHES):
        for layer in layers:
            layer.momentum = done / (done + 1)  # the running mean of all batches so far
        batch = order[done * CALIBRATING_BATCH : (done + 1) * CALIBRATING_BATCH]
        model(pixels[batch].astype(np.float32), training=True)


def features(model: "keras.Model", pixels: Pixels) -> Floats:
    """The pooled features, as the service will see them."""
    import keras  # noqa: PLC0415

    pooled = keras.Model(model.input, model.get_layer("features").output)
    return np.asarray(pooled.predict(pixels.astype(np.float32), batch_size=8, verbose=0))


def fit_head(model: "keras.Model", seen: Floats, labels: Any) -> None:
    """Ridge regression from standardised features to logits of ±SURE, written into the head as it stands."""
    mean, spread = seen.mean(0), seen.std(0) + 1e-3
    standard = (seen - mean) / spread
    wanted = np.where(labels == 1, SURE, -SURE)
    # Far fewer images than features: the dual form solves a system as small as the images are few.
    kernel = standard.T @ np.linalg.solve(standard @ standard.T + RIDGE * np.eye(len(seen)), wanted) / spread
    bias = wanted.mean() - mean @ kernel
    model.get_layer("score").set_weights([kernel[:, np.newaxis].astype(np.float32), np.array([bias], np.float32)])


def main(argv: list[str] | None = None) -> None:
    """Prints the folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model", description="Make the model to measure with.")
    parser.add_argument("--size", type=int, default=SIZE, help="side of what the network sees, pixels (default: 227)")
    print(prepare(parser.parse_args(argv).size))


if __name__ == "__main__":
    main()
