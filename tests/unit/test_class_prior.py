"""Correcting probabilities for another class balance, and averaging views, wherever a model is used."""

import json
from dataclasses import replace
from pathlib import Path

import colour_models
import numpy as np
import pytest

from astrodetect.__main__ import main as run_command
from astrodetect.errors import ModelError
from astrodetect.images import orient, write_jpeg
from astrodetect.inference.engine import Engine, load_verified
from astrodetect.records import parse_prior
from astrodetect.settings import settings

BALANCE = {"nebula": 0.75, "lawn": 0.25}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model calibrated at three nebulae for each lawn, and one that does not say."""
    colour_models.publish(tmp_path, "old", colour_models.TWO_CLASSES)
    colour_models.publish(tmp_path, "new", colour_models.TWO_CLASSES)
    path = tmp_path / "new.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"balance": BALANCE}))
    return tmp_path


def scores(models: Path, pixels: np.ndarray, **options: object) -> np.ndarray:
    return Engine(load_verified(models, "new", **options)).run(pixels).scores  # type: ignore[arg-type]


def test_a_prior_multiplies_the_odds_of_the_classes(models: Path) -> None:
    pixels = np.stack([colour_models.image("lawn", seed) for seed in range(3)]) // 2 + 60
    plain, corrected = scores(models, pixels), scores(models, pixels, prior={"lawn": 0.5})
    assert corrected / (1 - corrected) == pytest.approx(3 * plain / (1 - plain), rel=1e-4)
    assert scores(models, pixels, prior=BALANCE) == pytest.approx(plain, abs=1e-6)


def test_classes_that_a_prior_leaves_out_keep_their_proportions(models: Path) -> None:
    manifest = load_verified(models, "new").manifest
    three = replace(manifest, classes=["a", "b", "c"], balance={"a": 0.2, "b": 0.6, "c": 0.2})
    assert three.prior_weights({"a": 0.6}) == pytest.approx([3, 0.5, 0.5])
    assert three.prior_weights({"a": 0.3, "b": 0.3, "c": 0.4}) == pytest.approx([1.5, 0.5, 2])
    for prior in ({"a": 0.7, "b": 0.5}, {"a": 0.1, "b": 0.1, "c": 0.1}):
        with pytest.raises(ModelError, match="leave"):
            three.prior_weights(prior)
    with pytest.raises(ModelError, match="model new has no class d, only a, b, c"):
        three.prior_weights({"d": 0.1})


@pytest.mark.parametrize("text", ["E", "E=", "E=1.5", "=0.1", "E=0.1,E=0.2", "E=0.1,"])
def test_a_malformed_prior_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="CLASS=SHARE"):
        parse_prior(text)
    assert parse_prior("E=0.1,SB=0.9") == {"E": 0.1, "SB": 0.9}


def test_the_setting_holds_for_models_that_have_its_classes(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = colour_models.image("lawn")[np.newaxis] // 2 + 60
    plain = scores(models, pixels)
    monkeypatch.setattr(settings(), "prior", "lawn=0.5")
    assert scores(models, pixels) > plain
    assert scores(models, pixels, prior={}) == plain  # explicitly that of the calibration
    with pytest.raises(ModelError, match="does not say at which class balance"):
        load_verified(models, "old")
    monkeypatch.setattr(settings(), "prior", "E=0.5")
    assert scores(models, pixels) == plain


def test_predict_corrects_for_a_prior(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(settings(), "models_dir", models)
    write_jpeg(models / "image.jpg", colour_models.image("lawn") // 2 + 60)
    command = ["predict", str(models / "image.jpg"), "--model", "new", "--json"]
    assert run_command([*command, "--prior", "lawn=0.02"]) == 0
    rare = json.loads(capsys.readouterr().out)
    assert run_command(command) == 0
    plain = json.loads(capsys.readouterr().out)
    assert rare["score"] < plain["score"]
    assert (rare["label"], plain["label"]) == ("nebula", "lawn")


def test_a_model_of_eight_views_averages_them(models: Path) -> None:
    loaded = load_verified(models, "new")
    pixels = np.random.default_rng(0).integers(0, 255, (2, colour_models.SIZE, colour_models.SIZE, 3), dtype=np.uint8)
    one, eight = Engine(loaded), Engine(replace(loaded, manifest=replace(loaded.manifest, views=8)))
    assert eight.run(pixels).maps == pytest.approx(one.run(pixels).maps, abs=1e-4)  # turned back
    expected = np.mean([one.run(orient(pixels, view)).scores for view in range(8)], axis=0)
    assert eight.run(pixels).scores == pytest.approx(expected, abs=1e-6)
    assert eight.canary() == one.canary()


def test_reports_name_the_prior(models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(settings(), "models_dir", models)
    for name in colour_models.TWO_CLASSES:
        (tmp_path / "images" / name).mkdir(parents=True)
        for seed in range(3):
            write_jpeg(tmp_path / "images" / name / f"{seed}.jpg", colour_models.image(name, seed))
    command = [
        "evaluate",
        "new",
        str(tmp_path / "images"),
        "--output",
        str(tmp_path / "a.html"),
        "--prior",
        "lawn=0.02",
    ]
    assert run_command(command) == 0
    remark = "probabilities are corrected for the expected share of classes: lawn=0.02"
    assert remark in (tmp_path / "a.html").read_text()
    assert remark in json.loads((tmp_path / "a.metrics.json").read_text())["remarks"]
