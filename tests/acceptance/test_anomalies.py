"""`python -m astrodetect anomalies`: the first run as a process, the others within this one."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from programs import ROOT, Program, run_here

from astrodetect import __main__
from astrodetect.anomalies.novelty import Novelty
from astrodetect.datasets.simulation import generator
from astrodetect.features.central_object import feature_matrix
from astrodetect.images import decode_file
from astrodetect.inference.engine import Engine, load_verified

CLASS_COUNTS = {"E": 80, "SB": 50, "trail": 6}
COUNT = sum(CLASS_COUNTS.values())
OUTPUTS = {"anomalies.csv", "anomalies.html", "ids"}


def run(*arguments: object, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    given = {"ASTRODETECT_DATA_DIR": str(folder / "data"), **environment}
    return run_here(__main__.main, "anomalies", *arguments, folder=folder, environment=given)


def read(place: Path) -> list[dict[str, str]]:
    with place.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of simulated galaxies, some with satellite trails, and a bad file."""
    folder = generator.make_dataset(tmp_path_factory.mktemp("sky") / "mine", CLASS_COUNTS, seed=1, size=64, workers=1)
    (folder / "E" / "notes.txt").write_text("seen by eye")
    return folder


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of this file keep what they described."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def first(galaxies: Path, workplace: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "astrodetect", "anomalies", str(galaxies), "--top", "3"]
    command += ["--figures", "data/figures", "--figure-format", "svg"]
    given = {**os.environ, "PYTHONPATH": str(ROOT), "ASTRODETECT_DATA_DIR": str(workplace / "data")}
    return subprocess.run(command, cwd=workplace, env=given, capture_output=True, text=True, check=False)


def test_anomalies_writes_a_ranked_table_lists_and_a_report(
    galaxies: Path, workplace: Path, first: "subprocess.CompletedProcess[str]"
) -> None:
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[0] == f"{COUNT} images, features newly computed for {COUNT}; 1 bad files"
    assert first.stdout.splitlines()[-1] == "anomalies/anomalies.html"
    place = workplace / "anomalies"
    assert {path.name for path in place.iterdir()} == OUTPUTS
    figures = {path.name: path.read_text() for path in (workplace / "data" / "figures").iterdir()}
    assert figures.keys() == {"sampled_anomalies.svg", "latent_space.svg"}
    assert all(f">{name} ({count})<" in figures["latent_space.svg"] for name, count in CLASS_COUNTS.items())
    *good, bad = read(place / "anomalies.csv")
    assert [int(row["rank"]) for row in good] == list(range(1, COUNT + 1))
    strengths = [float(row["strength"]) for row in good]
    assert strengths == sorted(strengths, reverse=True)
    assert {row["path"] for row in good} == {str(path) for path in galaxies.rglob("*.jpg")}
    assert (Path(bad["path"]).name, bad["rank"]) == ("notes.txt", "")
    assert bad["error"].startswith("not a supported image")
    places = [int(row["rank"]) for row in good if row["label"] == "trail"]
    assert sum(places) / len(places) < COUNT / 4
    assert {row["view"] for row in good} <= {"object", "cutout", "asymmetry", "colours"}
    for name in ("object", "cutout", "asymmetry", "colours"):
        flagged = [row["path"] for row in good if row[f"{name}_flag"] == "true"]
        assert (place / "ids" / f"{name}.txt").read_text().splitlines() == flagged
    agreed = [row["path"] for row in good if row["consensus"] == "true"]
    assert (place / "ids" / "consensus.txt").read_text().splitlines() == agreed
    lists = [path.read_text().splitlines() for path in (place / "ids").iterdir()]
    assert figures["sampled_anomalies.svg"].count("<image") == sum(min(8, len(names)) for names in lists)


def test_anomaly_report_is_self_contained(workplace: Path, first: "subprocess.CompletedProcess[str]") -> None:
    text = (workplace / "anomalies" / "anomalies.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "default-src 'none'" in text
    assert set(re.findall(r"""(?:src|href)=["'](?!data:|#)([^"']+)""", text)) == set()
    assert str(workplace) not in text
    assert len(json.loads(re.findall(r'id="points">(.*?)</script>', text)[0])["names"]) == COUNT


def test_second_run_uses_the_feature_cache_and_replaces_the_output(
    galaxies: Path, workplace: Path, first: "subprocess.CompletedProcess[str]"
) -> None:
    table = workplace / "anomalies" / "anomalies.csv"
    before = table.read_bytes()
    table.write_text("torn")
    again = run(galaxies, "--top", 3, folder=workplace)
    assert again.stdout.splitlines()[0] == f"{COUNT} images, features newly computed for 0; 1 bad files"
    assert table.read_bytes() == before
    assert {path.name for path in (workplace).iterdir()} == {"anomalies", "data"}


def test_anomalies_relative_to_a_normal_set(galaxies: Path, workplace: Path) -> None:
    done = run(
        galaxies / "trail", galaxies / "SB", "--normal", galaxies / "E", "--output", "by-normal",
        "--format", "parquet", "--top", 2, folder=workplace,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    from pyarrow import parquet

    table = parquet.read_table(workplace / "by-normal" / "anomalies.parquet").to_pydict()
    assert len(table["rank"]) == CLASS_COUNTS["trail"] + CLASS_COUNTS["SB"]
    assert table["agreement"][0] > table["agreement"][-1]
    assert f"compared with {CLASS_COUNTS['E']} of E" in (workplace / "by-normal" / "anomalies.html").read_text(
        encoding="utf-8"
    )


def test_a_sample_of_all_images_gives_the_ranking_without_a_sample(
    galaxies: Path, workplace: Path, first: "subprocess.CompletedProcess[str]"
) -> None:
    done = run(galaxies, "--sample", 10 * COUNT, "--output", "sampled", "--top", 2, folder=workplace)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == (
        f"compared with {COUNT} of mine, drawn at random (seed 0), each of which is left out of its own comparison"
    )
    tables = [(workplace / name / "anomalies.csv").read_text().splitlines() for name in ("anomalies", "sampled")]
    assert len(tables[0]) == len(tables[1]) == COUNT + 2
    for before, after in zip(*map(csv.DictReader, tables), strict=True):
        assert {**before, "x": "", "y": ""} == {**after, "x": "", "y": ""}  # the map has the gallery first


def test_labels_change_the_ranking(galaxies: Path, workplace: Path, first: "subprocess.CompletedProcess[str]") -> None:
    rows = read(workplace / "anomalies" / "anomalies.csv")[:COUNT]
    labels = workplace / "labels.csv"
    with labels.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "image_sha256", "label"])
        table.writerow([rows[0]["path"], "", "artefact"])
        table.writerow(["", rows[1]["image_sha256"], "ordinary"])
        table.writerow(["", rows[2]["image_sha256"], "ordinary"])
        table.writerow([rows[2]["path"], "", "Ring"])  # the last one counts
        table.writerow(["nowhere.jpg", "", "interesting"])
    done = run(galaxies, "--labels", labels, "--like", "ring", "--top", 2, "--output", "labelled", folder=workplace)
    assert done.returncode == 0, done.stderr
    assert "ranked by the labels of 3 images; 1 labels match no image" in done.stdout
    found = read(workplace / "labelled" / "anomalies.csv")[:COUNT]
    assert (found[0]["path"], found[0]["your_label"]) == (rows[2]["path"], "ring")
    assert {row["path"] for row in found[-2:]} == {rows[0]["path"], rows[1]["path"]}
    interest = [float(row["interest"]) for row in found]
    assert interest == sorted(interest, reverse=True)


def test_study_detectors_and_their_consensus(galaxies: Path, workplace: Path) -> None:
    some = (galaxies / "SB", galaxies / "trail")
    done = run(*some, "--detectors", "autoencoder,kmeans,dbscan", "--output", "study", "--top", 2, folder=workplace)
    assert done.returncode == 0, done.stderr
    lists = {path.stem: set(path.read_text().splitlines()) for path in (workplace / "study" / "ids").iterdir()}
    assert set(lists) == {"autoencoder", "kmeans", "dbscan", "consensus", "flagged"}
    assert lists["consensus"] == lists["autoencoder"] & lists["kmeans"] & lists["dbscan"]


def test_attached_detectors_score_as_the_command_did(
    galaxies: Path, workplace: Path, model_folder: Path, tmp_path: Path
) -> None:
    models = shutil.copytree(model_folder, tmp_path / "models")
    done = run(
        galaxies / "trail", "--normal", galaxies / "SB", "--features", "both", "--attach", "resnet50_model", "--top", 2,
        "--output", "attached", folder=workplace, ASTRODETECT_MODELS_DIR=str(models),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the model resnet50_model now has these detectors" in done.stdout
    loaded = load_verified(models, "resnet50_model")
    assert loaded.novelty is not None
    novelty, engine = Novelty.load(loaded.novelty), Engine(loaded)
    for row in read(workplace / "attached" / "anomalies.csv"):
        pixels = decode_file(Path(row["path"]), loaded.manifest.image)[None]
        looked = novelty.score(
            feature_matrix(novelty.feature_kind, pixels, loaded.manifest.image.crop, engine.run(pixels).features)
        )
        assert looked.strength[0] == pytest.approx(float(row["strength"]), rel=1e-3)
    assert loaded.manifest.space is not None


def test_anomalies_with_external_weights(galaxies: Path, workplace: Path, model_folder: Path) -> None:
    weights = model_folder / "resnet50_model.h5"
    some = [galaxies / "trail", *sorted((galaxies / "SB").glob("*.jpg"))[:5]]
    done = run(*some, "--weights", weights, "--top", 1, "--output", "weights", folder=workplace)
    assert done.returncode == 0, done.stderr


def test_interrupted_run_keeps_earlier_output_and_resumes(galaxies: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number, path in enumerate(sorted(galaxies.rglob("*.jpg")) * 6):
        (many / f"{number:05}.jpg").write_bytes(path.read_bytes() + bytes([number % 256, number // 256]))
    before = tmp_path / "out"
    (before / "ids").mkdir(parents=True)
    command = ("-m", "astrodetect", "anomalies", str(many), "--output", str(before), "--top", "1")
    data = tmp_path / "data"
    with Program(*command, log=tmp_path / "log", environment={"ASTRODETECT_DATA_DIR": str(data)}) as program:
        program.wait_until(lambda: list(data.rglob("*.npy")))
        program.signal(signal.SIGINT)
        assert program.wait() == 130, program.output
        assert program.output.splitlines()[-1] == "stopped: run the same command again to continue"
        assert "Traceback" not in program.output
    assert [path.name for path in before.iterdir()] == ["ids"]
    assert not list(tmp_path.glob(".*"))
    cached = len(list(data.rglob("*.npy")))
    done = run(many, "--output", before, "--top", 1, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    computed = int(done.stdout.split("computed for ")[1].split(";")[0].replace(",", ""))
    assert cached >= 1
    assert computed <= 6 * COUNT - 512


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{galaxies}/none",), "no such folder or file: {galaxies}/none"),
        (("{galaxies}", "--normal", "{galaxies}/none"), "no such folder or file: {galaxies}/none"),
        (
            ("{galaxies}", "--output", "{galaxies}"),
            "{galaxies} holds .simulated.json, which is no result of a run: move it, or name another --output",
        ),
        (("{galaxies}", "--output", "{galaxies}/E/00001.jpg"), "exists and is not a folder: name another --output"),
        (("{galaxies}/E/notes.txt",), "no usable image in {galaxies}/E/notes.txt: the first of 1 files, "),
        (("{galaxies}/E/00001.jpg",), "1 images are too few to fit detectors"),
        (("{galaxies}", "--model", "none"), "no model none yet: "),
        (("{galaxies}", "--attach", "none"), "no model none yet: "),
        (("{galaxies}", "--model", "one", "--attach", "other"), "--attach and --model must name one model"),
        (("{galaxies}", "--model", "one", "--crop", "0.5"), "--crop has no effect on the images of a trained model"),
        (("{galaxies}", "--weights", "none.h5"), "no weights file none.h5: give a Keras .h5 file, or imagenet"),
        (("{galaxies}", "--weights", "none.h5", "--features", "shapes"), "--weights selects a network of its own: "),
        (("{galaxies}", "--labels", "{galaxies}/none.csv"), "{galaxies}/none.csv cannot be read: No such file"),
        (("{galaxies}", "--like", "ring"), "--like needs the labels of some images: add --labels LABELS.csv"),
        (
            ("{galaxies}", "--labels", "{galaxies}/E/notes.txt"),
            "its first line must name label, and path or image_sha256",
        ),
        (("{galaxies}", "--detectors", "lof,eye"), "all, or a list of object, cutout, asymmetry, colours, lof, "),
        (("{galaxies}", "--top", "0"), "from 1 to 1000, not 0"),
    ],
)
def test_invalid_anomalies_arguments_are_one_line_errors_and_write_nothing(  # noqa: PLR0917 - fixtures
    galaxies: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASTRODETECT_MODELS_DIR", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        sys.exit(__main__.main(["anomalies", *(one.format(galaxies=galaxies) for one in arguments)]))
    captured = capsys.readouterr()
    assert ended.value.code in {1, 2}
    assert message.format(galaxies=galaxies) in captured.err.splitlines()[-1]
    assert captured.out == ""
    assert {path.name for path in tmp_path.iterdir()} <= {"data"}
