"""`python train_model.py`: the layout of the user's own folders; with real processes and signals where these matter."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from programs import ROOT, Program, Service, run_here

import train_model
from astrodetect import images
from astrodetect.cli import train_options
from astrodetect.cli.training_data import TrainingData
from astrodetect.datasets.dataset import Dataset
from astrodetect.datasets.simulation import generator
from astrodetect.errors import ModelMissing
from astrodetect.inference.engine import load_verified
from astrodetect.model_store.manifest import read_manifest
from astrodetect.records import ImageContract

SMALL = ("--size", "32", "--batch-size", "8")
EPOCHS = "12"  # more than pass before a kill comes
DEFAULT_FOLDER = "images_E_S_SB_227x227_a_03_{}_processed"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's folders, filled with simulated images: 227 and 224 px, some grey, some damaged, and an S beside."""
    folder = tmp_path_factory.mktemp("data")
    for part, count, seed in (("train", 24, 1), ("test", 4, 2)):
        place = generator.make_dataset(
            folder / DEFAULT_FOLDER.format(part), {"E": count, "S": 2, "SB": count}, seed=seed, workers=1
        )
        for path in sorted((place / "E").iterdir())[:6]:
            Image.open(path).resize((224, 224)).convert("L").save(path)
    (folder / DEFAULT_FOLDER.format("train") / "SB" / "cut.jpg").write_bytes(path.read_bytes()[:900])
    (folder / DEFAULT_FOLDER.format("train") / "E" / "empty.jpg").touch()
    return folder


@pytest.fixture
def environment(data: Path, tmp_path: Path) -> dict[str, str]:
    """Models go to a folder of the test; the way to the ImageNet weights is closed."""
    return {
        "ASTRODETECT_DATA_DIR": str(data),
        "ASTRODETECT_MODELS_DIR": str(tmp_path / "models"),
        "KERAS_HOME": str(tmp_path / "keras"),
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }


def test_training_on_the_users_folders_gives_a_model_that_keras_opens_and_the_service_scores_alike(
    environment: dict[str, str], data: Path, tmp_path: Path, database_url: str
) -> None:
    with Program("train_model.py", *SMALL, "--epochs", "1", log=tmp_path / "log", environment=environment) as training:
        assert training.wait(600) == 0, training.output  # a minute alone, minutes beside other tests
    output = training.output
    assert re.search(r"skipped .*cut\.jpg: damaged JPEG", output)
    assert re.search(r"skipped .*empty\.jpg: the file is empty", output)
    assert "training images: 24 SB, 24 E" in output
    [unreachable] = [line for line in output.splitlines() if "ImageNet weights cannot be fetched" in line]
    assert "starting from scratch" in unreachable
    assert "Traceback" not in output
    assert "Warning" not in output
    metrics = r"accuracy \d+\.\d+%, balanced accuracy \d+\.\d+%, AUC [01]\.\d+"
    assert re.search(rf"^validation \(4 images\): {metrics}$", output, re.MULTILINE)
    assert re.search(rf"^test \(8 images\): {metrics}$", output, re.MULTILINE)
    models = tmp_path / "models"
    *_, warning, path = output.splitlines()
    assert warning == "model resnet50_model: Trained on simulated images: not validated on real ones"
    assert path == str(models / "resnet50_model.h5")
    assert {path.name for path in models.iterdir() if not path.name.startswith(".")} == {
        f"resnet50_model.{suffix}" for suffix in ("h5", "json", "xml", "bin", "html", "metrics.json", "novelty.npz")
    }
    manifest = json.loads((models / "resnet50_model.json").read_text())
    assert manifest["classes"] == ["SB", "E"]
    assert len(manifest["data"]["train"]["skipped"]) == 2
    assert manifest["simulated"] is True
    assert (manifest["data"]["train"]["simulated"], manifest["data"]["test"]["simulated"]) == (48, 8)
    assert "not validated on real ones" in (models / "resnet50_model.html").read_text()

    opened = keras.models.load_model(models / "resnet50_model.h5")
    paths = [path for name in ("E", "SB") for path in sorted((data / DEFAULT_FOLDER.format("test") / name).iterdir())]
    pixels = np.stack([images.decode_file(path, ImageContract(size=32)) for path in paths])
    expected = opened.predict(pixels.astype(np.float32), verbose=0)[:, 0]
    serving = {"DATABASE_URL": database_url, "ASTRODETECT_MODELS_DIR": str(models)}
    with Service(log=tmp_path / "service.log", environment=serving) as service:
        service.wait_until(service.ready)
        served = [service.detect(path.read_bytes(), path.name).json()["score"] for path in paths]
    assert np.abs(np.array(served) - expected).max() <= 0.01


def test_a_training_that_is_interrupted_and_killed_resumes_from_its_checkpoint(
    environment: dict[str, str], tmp_path: Path
) -> None:
    models, state = tmp_path / "models", tmp_path / "models/.cnn.training/stage-1/state.json"

    arguments = (*SMALL, "--recipe", "cnn", "--epochs", EPOCHS, "--patience", EPOCHS)

    def train() -> Program:
        return Program("train_model.py", *arguments, log=tmp_path / "log", environment=environment)

    def no_model() -> None:
        with pytest.raises(ModelMissing):
            load_verified(models, "cnn")
        assert not (models / "cnn.h5").exists()

    with train() as training:
        training.wait_until(lambda: "the first step takes" in training.output)
        training.signal(signal.SIGINT)
        assert training.wait() == 130, training.output
        assert training.output.splitlines()[-1] == "stopped: run the same command again to continue"
        assert "Traceback" not in training.output
    stopped = json.loads(state.read_text())
    assert stopped["epoch"] == 0
    assert 0 < stopped["step"] < 5
    no_model()

    with train() as training:
        training.wait_until(lambda: json.loads(state.read_text())["epoch"] >= 1)
        training.signal(signal.SIGKILL)
        training.wait()
        assert f"resuming the interrupted run from epoch 1, batch {stopped['step'] + 1}" in training.output
    killed = json.loads(state.read_text())
    no_model()

    done = run_here(train_model.main, *arguments, environment=environment)
    assert done.returncode == 0, done.stderr
    assert f"from epoch {killed['epoch'] + 1}, batch {killed['step'] + 1}" in done.stderr
    history = json.loads((models / "cnn.json").read_text())["settings"]["history"]
    assert len(history) == int(EPOCHS)
    assert history[: killed["epoch"]] == killed["history"]
    assert load_verified(models, "cnn").manifest.positive == "E"
    assert not state.exists()


def test_a_checkpoint_is_one_of_the_validation_images_too() -> None:
    arguments = train_options.parse_train_options(["--recipe", "cnn"], None)
    train, other = (Dataset(("a",), [], np.empty(0, np.int64), fingerprint) for fingerprint in "ab")
    keys = {
        train_model.run_key(arguments, TrainingData(train, validation, train, {"train": {"fingerprint": "a"}}))
        for validation in (train, other)
    }
    assert len(keys) == 2


@pytest.mark.parametrize("recipe", ["cnn", "forest"])
def test_cnn_and_forest_train_on_several_classes(recipe: str, tmp_path: Path) -> None:
    """From parted folders, with limits and class weights, to a calibrated bundle, with a report beside it."""
    parted = tmp_path / "sky"
    for part, count, seed in (("train", 14, 1), ("validation", 4, 2), ("test", 4, 3)):
        generator.make_dataset(parted / part, {"E": count + 2, "S": count, "edge": count}, seed=seed, workers=1)
    output = tmp_path / "models" / "kinds.h5"
    balance = ("--limit", "E=14", "--class-weights", "balanced")
    arguments = ("--classes", "all", *balance, "--size", "40", "--crop", "auto", "--views", "8")
    epochs = ("--epochs", "2") if recipe == "cnn" else ()
    command = ("--data", str(parted), "--recipe", recipe, *arguments, *epochs, "--output", str(output))
    done = run_here(train_model.main, *command)
    assert done.returncode == 0, done.stderr
    assert "training images: 16 E, 14 S, 14 edge" in done.stderr
    assert done.stdout.splitlines()[-1] == str(output.with_suffix(".xml" if recipe == "forest" else ".h5"))
    manifest = load_verified(output.parent, "kinds").manifest
    assert (manifest.task, manifest.recipe, manifest.classes) == ("classes", recipe, ["E", "S", "edge"])
    assert manifest.positive is None
    assert manifest.temperature > 0
    assert manifest.balance == {"E": 6 / 14, "S": 4 / 14, "edge": 4 / 14}  # of the validation images
    assert (manifest.views, 0.2 <= manifest.image.crop < 1) == (8, True)
    assert f"--crop {manifest.image.crop:g}" in done.stderr
    assert manifest.metrics["test"]["images"] == 14
    assert manifest.data["train"]["images"] == {"E": 14, "S": 14, "edge": 14}
    assert set(manifest.data) == {"train", "validation", "test"}
    assert {"commit", "hardware", "openvino"} <= set(manifest.versions)
    assert (output.parent / "kinds.html").stat().st_size > 10_000
    assert json.loads((output.parent / "kinds.metrics.json").read_text())


def test_the_same_seed_and_images_give_the_same_metrics(data: Path, tmp_path: Path) -> None:
    metrics = []
    for run in range(2):
        output = tmp_path / str(run) / "same.h5"
        train, test = (str(data / DEFAULT_FOLDER.format(part)) for part in ("train", "test"))
        command = ("--train", train, "--test", test, "--recipe", "cnn", "--size", "40", "--epochs", "2", "--seed", "3")
        done = run_here(train_model.main, *command, "--threshold", "balanced", "--output", output)
        assert done.returncode == 0, done.stderr
        manifest = read_manifest(output.with_suffix(".json"))
        metrics.append((manifest.metrics, manifest.temperature, manifest.threshold))
    assert metrics[0] == metrics[1]
    assert metrics[0][2] != 0.5


def test_missing_training_folders_are_reported_in_one_line_that_names_simulate(tmp_path: Path) -> None:
    environment = {"ASTRODETECT_DATA_DIR": str(tmp_path / "none"), "ASTRODETECT_MODELS_DIR": str(tmp_path / "models")}
    done = run_here(train_model.main, environment=environment)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert DEFAULT_FOLDER.format("train") in line
    assert "python -m astrodetect simulate" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epochs", "0"), "at least 1"),
        (("--crop", "2"), "between 0.1 and 1"),
        (("--output", "model.keras"), "ends in .h5"),
        (("--output", "mo del.h5"), "letters, digits"),
        (("--output", "m.metrics.h5"), "not in .int8.h5 or .metrics.h5"),
        (("--weights", "gone.h5"), "gone.h5"),
        (("--positive", "SB"), "they name two classes"),
        (("--classes", "E"), "two or more different classes, or all"),
        (("--classes", "E", "SB", "--threshold", "f1"), "the most probable class is the prediction"),
        (("--threshold", "recall"), "recall=0.95"),
        (("--recipe", "forest", "--weights", "imagenet"), "a forest has no pretrained weights"),
        (("--recipe", "forest"), "a forest has no use for --batch-size"),
        (("--classes", "all", "--positive", "S"), "--classes replaces --positive and --negative"),
        (("--data", "tests", "--validation", "0.2"), "--validation: tests has no parts"),
        (("--data", "tests"), "tests has no class SB: its classes are "),
        (("--limit", "Z=3"), "no class Z to limit"),
        (("--stretch", "asinh", "--bands", "r"), "bands such as"),
        (("--negative", ".."), "the name of a class folder"),
        (("--learning-rate", "nan"), "between 0 and 1"),
        (("--output", "README.md/m.h5"), "README.md"),
    ],
)
def test_invalid_training_options_are_reported_in_one_line(
    environment: dict[str, str], arguments: tuple[str, ...], message: str
) -> None:
    done = run_here(train_model.main, *SMALL, *arguments, environment=environment)
    assert done.returncode in {1, 2}
    assert message in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("E",), "data has one class, E: a model distinguishes two or more"),
        (("E", "a\x1b"), "data has the class 'a\\x1b': rename it, without control characters and in UTF-8"),
        (("E", "a\udce9"), "data has the class 'a\\udce9': rename it, without control characters and in UTF-8"),
    ],
)
def test_classes_that_no_model_can_have_are_refused_before_training(
    environment: dict[str, str], tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.png").touch()
    command = ("--data", tmp_path / "data", "--classes", "all", "--recipe", "forest")
    done = run_here(train_model.main, *command, environment=environment)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"train_model: {tmp_path}/{message}"]


def test_a_grey_16_bit_png_is_decoded_to_8_bits_for_training(data: Path, tmp_path: Path) -> None:
    """What the training reads is what the service reads: `images.read`, for any file that it takes."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((30, 30), 40_000, dtype=np.uint16)).save(buffer, "PNG")
    assert images.decode(buffer.getvalue(), ImageContract(size=32)).mean() == 155


def test_training_help_shows_options_and_examples_and_prints_in_any_locale() -> None:
    code = (
        "import runpy, sys; from astrodetect.cli import train_options; parse = train_options.parse_train_options;"
        "train_options.parse_train_options = lambda *options: print('β') or parse(*options);"
        "sys.argv = ['train_model.py', '--help']; runpy.run_path('train_model.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("\\u03b2\n")
    for argument in ("--train", "--epochs", "--batch-size", "--size", "--learning-rate", "--seed", "--positive",
                     "--weights", "--fine-tune", "--augment", "--class-weights", "--output", "examples:"):  # fmt: skip
        assert argument in done.stdout
