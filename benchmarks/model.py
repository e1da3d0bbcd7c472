"""`python -m benchmarks.model`: a model for measuring speed, created in seconds without training.

A ResNet50 exported and checked by the project's own code, so that files, arithmetic and memory are those of any served
model. The backbone is random, with batch normalisation calibrated on simulated images; only the head is fitted, by
ridge regression on the pooled features. Random features respond mostly to brightness, so the classes are dark and
moonlit skies. That suffices for scores on both sides of the threshold, and for a meaningful fidelity check of int8 on
held-out images. Nothing about accuracy on galaxies follows from it.
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
TRAIN_IMAGES, TEST_IMAGES = 16, 20  # per class
CALIBRATING_BATCH, CALIBRATING_BATCHES = 8, 3
BRANCH_SCALE = 0.2  # of each residual branch: larger ones make a random network of 50 layers chaotic
RIDGE = 100.0
TARGET_LOGIT = 3.0  # that the head is fitted to
MOONLIGHT = (0.1, 0.9)  # blended towards white
SOURCES = (
    "benchmarks/model.py",
    "astrodetect/model_store/manifest.py",
    "astrodetect/images.py",
    "astrodetect/inference/engine.py",
    "astrodetect/learning/convert.py",
    "astrodetect/learning/export.py",
    "astrodetect/learning/network.py",
)
VERSIONED = ("tensorflow", "keras", "openvino", "nncf", "numpy", "pillow")


def prepare(size: int = SIZE) -> Path:
    """The models folder with the model, created unless these sources and versions have created it before."""
    folder = folder_of(size)
    if not is_complete(folder):
        make(folder, size)
        for older in folder.parent.glob(f"{size}-*"):
            if older != folder:
                shutil.rmtree(older, ignore_errors=True)
    return folder


def folder_of(size: int) -> Path:
    """The models folder that these sources and versions have created, or would create."""
    return settings().data_dir / "benchmark" / f"{size}-{key()}"


def is_complete(folder: Path) -> bool:
    """Whether it has been created."""
    return (folder / f"{NAME}.json").exists()


def jpegs(folder: Path) -> list[Path]:
    """The held-out images of a prepared folder, classes alternating."""
    by_class = [sorted((folder / "images" / "test" / name).glob("*.jpg")) for name in CLASSES]
    return [path for pair in zip(*by_class, strict=True) for path in pair]


def key() -> str:
    """Hash of the sources and package versions that the model depends on."""
    digest = hashlib.sha256()
    for path in (path for pattern in SOURCES for path in sorted(ROOT.glob(pattern))):
        digest.update(path.read_bytes())
    digest.update("".join(version(name) for name in VERSIONED).encode())
    return digest.hexdigest()[:12]


def make(folder: Path, size: int) -> None:
    """Create images, network and head, and export the model."""
    for part, count, seed in (("train", TRAIN_IMAGES, 1), ("test", TEST_IMAGES, 2)):
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
    probabilities = export.TrainedNetwork(model).probabilities(pixels["test"])
    manifest = Manifest(
        name=NAME,
        classes=list(CLASSES),
        image=contract,
        metrics={"test": metrics.binary_metrics(held.labels, probabilities[:, 1])},
        data={"train": {"images": len(learn)}, "test": {"images": len(held)}},
        settings={"made_by": "benchmarks.model", "backbone": "random"},
        versions=provenance.software_versions(),
    )
    held_out = export.HeldOut(pixels["test"], held.labels, probabilities)
    export.export_model(export.TrainedNetwork(model), manifest, folder, held_out, calibration_images=pixels["train"])


def write_images(folder: Path, count: int, seed: int) -> None:
    """`count` JPEGs of each class: ellipticals and barred spirals on a dark or a moonlit sky."""
    for moonlit, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            sky = generator.render_image(("E", "SB")[number % 2], 1000 * seed + 2 * number + moonlit)
            if moonlit:
                sky = flood(sky, np.random.default_rng([seed, number]))
            images.write_jpeg(folder / name / f"{number:05}.jpg", sky)


def flood(sky: Pixels, random: np.random.Generator) -> Pixels:
    """Brighten the image with a gradient, as moonlight does."""
    size = len(sky)
    angle, strength = random.uniform(0, 2 * np.pi), random.uniform(*MOONLIGHT)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    light = strength * (0.5 + 0.5 * (np.cos(angle) * x + np.sin(angle) * y))[..., np.newaxis]
    flooded: Pixels = (sky + (255.0 - sky) * light).astype(np.uint8)
    return flooded


def calibrate(model: "keras.Model", pixels: Pixels, order: Any) -> None:
    """Scale the residual branches, and set the moving statistics of batch normalisation from a few batches."""
    from astrodetect.learning.network import LAST_NORM_OF_BLOCK  # noqa: PLC0415

    layers = [layer for layer in model.layers if hasattr(layer, "moving_mean")]
    for layer in layers:
        if layer.name.endswith(LAST_NORM_OF_BLOCK):
            layer.gamma.assign(np.full(layer.gamma.shape, BRANCH_SCALE, np.float32))
    for done in range(CALIBRATING_BATCHES):
        for layer in layers:
            layer.momentum = done / (done + 1)  # running mean over the batches so far
        batch = order[done * CALIBRATING_BATCH : (done + 1) * CALIBRATING_BATCH]
        model(pixels[batch].astype(np.float32), training=True)


def features(model: "keras.Model", pixels: Pixels) -> Floats:
    """The pooled features."""
    import keras  # noqa: PLC0415

    pooled = keras.Model(model.input, model.get_layer("features").output)
    return np.asarray(pooled.predict(pixels.astype(np.float32), batch_size=8, verbose=0))


def fit_head(model: "keras.Model", pooled_features: Floats, labels: Any) -> None:
    """Ridge regression from standardised features to logits of ±TARGET_LOGIT, written into the head."""
    mean, spread = pooled_features.mean(0), pooled_features.std(0) + 1e-3
    standard = (pooled_features - mean) / spread
    targets = np.where(labels == 1, TARGET_LOGIT, -TARGET_LOGIT)
    # Far fewer images than features: the dual form solves the smaller system.
    kernel = standard.T @ np.linalg.solve(standard @ standard.T + RIDGE * np.eye(len(labels)), targets) / spread
    bias = targets.mean() - mean @ kernel
    model.get_layer("score").set_weights([kernel[:, np.newaxis].astype(np.float32), np.array([bias], np.float32)])


def main(argv: list[str] | None = None) -> None:
    """Print the folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model", description="Create a model to benchmark.")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the network's input, pixels (default: 227)")
    print(prepare(parser.parse_args(argv).size))


if __name__ == "__main__":
    main()
