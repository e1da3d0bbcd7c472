"""`python -m astrodetect score`: signals, errors, and a real PostgreSQL; as a process where that matters."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import colour_models
import numpy as np
import pytest
from programs import ROOT, Program, free_port, query, run_here

from astrodetect import __main__, images
from astrodetect.scoring import resumable_table
from astrodetect.scoring.part_files import COLUMNS

IMAGES = 640
DIFFERENT = 16
SLOW = """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.2); RETURN NULL; END $$;
    CREATE TRIGGER slow AFTER INSERT ON predictions FOR EACH STATEMENT EXECUTE FUNCTION wait()"""


@pytest.fixture(scope="module")
def image_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many small images, and two unreadable files."""
    folder = tmp_path_factory.mktemp("sky")
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        path = folder / str(number % 3) / f"{number:04}.jpg"
        path.parent.mkdir(exist_ok=True)
        if number < DIFFERENT:
            images.write_jpeg(path, random.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        else:
            path.hardlink_to(folder / str(number % DIFFERENT % 3) / f"{number % DIFFERENT:04}.jpg")
    (folder / "1" / "bad.jpg").write_text("no image")
    (folder / "2" / "empty.png").touch()
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With `resnet50_model` of two classes, and `colours` of three."""
    folder = tmp_path_factory.mktemp("models")
    colour_models.publish(folder, "resnet50_model", colour_models.TWO_CLASSES)
    colour_models.publish(folder, "colours")
    return folder


def run(*arguments: object, models: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    given = {"ASTRODETECT_MODELS_DIR": str(models), **environment}
    return run_here(__main__.main, "score", *arguments, environment=given)


def read(output: Path) -> list[dict[str, str]]:
    with output.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def uninterrupted(image_dir: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of an uninterrupted run."""
    output = tmp_path_factory.mktemp("uninterrupted") / "scores.csv"
    environment = {"ASTRODETECT_MODELS_DIR": str(models), "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    command = [sys.executable, "-m", "astrodetect", "score", str(image_dir), "--output", str(output)]
    environ = {**os.environ, **environment}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    anomalies = sum(row["result"] == "Anomaly Detected" for row in read(output))
    assert line.startswith(f"{output}: {IMAGES + 2} files scored, {anomalies} anomalies, 2 bad files, ")
    return output


def test_every_file_has_a_row_and_a_finished_table_is_not_overwritten(
    image_dir: Path, uninterrupted: Path, models: Path
) -> None:
    rows, content = read(uninterrupted), uninterrupted.read_bytes()
    assert [row["path"] for row in rows] == sorted(str(path) for path in image_dir.rglob("*.*"))
    assert {Path(row["path"]).name for row in rows if row["error"]} == {"bad.jpg", "empty.png"}
    assert len({row["score"] for row in rows}) > DIFFERENT / 2
    again = run(image_dir, "--output", uninterrupted, models=models)
    assert again.returncode == 1
    [line] = again.stderr.splitlines()
    assert "exists already: --restart" in line
    assert uninterrupted.read_bytes() == content


def test_scoring_interrupted_by_signals_and_by_postgresql_is_resumed_with_one_row_for_each_image(
    image_dir: Path, uninterrupted: Path, models: Path, database_url: str, tmp_path: Path
) -> None:
    output, parts = tmp_path / "scores.csv", tmp_path / "scores.csv.parts"
    environment = {"ASTRODETECT_MODELS_DIR": str(models), "DATABASE_URL": database_url}
    command = ("-m", "astrodetect", "score", str(image_dir), "--output", str(output), "--log")

    query(database_url, SLOW)  # slow enough to be interrupted on any machine

    def written() -> int:
        return len(list(parts.glob("part-*")))

    for end in ("SIGINT", "SIGKILL", "PostgreSQL"):
        before = written()
        with Program(*command, log=tmp_path / end, environment=environment) as program:
            program.wait_until(lambda: written() > before)  # noqa: B023 - called in this round alone
            if end == "PostgreSQL":
                allow_connections(database_url, allow=False)
            else:
                program.signal(signal.Signals[end])
            status = program.wait()
        assert status == {"SIGINT": 130, "SIGKILL": -signal.SIGKILL, "PostgreSQL": 1}[end], program.output
        assert end == "SIGKILL" or "again to continue" in program.output.splitlines()[-1]
        assert "Traceback" not in program.output
        assert not output.exists()
    allow_connections(database_url, allow=True)
    query(database_url, "DROP TRIGGER slow ON predictions")
    other = run(image_dir, "--output", output, models=models, DATABASE_URL=database_url)
    assert other.returncode == 1
    assert "another log (True, now False): --restart" in other.stderr

    done = run(image_dir, "--output", output, "--log", models=models, DATABASE_URL=database_url)
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == uninterrupted.read_bytes()
    logged = query(database_url, 'SELECT image_name, score, result FROM predictions ORDER BY image_name COLLATE "C"')
    assert logged == [
        (row["path"], float(row["score"]), row["result"]) for row in read(uninterrupted) if not row["error"]
    ]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("scores")] == ["scores.csv"]


def allow_connections(url: str, *, allow: bool) -> None:
    """Allows or refuses connections to the database, and ends its present ones."""
    database = url.partition("?")[0].rpartition("/")[2]
    server = url.replace(f"/{database}?", "/postgres?", 1)
    query(server, f"ALTER DATABASE {database} ALLOW_CONNECTIONS {allow}")
    query(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", database)


def test_multiclass_probabilities_are_in_the_table_and_in_the_predictions_log(
    models: Path, tmp_path: Path, database_url: str
) -> None:
    (tmp_path / "sky").mkdir()
    for name in colour_models.CLASSES:
        images.write_jpeg(tmp_path / "sky" / f"{name}.jpg", colour_models.image(name))
    output = tmp_path / "classes.csv"
    command = (tmp_path / "sky", "--model", "colours", "--output", output, "--log")
    done = run(*command, models=models, DATABASE_URL=database_url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{output}: 3 files scored, 1 nebula, 1 lawn, 1 ocean, 0 bad files")
    found = {row["path"]: (row["result"], float(row["score"]), float(row["p_ocean"])) for row in read(output)}
    assert [Path(path).stem for path in found] == [result for result, _, _ in found.values()]
    logged = "SELECT image_name, result, score, (probabilities ->> 'ocean')::float FROM predictions"
    assert {row[0]: row[1:] for row in query(database_url, logged)} == found


def test_only_one_process_writes_a_table(image_dir: Path, models: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    with resumable_table.open_table(output, COLUMNS, {}, images_per_chunk=1, restart=False) as table:
        table.plan(iter(()), 1, "")
        command = ["score", str(image_dir), "--output", str(output)]
        runs = [command, [*command, "--restart"]]
        code = f"from astrodetect.__main__ import main; print(*map(main, {runs}))"
        environ = {**os.environ, "ASTRODETECT_MODELS_DIR": str(models)}
        other = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
        )
        assert other.stdout == "1 1\n"
        assert other.stderr.count(f"another process is writing {output}") == 2
        table.finish(lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


def test_a_table_of_images_is_scored_and_only_bad_files_are_a_failure(colour_models_dir: Path, tmp_path: Path) -> None:
    images.write_jpeg(tmp_path / "lawn.jpg", colour_models.image("lawn"))
    (tmp_path / "bad.jpg").write_text("no image")
    for names, status in ((["lawn.jpg", "bad.jpg", "gone.jpg"], 0), (["bad.jpg", "gone.jpg"], 1)):
        table, output = tmp_path / "list.csv", tmp_path / f"scores-{status}.csv"
        table.write_text("".join(f"{line}\n" for line in ["filename", *names]))
        done = run(table, "--output", output, models=colour_models_dir)
        assert done.returncode == status, done.stderr
        assert [row["path"] for row in read(output)] == [str(tmp_path / name) for name in names]
        assert ("every file is bad" in done.stderr) == bool(status)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{image_dir}/nowhere",), "no such folder or file: {image_dir}/nowhere"),
        (("{image_dir}", "{image_dir}/1"), "{image_dir}/1 is inside {image_dir}"),
        (("{image_dir}", "{image_dir}/1/.."), "the same: name it once"),
        (("{empty}",), "no images under {empty}"),
        (("{image_dir}", "--output", "scores.txt"), "ends in none of .csv .parquet .vot .fits .hats"),
        (("{image_dir}", "--output", "{image_dir}/nowhere/scores.csv"), "no folder {image_dir}/nowhere for the output"),
        (("{image_dir}", "--output", "{empty}/o.csv", "--model", "other"), "no model other yet: "),
        (
            ("{image_dir}", "--output", "{empty}/o.csv", "--model", "../other"),
            "argument --model: the name of a model in ",
        ),
    ],
)
def test_scoring_errors_are_one_line_and_leave_no_files(
    image_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        sys.exit(
            __main__.main(["score", *(argument.format(image_dir=image_dir, empty=tmp_path) for argument in arguments)])
        )
    lines = capsys.readouterr().err.splitlines()
    assert message.format(image_dir=image_dir, empty=tmp_path) in lines[-1]
    assert (ended.value.code, len(lines)) == (1, 1) or ended.value.code == 2
    assert not list(tmp_path.iterdir())


def test_an_unreachable_postgresql_is_reported_before_scoring(image_dir: Path, models: Path, tmp_path: Path) -> None:
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    done = run(image_dir, "--output", tmp_path / "o.csv", "--log", models=models, DATABASE_URL=url)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "cannot reach PostgreSQL" in line
    assert not list(tmp_path.iterdir())


def test_score_command_imports_neither_tensorflow_nor_openvino() -> None:
    imported = (
        "import sys; from astrodetect import __main__; from astrodetect.scoring import batch_scoring;"
        " print({'tensorflow', 'keras', 'openvino'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", imported], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
