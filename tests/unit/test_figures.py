"""Figures for papers: what they show, their formats, and the same files for the same results."""

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from evaluation_inputs import make_evaluation_inputs
from PIL import Image

from astrodetect.anomalies.adaptation import describe_source
from astrodetect.errors import DataError
from astrodetect.evaluation.summary import EvaluationInputs
from astrodetect.model_store.manifest import ORDINARY
from astrodetect.reports import figures

NAMES = {
    "confusion_matrix",
    "roc",
    "precision_recall",
    "calibration",
    "calibration_score",
    "training",
    "class_imbalance",
}


def test_figures_are_written_in_every_format_the_same_for_the_same_results(tmp_path: Path) -> None:
    drawn = figures.evaluation_figures(make_evaluation_inputs(tmp_path / "sky"))
    assert set(drawn) == NAMES
    two = {name: drawn[name] for name in ("roc", "confusion_matrix")}
    magic = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    for kind in get_args(figures.FigureFormat):
        paths = figures.write_figures(two, tmp_path / "figures", kind)
        assert [path.name for path in paths] == [f"{name}.{kind}" for name in two]
        assert all(path.read_bytes().startswith(magic[kind]) for path in paths)
        [again] = figures.write_figures({"roc": drawn["roc"]}, tmp_path / "again", kind)
        assert again.read_bytes() == (tmp_path / "figures" / again.name).read_bytes()
    with Image.open(tmp_path / "figures" / "roc.png") as picture:
        assert picture.info["dpi"][0] == pytest.approx(300, abs=1)
        assert picture.width / 300 == pytest.approx(figures.COLUMN, abs=0.01)  # inches


def test_figures_show_the_classes_and_the_metrics_as_text(tmp_path: Path) -> None:
    classes = ("SB", "E", "$odd$ & <small>")
    inputs = make_evaluation_inputs(tmp_path, classes, count=60)
    paths = figures.write_figures(figures.evaluation_figures(inputs), tmp_path / "figures", "svg")
    text = {path.stem: path.read_text(encoding="utf-8") for path in paths}
    for name in ("confusion_matrix", "roc", "precision_recall", "class_imbalance"):
        assert "$odd$ &amp; &lt;small&gt;" in text[name], name
    assert ">E (AUC 0." in text["roc"]
    assert "chosen: epoch 2" in text["training"]
    assert "calibration_score" not in text


def test_class_imbalance_has_the_parts_at_training_and_other_images_that_are_evaluated(tmp_path: Path) -> None:
    inputs = make_evaluation_inputs(tmp_path)

    def parts(inputs: EvaluationInputs) -> set[str]:
        drawn = {"class_imbalance": figures.evaluation_figures(inputs)["class_imbalance"]}
        [path] = figures.write_figures(drawn, tmp_path / "figures", "svg")
        return set(re.findall(r">(train|test|test, evaluated|SB|E)</text>", path.read_text())) - {"SB", "E"}

    assert parts(inputs) == set()  # one part needs no legend
    assert parts(replace(inputs, training=None)) == {"train", "test"}
    data = {name: {"images": {"SB": 9, "E": 9}, "fingerprint": "other"} for name in ("train", "test")}
    model = replace(inputs.model, data=data)
    assert parts(replace(inputs, training=None, model=model)) == {"train", "test", "test, evaluated"}
    data["test"]["fingerprint"] = inputs.detailed.fingerprint
    assert parts(replace(inputs, training=None, model=model)) == {"train", "test"}
    adapted = replace(model, data={**data, ORDINARY: describe_source("my/survey", 100)})
    assert parts(replace(inputs, training=None, model=adapted)) == {"train", "test"}


def test_a_model_without_history_or_with_one_class_in_the_images_has_fewer_figures(tmp_path: Path) -> None:
    inputs = make_evaluation_inputs(tmp_path)
    part = inputs.detailed
    alone = replace(
        inputs,
        model=replace(inputs.model, settings={}, data={}),
        parts=[replace(part, truth=part.truth * 0)],
    )
    drawn = figures.evaluation_figures(alone)
    assert drawn.keys() == NAMES - {"roc", "precision_recall", "training"}
    figures.write_figures(drawn, tmp_path / "figures", "png")


def test_an_unwritable_folder_of_figures_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    drawn = figures.evaluation_figures(make_evaluation_inputs(tmp_path / "sky"))
    with pytest.raises(DataError, match=r"cannot write figures to .*file"):
        figures.write_figures(drawn, tmp_path / "file", "png")
