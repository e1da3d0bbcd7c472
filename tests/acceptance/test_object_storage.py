"""The commands with images, tables and results on object storage."""

import csv
import io
import json
import subprocess
import tarfile
from pathlib import Path

import colour_models
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from programs import run_here
from s3_server import S3Server, slow_down

from astrodetect import images
from astrodetect.__main__ import main
from astrodetect.storage import objects

IMAGES = 12


@pytest.fixture
def sky(bucket: str, tmp_path: Path) -> str:
    """A bucket with the same images in class folders, a tar shard, a Parquet file and a table; and a local copy."""
    contents = {
        f"{name}/{number}.png": images.encode_png(colour_models.image(name, number))
        for name in colour_models.TWO_CLASSES
        for number in range(IMAGES // 2)
    }
    contents = dict(sorted(contents.items()))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            for root in (bucket, str(tmp_path)):
                objects.write_bytes(f"{root}/images/{name}", data)
    objects.write_bytes(f"{bucket}/shards/a.tar", archive.getvalue())
    with objects.open_writer(f"{bucket}/hf/train.parquet") as file:
        rows = [{"bytes": data, "path": name} for name, data in contents.items()]
        pq.write_table(pa.table({"image": rows}), file, row_group_size=5)
    rows_of_csv = [f"images/{name},{name.partition('/')[0]}" for name in contents]
    objects.write_bytes(f"{bucket}/list.csv", "\n".join(["path,label", *rows_of_csv]).encode())
    return bucket


def run(*arguments: object, models: Path) -> "subprocess.CompletedProcess[str]":
    return run_here(main, *arguments, environment={"ASTRODETECT_MODELS_DIR": str(models)})


def scores(table: str) -> list[tuple[str, str]]:
    """Score and error of each row."""
    rows = csv.DictReader(io.StringIO(objects.read_bytes(table).decode()))
    return [(row["score"], row["error"]) for row in rows]


def test_the_same_images_have_the_same_scores_wherever_they_are(
    sky: str, colour_models_dir: Path, tmp_path: Path, s3: S3Server
) -> None:
    output = f"{sky}/scores.csv"
    names = [str(tmp_path / "images"), f"{sky}/images", f"{sky}/shards", f"{sky}/hf/train.parquet", f"{sky}/list.csv"]
    s3.faults += [slow_down] * 2
    done = run("score", *names, "--output", output, models=colour_models_dir)
    assert done.returncode == 0, done.stderr
    rows = scores(output)
    assert len(rows) == len(names) * IMAGES
    assert rows == rows[:IMAGES] * len(names)
    objects.delete(f"{sky}/images/lawn/3.png")
    done = run("predict", f"{sky}/shards/a.tar", f"{sky}/list.csv", "--json", models=colour_models_dir)
    predictions = [json.loads(line) for line in done.stdout.splitlines()]
    assert predictions[0]["path"] == f"{sky}/shards/a.tar#lawn/0.png"
    [bad] = [prediction["error"] for prediction in predictions if "error" in prediction]
    assert bad == f"{sky}/images/lawn/3.png: no such file"


def test_anomalies_reads_and_writes_object_storage(sky: str, colour_models_dir: Path) -> None:
    output, names = f"{sky}/found", [f"{sky}/{name}" for name in ("images", "shards/a.tar", "hf")]
    objects.write_bytes(f"{output}/ids/old.txt", b"of an earlier run")
    done = run("anomalies", *names, "--output", output, "--top", "3", models=colour_models_dir)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{output}/anomalies.html"
    assert len(objects.read_bytes(f"{output}/anomalies.csv").splitlines()) == len(names) * IMAGES + 1
    assert objects.read_bytes(f"{output}/anomalies.html").count(b"data:image/jpeg") >= 3
    assert not objects.exists(f"{output}/ids/old.txt")
    objects.write_bytes(f"{output}/thesis.tex", b"mine")
    refused = run("anomalies", *names, "--output", output, models=colour_models_dir)
    assert "holds thesis.tex, which is no result of a run" in refused.stderr


def test_labelled_images_on_object_storage_are_explored_evaluated_and_split(
    sky: str, colour_models_dir: Path, tmp_path: Path
) -> None:
    for data in (f"{sky}/images", f"{sky}/list.csv"):
        done = run("explore", data, "--output", tmp_path / "explore", models=colour_models_dir)
        assert done.returncode == 0, done.stderr
        page = tmp_path / "evaluation.html"
        done = run("evaluate", "resnet50_model", data, "--output", page, models=colour_models_dir)
        assert done.returncode == 0, done.stderr
        table = tmp_path / "split.csv"
        table.unlink(missing_ok=True)
        done = run("split", data, "--output", table, models=colour_models_dir)
        assert done.returncode == 0, done.stderr
        assert f"{sky}/images/lawn/0.png" in table.read_text()
    refused = run("split", f"{sky}/images", "--output", tmp_path / "folders", models=colour_models_dir)
    assert "is not a local file, so that no folder can link to it" in refused.stderr


def test_what_is_written_to_local_files_only_says_so(colour_models_dir: Path) -> None:
    for command in (
        ("explore", "x", "--output", "s3://sky/out"),
        ("split", "x", "--output", "s3://sky/out.csv"),
        ("evaluate", "resnet50_model", "x", "--output", "s3://sky/out.html"),
        ("anomalies", "x", "--figures", "s3://sky/figures"),
    ):
        refused = run(*command, models=colour_models_dir)
        assert refused.returncode == 2
        assert "a local path, not the URL s3://sky/" in refused.stderr
