"""`import astrodetect` in scripts and notebooks: the documented examples run, and the names keep their promises."""

import copy
import dataclasses
import os
import random
import re
import subprocess
import sys
import types
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import colour_models
import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Column
from PIL import Image
from programs import ROOT, query

import astrodetect
from astrodetect import extras
from astrodetect.api import programs
from astrodetect.cli import train_options
from astrodetect.datasets.simulation import generator
from astrodetect.datasets.tables import ListedImage
from astrodetect.errors import DataError, ImageError, PackagesMissing
from astrodetect.features.extraction import ExtractedFeatures
from astrodetect.labels import LabelValue
from astrodetect.records import ImageContract, ImagePath
from astrodetect.settings import settings

cutouts: Any = astrodetect.cutouts
describe: Any = astrodetect.describe  # called with what no type checker allows
INSERT = "INSERT INTO predictions (image_name, score, result) VALUES (%s, %s, 'No Anomaly')"


@pytest.fixture
def model(colour_models_dir: Path) -> astrodetect.Model:
    """A model of nebula against lawn, with detectors."""
    return astrodetect.load_model(colour_models_dir / "resnet50_model")


@pytest.fixture
def lawn(tmp_path: Path) -> Path:
    """An image of the second class."""
    path = tmp_path / "lawn.png"
    Image.fromarray(colour_models.image("lawn", 1)).save(path)
    return path


@pytest.fixture
def use_database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with three predictions, which the settings name."""
    for number in range(3):
        query(database_url, INSERT, f"{number}.jpg", number / 4)
    monkeypatch.setenv("DATABASE_URL", database_url)
    settings.cache_clear()
    return database_url


@pytest.mark.filterwarnings("ignore:model small")  # it is trained on a few simulated images
def test_examples_of_the_guide_run_in_order(tmp_path: Path, use_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator.make_sample(tmp_path / "data" / "sample", 12, 6, seed=0, size=64, workers=1)
    ordinary = np.stack([colour_models.image("nebula", seed) for seed in range(12)])
    colour_models.publish_with_detectors(tmp_path / "models", "resnet50_model", ordinary, ["SB", "E"])
    monkeypatch.setenv("ASTRODETECT_MODELS_DIR", str(tmp_path / "models"))
    settings.cache_clear()
    page = (ROOT / "docs" / "how-to" / "python.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(examples) > 8
    names: dict[str, Any] = {}
    with chdir(tmp_path):
        exec(compile("".join(examples), "python.md", "exec"), names)  # noqa: S102
    assert names["model"].name == "small"


def test_notebook_runs_and_shows_its_galleries(tmp_path: Path) -> None:
    import nbformat  # takes seconds in each process that collects tests
    from nbclient import NotebookClient

    stored = nbformat.read(ROOT / "docs" / "notebook.ipynb", 4)  # type: ignore[no-untyped-call]
    executed = copy.deepcopy(stored)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    NotebookClient(executed, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute(env=environment)

    def shown(notebook: Any) -> list[list[str]]:
        return [
            sorted(kind for output in cell.outputs for kind in output.get("data", ()))
            for cell in notebook.cells
            if cell.cell_type == "code"
        ]

    assert shown(stored) == shown(executed)
    assert sum("text/html" in kinds for kinds in shown(executed)) == 5


def test_importing_astrodetect_loads_nothing_heavy() -> None:
    code = (
        "import sys; before = {*sys.modules}; import astrodetect;"
        "heavy = {*'numpy scipy openvino keras pydantic typing'.split()} & {*sys.modules} - before;"
        "assert not heavy, heavy; [getattr(astrodetect, name) for name in astrodetect.__all__];"
        "assert not {'openvino', 'keras', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert set(astrodetect.__all__) <= {*dir(astrodetect)}


def test_arrays_are_predicted_as_files_with_the_same_pixels(model: astrodetect.Model, lawn: Path) -> None:
    pixels = np.asarray(Image.open(lawn))
    [of_file] = model.predict(lawn)
    assert of_file.label == "lawn"
    assert of_file.novelty is not None
    assert model.predict([]) == []
    for images in (pixels, pixels[np.newaxis], [pixels], [pixels, pixels[..., 0]]):
        assert model.predict(images)[0].score == of_file.score
    masked = np.ma.masked_less(pixels, 90)
    for undefined in (masked, [masked]):
        assert model.predict(undefined)[0].score == model.predict(masked.filled(0))[0].score != of_file.score
    for column in (np.array([str(lawn)]), np.array([lawn]), Column([str(lawn).encode()]), pd.Series([str(lawn)])):
        assert [prediction.score for prediction in model.predict(column)] == [of_file.score]


def test_fits_is_predicted_by_models_with_a_stretch(model: astrodetect.Model, tmp_path: Path) -> None:
    path = tmp_path / "lawn.fits"
    fits.PrimaryHDU(np.moveaxis(colour_models.image("lawn", 1).astype(np.float32), 2, 0)).writeto(path)
    with pytest.raises(ImageError, match=r"lawn\.fits: .*not trained on FITS"):
        model.predict(path)
    contract = dataclasses.replace(model.manifest.image, stretch="linear")
    model.engine.manifest = dataclasses.replace(model.manifest, image=contract)
    assert [prediction.label for prediction in model.predict(path)] == ["lawn"]


def test_unreadable_images_raise_or_are_left_out(model: astrodetect.Model, lawn: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"bad\.jpg: not a supported image"):
        model.predict([lawn, bad])
    assert [prediction.image_name for prediction in model.predict([bad, lawn], errors="skip")] == [str(lawn)]
    with pytest.raises(ImageError, match=r"float64 \(9, 9\): give uint8"):
        model.predict(np.zeros((9, 9)))


def test_iterators_give_each_image_once(model: astrodetect.Model, lawn: Path) -> None:
    paths = iter([lawn, lawn.rename(lawn.with_name("b.png")), lawn])
    Image.fromarray(colour_models.image("lawn", 1)).save(lawn)
    next(paths)
    assert [Path(prediction.image_name).name for prediction in model.predict(paths)] == ["b.png", "lawn.png"]
    assert len(model.predict(colour_models.image("lawn", seed) for seed in range(3))) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, _: model.predict([None]), "of the type NoneType: give paths"),
        (lambda model, lawn: model.predict([lawn, ""]), "a path is empty"),
        (lambda model, _: model.predict(None), "of the type NoneType: give paths"),
        (lambda model, _: model.predict(Image.new("L", (16, 16))), "of the type Image: give paths"),
        (lambda model, _: model.predict(np.array(1, np.uint8)), "of the type ndarray: give paths"),
        (lambda _, lawn: describe(lawn, model="small"), "a model is what load_model(\"NAME\") returns"),
        (lambda model, lawn: model.predict([lawn], errors="ignore"), "errors is \"raise\" or \"skip\", not 'ignore'"),
        (lambda model, lawn: describe(lawn, features="all", model=model), "features are shapes, "),
        (lambda _, lawn: astrodetect.describe(lawn, crop=0), "a crop above 0, to 1, not 0"),
        (lambda _, lawn: astrodetect.rank(lawn, fdr=2), "between 0 and 1, not 2"),
        (lambda *_: astrodetect.cutouts([], catalogue="none.csv", size="9px"), "no mosaics are given"),
        (lambda *_: astrodetect.cutouts("a.fits", catalogue="none.csv", size="9" * 400 + "px"), "a size such as"),
        (lambda *_: cutouts("a.fits", catalogue="none.csv", size=64), "a size such as"),
        (lambda *_: astrodetect.read_predictions(limit=-1), "a number of predictions from 0, not -1"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_errors_of_one_line(
    model: astrodetect.Model, lawn: Path, call: Callable[[Any, Path], object], message: str
) -> None:
    with pytest.raises(DataError) as raised:
        call(model, lawn)
    assert message in str(raised.value)


def test_ranking_puts_the_unusual_image_first_and_follows_labels(lawn: Path, tmp_path: Path) -> None:
    for seed in range(84):
        folder = tmp_path / ("normal" if seed < 80 else "new")
        folder.mkdir(exist_ok=True)
        Image.fromarray(colour_models.image("nebula", seed)).save(folder / f"{seed}.png")
    ranking = astrodetect.rank([lawn, tmp_path / "new"], normal=tmp_path / "normal", crop=1)
    assert ranking.paths[0] == lawn
    table = ranking.to_pandas()
    assert table["rank"].tolist() == list(range(1, 6))
    assert table["path"].tolist() == [str(path) for path in ranking.paths]
    assert ranking.gallery(3).html.count("<img") == 3
    last = ranking.paths[-1]
    normal = astrodetect.describe(tmp_path / "normal", crop=1)
    labels: dict[ImagePath, LabelValue] = {last: "interesting", ranking.paths[0]: "artefact"}
    labelled = astrodetect.rank(ranking.extracted, normal=normal, labels=labels)
    assert labelled.paths[0] == last
    rings = astrodetect.rank(ranking.extracted, normal=normal, labels=labels | {ranking.paths[1]: "ring"}, like="ring")
    assert rings.paths[0] == ranking.paths[1]
    with pytest.raises(DataError, match="no image here is labelled lens: the labels are artefact, interesting"):
        astrodetect.rank(ranking.extracted, normal=normal, labels=labels, like="lens")
    with pytest.raises(DataError, match="a label is interesting, ordinary, artefact, or a name of letters"):
        astrodetect.rank(ranking.extracted, normal=normal, labels={last: "=1+1"})
    assert astrodetect.rank(ranking.extracted, normal=normal, labels={last: "Interesting"}).paths[0] == last
    assert astrodetect.rank(ranking.extracted, normal=normal, labels=pd.Series({last: "interesting"})).paths[0] == last
    with pytest.raises(DataError, match="a label is a text, not nan"):
        astrodetect.rank(ranking.extracted, normal=normal, labels={last: np.nan})  # type: ignore[dict-item]
    with pytest.raises(DataError, match="of the type int: give paths"):
        astrodetect.rank(ranking.extracted, normal=normal, labels={0: "ordinary"})
    for other in ({"features": "both"}, {"crop": 0.5}):
        with pytest.raises(DataError, match="they were described by shapes, crop 1: describe them again"):
            astrodetect.rank(ranking.extracted, normal=normal, **other)
    with pytest.raises(DataError, match="described with another crop or model"):
        astrodetect.rank(ranking.extracted, normal=astrodetect.describe(tmp_path / "normal", crop=0.5))
    with pytest.raises(DataError, match="ranks are counted from 1, not 0"):
        ranking.gallery(start=0)
    with pytest.raises(DataError, match="no detectors are given"):
        astrodetect.rank(normal, detectors=iter(()))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no label is of one of these images"):
        astrodetect.rank(normal, labels={"elsewhere.jpg": "ordinary"})


def test_a_subset_is_by_indices_or_by_a_mask() -> None:
    items = [ListedImage(Path(name), "") for name in "abc"]
    described = ExtractedFeatures("shapes", ImageContract(100), items, list("abc"), features=np.eye(3, dtype="f4"))
    for chosen in (np.array([False, True, True]), [1, 2], np.array([-2, -1])):
        subset = described.subset(chosen)
        assert subset.items == items[1:]
        assert subset.sha256 == ["b", "c"]
        assert subset.features.tolist() == [[0, 1, 0], [0, 0, 1]]
    for wrong in ([3], np.array([True])):
        with pytest.raises(DataError, match="no subset of 3 images"):
            described.subset(wrong)


def test_predictions_are_read_in_pages_by_conditions(use_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "ROWS_PER_PAGE", 2)
    table = astrodetect.read_predictions(use_database)
    assert table["image_name"].tolist() == ["2.jpg", "1.jpg", "0.jpg"]
    where = astrodetect.PredictionFilters(min_score=0.25)
    assert astrodetect.read_predictions(where=where, limit=1)["score"].tolist() == [0.5]


def test_modules_of_the_user_keep_their_names(use_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = types.ModuleType("database")
    monkeypatch.setitem(sys.modules, "database", own)
    programs._program.cache_clear()
    assert len(astrodetect.read_predictions(limit=1)) == 1
    assert sys.modules["database"] is own


def test_wrong_training_options_and_missing_packages_are_errors_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"^unrecognized arguments: --no-such 1$"):
        astrodetect.train_model("sky", no_such=1)
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(PackagesMissing, match=r"missing \(pandas\): pip install 'astrodetect\[notebook\]'"):
        astrodetect.read_predictions()


def test_training_leaves_the_random_numbers_of_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: object) -> None:
        random.seed(0)
        np.random.seed(0)

    monkeypatch.setattr(programs, "_program", lambda _: types.SimpleNamespace(train=train))
    monkeypatch.setattr(programs, "load_model", lambda _: None)
    drawn = set()
    for _ in range(3):
        astrodetect.train_model("sky")
        drawn.add((random.random(), np.random.rand()))
    assert len(drawn) == 3


def test_training_options_are_those_of_the_command() -> None:
    options = {"classes": ["E", "SB"], "fine_tune": True, "augment": False, "limit": {"E": 9, "SB": 8}, "size": None}
    words = [word for name, value in options.items() for word in programs._option(name.replace("_", "-"), value)]
    assert words == ["--classes", "E", "SB", "--fine-tune", "--no-augment", "--limit", "E=9", "--limit", "SB=8"]
    switches = ("fine-tune", "augment", "mixed-precision")
    off = [word for switch in switches for word in programs._option(switch, False)]
    parsed = train_options.parse_train_options(["--data", "sky", *off], None)
    assert [parsed.fine_tune, parsed.augment, parsed.mixed_precision] == [False, False, False]
