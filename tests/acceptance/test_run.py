"""`python3 run.py` in a clone, as a newcomer runs it. The packages of this test run stand in for an installation: CI
installs them anew in its first step."""

import hashlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import httpx2
import psutil
import pytest
import suite
from programs import ROOT, Program, free_port

import run
from astrodetect.model_store.training_progress import request_stop

DEBIAN_VENV_MESSAGE = """\
The virtual environment was not created successfully because ensurepip is not
available.  On Debian/Ubuntu systems, you need to install the python3-venv
package using the following command.
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that git tracks or would, without what this checkout generated."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):  # unpacked from an archive
        parts = [path for path in ROOT.iterdir() if path.name not in {".venv", ".git", "data", "models"}]
        names = [str(path.relative_to(ROOT)) for part in parts for path in [part, *part.rglob("*")] if path.is_file()]
    place = tmp_path / "a clone"
    for name in names:
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / name)
    return place


@pytest.fixture
def installed(clone: Path) -> Path:
    """A clone whose .venv is this one."""
    venv, real = clone / ".venv", Path(sys.prefix)
    venv.mkdir()
    shutil.copyfile(real / "pyvenv.cfg", venv / "pyvenv.cfg")
    for part in real.iterdir():
        if part.is_dir():
            (venv / part.name).symlink_to(part)
    stamp = "\n".join(
        hashlib.sha256((clone / name).read_bytes()).hexdigest() for name in ("requirements.txt", "requirements-dev.txt")
    )
    (venv / run.STAMP.name).write_text(stamp)
    return clone


def commands_to_paste(output: str) -> tuple[str, str]:
    curl = re.search(r"curl -F .*", output)
    psql = re.search(r"list the predictions: +(.*)", output)
    assert curl, output
    assert psql, output
    return curl[0], psql[1]


def shell(line: str) -> str:
    return subprocess.run(line, shell=True, capture_output=True, text=True, check=True).stdout


def test_run_serves_and_its_commands_to_paste_work(installed: Path, model_folder: Path, tmp_path: Path) -> None:
    models = installed / "models"
    models.mkdir()
    for path in model_folder.iterdir():
        if path.is_file():
            shutil.copyfile(path, models / path.name)
    (installed / "data" / "sample" / "test" / "E").mkdir(parents=True)
    sky = run_simulate(installed)
    port = str(free_port())
    with Program("run.py", "--port", port, folder=installed, log=tmp_path / "log") as running:
        running.wait_until(lambda: "Ctrl-C stops" in running.output)
        assert "Traceback" not in running.output
        curl, psql = commands_to_paste(running.output)
        assert sky in curl
        assert '"result":' in send(curl)
        assert Path(sky).name in shell(psql)
        page = re.search(r"In a browser: (.*)", running.output)
        assert page, running.output
        assert "Classify images" in httpx2.get(page[1]).text
        running.signal(signal.SIGINT)
        assert running.wait() == 0, running.output
    assert not (installed / "data" / "postgres" / "postmaster.pid").exists()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(port))) != 0


def send(curl: str) -> str:
    """Run the printed curl command; on a machine without curl, send what it would."""
    if shutil.which("curl"):
        return shell(curl)
    _, _, form, url = shlex.split(curl)
    name, _, path = form.partition("=@")
    return httpx2.post(url, files={name: (Path(path).name, Path(path).read_bytes())}, timeout=60).text


def run_simulate(folder: Path) -> str:
    """One image of the sample."""
    code = "from astrodetect.datasets.simulation.generator import make_dataset; from pathlib import Path; import sys"
    place = folder / "data" / "sample" / "test"
    subprocess.run(
        [sys.executable, "-c", f"{code}; make_dataset(Path(sys.argv[1]), {{'E': 1}}, seed=0, workers=1)", str(place)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    return str(place / "E" / "00001.jpg")


def images_in(folder: Path) -> list[Path]:
    """The sample as it stands."""
    return list((folder / "data" / "sample").rglob("*.jpg"))


def more_images(folder: Path, *, than: int) -> bool:
    """Whether the sample has more images than before."""
    return len(images_in(folder)) > than


def test_the_page_answers_before_the_training_and_the_same_command_continues_an_interrupted_one(
    installed: Path, tmp_path: Path
) -> None:
    with Program("run.py", "--port", str(free_port()), folder=installed, log=tmp_path / "log1") as running:
        running.wait_until(partial(more_images, installed, than=0))
        running.signal(signal.SIGINT)
        assert running.wait() == 130, running.output
    assert running.output.splitlines()[-1] == "stopped: run the same command again to continue"
    assert "Traceback" not in running.output

    before, port = len(images_in(installed)), free_port()
    url, models = f"http://127.0.0.1:{port}", installed / "models"
    with Program("run.py", "--port", str(port), folder=installed, log=tmp_path / "log2") as running:
        running.wait_until(partial(more_images, installed, than=before))
        assert "Simulating images" in httpx2.get(url).text
        ready = httpx2.get(f"{url}/health/ready")
        assert (ready.status_code, httpx2.get(f"{url}/health/live").status_code) == (503, 200)
        assert "it is being trained (simulating images" in ready.json()["error"]["message"]
        request_stop(models, "resnet50_model")  # as the button of the page does
        running.wait_until(lambda: "stopped: resume it at" in running.output)
        assert "was stopped" in httpx2.get(url).text
        running.signal(signal.SIGINT)
        assert running.wait() == 0, running.output
    assert "Traceback" not in running.output
    assert not (installed / "data" / "postgres" / "postmaster.pid").exists()
    assert not list((installed / "data" / "sample").rglob("*.part"))


def test_a_port_in_use_is_reported_before_anything_is_installed(clone: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Program("run.py", "--port", str(port), folder=clone, log=tmp_path / "log") as running:
            assert running.wait() == 1
    [line] = running.output.splitlines()
    assert f"try --port {port + 1}" in line
    assert not (clone / ".venv").exists()


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_an_invalid_port_is_a_usage_error(port: str, tmp_path: Path) -> None:
    with Program("run.py", "--port", port, log=tmp_path / "log") as running:
        assert running.wait() == 2
    assert "argument --port" in running.output.splitlines()[-1]


def test_a_missing_venv_module_is_reported_in_one_line(clone: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "venv.py").write_text(f"print({DEBIAN_VENV_MESSAGE!r}); raise SystemExit(1)")
    environment = {"PYTHONPATH": str(broken)}
    with Program(
        "run.py", "--port", str(free_port()), folder=clone, log=tmp_path / "log", environment=environment
    ) as running:
        assert running.wait() == 1
    assert "venv module is missing" in running.output.splitlines()[-1]
    assert "Traceback" not in running.output


def test_a_failed_installation_is_reported_in_one_line_and_repeated_next_time(clone: Path, tmp_path: Path) -> None:
    (clone / "requirements.txt").write_text("astrodetect-has-no-such-package==1.0\n")
    environment = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    with Program(
        "run.py", "--port", str(free_port()), folder=clone, log=tmp_path / "log", environment=environment
    ) as running:
        assert running.wait() == 1
    assert "pip failed: Could not find a version" in running.output.splitlines()[-1]
    assert not (clone / ".venv" / run.STAMP.name).exists()


def test_an_error_of_the_system_is_reported_in_one_line(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "run.py", tmp_path / "run.py")  # without the files that it reads
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does once it has what it wants
    requirements, command = tmp_path / "requirements.txt", [sys.executable, "run.py", "--port", str(free_port())]
    for message in (f"No such file or directory: '{requirements}'", "Broken pipe"):
        done = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
        [line] = done.stderr.splitlines()
        assert (done.returncode, line.partition("] ")[2]) == (1, message)
        requirements.touch()
    os.close(writer)


def test_a_service_that_is_stopped_while_it_imports_prints_no_traceback(installed: Path, tmp_path: Path) -> None:
    (installed / "uvicorn.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    with Program("run.py", "--port", str(free_port()), folder=installed, log=tmp_path / "log") as running:
        running.wait_until(lambda: "importing" in running.output)
        running.signal(signal.SIGINT)
        assert running.wait() == 130, running.output
    assert running.output.splitlines()[-2:] == ["importing", "stopped: run the same command again to continue"]


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is a signal on Linux only")
def test_a_child_ends_with_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import run, sys; run.PYTHON = sys.executable\n"
        "with run.child('-c', 'import time; time.sleep(60)') as child: print(child.pid, flush=True); child.wait()"
    )
    with Program("-c", code, log=tmp_path / "log") as parent:
        parent.wait_until(lambda: parent.output.endswith("\n"))
        child = psutil.Process(int(parent.output))
        parent.signal(signal.SIGKILL)
        assert len(psutil.wait_procs([child], timeout=10)[1]) == 0


class Replaced(Exception):
    """What `os.execv` does in these tests: its path and arguments."""


@pytest.fixture
def add_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], Path]:
    """A machine whose `python3` is 3.14, and a function that adds another Python to PATH; there is none elsewhere."""

    def execute(path: str, command: list[str]) -> None:
        raise Replaced(path, command)

    monkeypatch.setattr(run, "sys", SimpleNamespace(version_info=(3, 14, 0), argv=["run.py", "--port", "8001"]))
    monkeypatch.setattr(run, "PYTHONS", ())
    monkeypatch.setattr(os, "execv", execute)
    monkeypatch.setenv("PATH", str(tmp_path))

    def add(name: str, script: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return add


def test_an_unsupported_python_continues_with_the_newest_supported_one(
    add_python: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    add_python("python3.13", "echo 'pyenv: python3.13: command not found' >&2; exit 127")
    add_python("python3.11", "echo 3 11")
    newest = str(add_python("python3.12", "echo 3 12"))
    with pytest.raises(Replaced) as replaced:
        run.rerun_with_supported_python()
    assert replaced.value.args == (newest, [newest, str(ROOT / "run.py"), "--port", "8001"])
    assert capsys.readouterr().out == f"run.py: Python 3.14 is not supported, continuing with {newest}\n"


def test_a_python_of_an_installer_is_found_without_path(
    add_python: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "PYTHONS", ("versions/3.%d.*/bin/python3",))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    installed = str(add_python("versions/3.12.7/bin/python3", "echo 3 12"))
    with pytest.raises(Replaced) as replaced:
        run.rerun_with_supported_python()
    assert replaced.value.args[0] == installed


def test_a_machine_without_a_supported_python_is_told_what_to_install(
    add_python: Callable[[str, str], Path],
) -> None:
    add_python("python3.14", "echo 3 14")
    with pytest.raises(run.StepFailed, match=r"Python 3\.14, and no Python 3\.11, 3\.12 or 3\.13 .*: apt install"):
        run.rerun_with_supported_python()


@pytest.mark.parametrize(
    ("selected", "needs"),
    [
        ([], True),
        (["-x", "-k", "pages"], True),
        (["tests"], True),
        (["tests/unit", "tests/browser/test_report.py::test_it"], True),
        (["tests/unit", "-q"], False),
        (["tests/acceptance/test_run.py::test_it"], False),
    ],
)
def test_a_browser_is_needed_if_page_tests_are_selected(selected: list[str], *, needs: bool) -> None:
    assert suite.needs_browser(selected) is needs
