"""`python -m astrodetect COMMAND` from the command line: simulate and psql."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from programs import ROOT, Program, run_here

from astrodetect.__main__ import main
from astrodetect.cli._options import check_not_input


def astrodetect(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "astrodetect", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_simulate_writes_a_sample_and_prints_the_folder(tmp_path: Path) -> None:
    sky = tmp_path / "µ"
    options = ("--train", "2", "--test", "1", "--classes", "E", "ring")
    done = astrodetect("simulate", str(sky), *options, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(tmp_path / "\\xb5")]
    files = {path.relative_to(sky).as_posix() for path in sky.rglob("*.jpg")}
    parts = {"train": (1, 2), "test": (1,)}
    assert files == {
        f"{part}/{name}/0000{n}.jpg" for part, numbers in parts.items() for name in ("E", "ring") for n in numbers
    }


def test_the_help_is_printed_in_any_locale() -> None:
    assert "\\u2026" in astrodetect("score", "--help", PYTHONIOENCODING="latin-1").stdout


def test_the_workers_of_a_simulation_end_with_it(tmp_path: Path) -> None:
    command = ("-m", "astrodetect", "simulate", str(tmp_path / "sky"), "--size", "64")
    with Program(*command, log=tmp_path / "log") as program:
        program.wait_until(lambda: any((tmp_path / "sky").glob("*/*/*.jpg")))
        workers = psutil.Process(program.process.pid).children()
        program.signal(signal.SIGKILL)
        assert len(psutil.wait_procs(workers, timeout=10)[1]) == 0


def test_simulate_writes_the_requested_count_of_each_class(tmp_path: Path) -> None:
    assert run_here(main, "simulate", tmp_path, "--count", "E=2", "--count", "lens=1").returncode == 0
    assert {path.name: len(list(path.iterdir())) for path in tmp_path.iterdir() if path.is_dir()} == {"E": 2, "lens": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "0"), "from 16 to 4096"),
        (("--seed", "-1"), "from 0 to"),
        (("--train", "-3"), "from 0 to"),
        (("--count", "E=99999999999999999999"), "from 0 to"),
        (("--count", "E"), "CLASS=N"),
        (("--classes", "quasar"), "no simulated class is called 'quasar'"),
    ],
)
def test_invalid_simulate_options_are_a_one_line_error_and_write_nothing(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run_here(main, "simulate", tmp_path / "sky", *arguments)
    assert done.returncode in {1, 2}
    assert message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "sky").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("serve --uds own.csv", "own.csv exists and is no socket"),
        ("serve --uds none/socket", "there is no folder"),
        ("serve --ssl-keyfile own.csv", "name it by --ssl-certfile"),
        ("labels export .", ". is a folder: name a .csv file"),
        ("models verify small 5", "only rollback takes a VERSION"),
        ("split . --output x.csv --limit 0", "from 1 to"),
        ("crossmatch own.csv --output x.csv --type kind", "--type has no effect without import"),
        ("crossmatch list --radius 3", "--radius has no effect with list"),
        ("crossmatch --ra RA", "--ra has no effect without a TABLE or import"),
        ("explore . --figure-format svg", "--figure-format has no effect without --figures"),
        ("explore . --model small --crop 0.7", "--crop has no effect with --model"),
        ("evaluate small . --figure-format svg", "--figure-format has no effect without --figures"),
        ("train --figure-format svg", "--figure-format has no effect without --figures"),
        ("anomalies . --figure-format svg", "--figure-format has no effect without --figures"),
        ("anomalies . --seed 3", "--seed has no effect without --sample"),
        ("anomalies . --known-radius 3", "--known-radius has no effect without --known"),
        ("score --mosaic a.fits --size 8px --ra RA", "--ra has no effect without --catalogue"),
        ("keys list --days 3", "--days has no effect with list"),
        ("labels export x.csv --test 0.3", "--test has no effect with export"),
        ("models verify --json", "--json has no effect with verify"),
        ("psql --show -c x", "-c has no effect with --show"),
        ("split . --output x.csv --copy", "--copy has no effect on a .csv"),
        ("simulate sky --count E=3 --count E=4", "--count is given twice for one class"),
        ("split . --output x --limit 3 --limit E=1 --limit 4", "--limit is given twice for one class"),
        ("simulate sky --count E=3 --train 4", "--train has no effect with --count"),
        ("train --data a --train b", "leave --train and --test out"),
        ("explore . --output own.csv", "own.csv is no folder"),
        ("recall . --output own.csv/a", "own.csv is no folder"),
        ("evaluate small . --output own.csv/a.html", "own.csv is no folder"),
        ("crossmatch a.csv --catalogue own.csv --output own.csv", "own.csv is read itself"),
        ("score own.csv --restart --output ./own.csv", "own.csv is read itself"),
        ("anomalies ''", "a path is empty"),
        ("explore . --output ''", "a path is empty"),
        ("score ''", "a path is empty"),
        ("predict . http://[::1/a.jpg", "an address is invalid"),
    ],
)
def test_what_a_command_would_ignore_or_damage_is_refused_in_one_line(
    command: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "own.csv").write_text("mine")
    done = run_here(main, *shlex.split(command), folder=tmp_path)
    assert done.returncode in {1, 2}
    assert message in done.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["own.csv"]


def test_an_input_that_is_no_file_is_not_taken_for_the_output(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").touch()
    check_not_input(tmp_path / "scores.csv", [f"https://host/{'x' * 300}.jpg", f"a.tar#{'x' * 300}", "missing"])


def test_simulate_into_an_existing_file_is_a_one_line_error(tmp_path: Path) -> None:
    (tmp_path / "sky").write_text("in the way")
    done = run_here(main, "simulate", tmp_path / "sky")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "cannot write to" in line


def test_psql_queries_the_predictions_table(database_url: str) -> None:
    done = astrodetect("psql", "-c", "SELECT count(*) AS rows FROM predictions", DATABASE_URL=database_url)
    assert done.returncode == 0, done.stderr
    assert "(1 row)" in done.stdout


def test_psql_hides_the_password_and_refuses_an_invalid_url() -> None:
    url = "postgresql://someone:hunter2@127.0.0.1:1/astrodetect"
    shown = run_here(main, "psql", "--show", environment={"DATABASE_URL": url})
    assert "someone@127.0.0.1:1/astrodetect" in shown.stdout
    for done in (shown, astrodetect("psql", "-c", "SELECT 1", DATABASE_URL=url)):
        assert "hunter2" not in done.stdout + done.stderr
    refused = run_here(main, "psql", environment={"DATABASE_URL": "host=h dbname=d password=hunter2"})
    assert refused.returncode == 1
    [line] = refused.stderr.splitlines()
    assert "DATABASE_URL is not a URL" in line


@pytest.mark.skipif(
    not shutil.which("unshare") or os.geteuid() != 0, reason="needs root, and unshare: a process 1 is made"
)
def test_sigterm_ends_process_1_of_a_container_as_ctrl_c(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", "astrodetect"]
    with (
        log.open("w") as output,
        subprocess.Popen([*command, "simulate", str(tmp_path / "sky")], cwd=ROOT, stderr=output) as unshare,
    ):
        while "simulating" not in log.read_text():
            assert unshare.poll() is None, log.read_text()
            time.sleep(0.05)
        [process_1, *_] = psutil.Process(unshare.pid).children()
        process_1.terminate()
        assert unshare.wait(30) == 130
    assert "stopped: run the same command again to continue" in log.read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is a full disk")
def test_a_full_disk_behind_stdout_is_one_line_and_both_may_be_closed() -> None:
    command = f"{sys.executable} -m astrodetect completion bash"
    done = subprocess.run(["sh", "-c", f"{command} > /dev/full"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "astrodetect: [Errno 28] No space left on device\n")
    models = f"{sys.executable} -m astrodetect models --key x 2>&-"  # print(file=None) would be stdout
    done = subprocess.run(["sh", "-c", models], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    split = f"{sys.executable} -m astrodetect split . --output {'x' * 256} >&-"
    done = subprocess.run(["sh", "-c", split], cwd=ROOT, capture_output=True, text=True, check=False)
    [line] = done.stderr.splitlines()
    assert (done.returncode, "File name too long" in line) == (1, True)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
@pytest.mark.parametrize(
    ("program", "module"),
    [("-m astrodetect models", "shtab"), ("setup_db.py", "psycopg2"), ("train_model.py", "numpy")],
)
def test_ctrl_c_during_the_imports_prints_no_traceback(program: str, module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, *program.split()],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_ctrl_c_while_a_module_in_c_is_loaded_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "openvino.py").write_text('raise ImportError("initialization failed") from KeyboardInterrupt()')
    done = subprocess.run(
        [sys.executable, "-m", "astrodetect", "evaluate", "model", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "stopped: run the same command again to continue\n")
