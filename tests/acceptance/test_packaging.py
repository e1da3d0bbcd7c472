"""The wheel: what it contains, and that the installed command finds its programs, SQL, pages and folders."""

import email
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx2
import pytest
from programs import ROOT, Program, free_port, query, run_here

from astrodetect import __version__, extras
from astrodetect.__main__ import main

PROGRAMS = {"main.py", "train_model.py", "database.py", "setup_db.py"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [path] = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the installed package; what it depends on comes from this environment."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    return folder


def environment(installed: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(installed)} | {"ASTRODETECT_DATA_DIR": "data"}


def astrodetect(installed: Path, folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(installed / "bin" / "astrodetect"), *arguments],
        cwd=folder, env=environment(installed) | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_wheel_has_every_file_of_the_package_and_no_other_module_at_its_top(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in names} == {"astrodetect"}
    package = [path for path in (ROOT / "astrodetect").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    sql = [f"astrodetect/programs/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "sql").rglob("*.sql")]
    programs = {f"astrodetect/programs/{name}" for name in PROGRAMS}
    assert names == {path.relative_to(ROOT).as_posix() for path in package} | programs | {*sql}


def test_wheel_describes_itself_and_leaves_tensorflow_to_an_extra(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [path] = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = email.message_from_string(archive.read(path).decode())
        licence = archive.read(path.replace("METADATA", "licenses/LICENSE")).decode()
    assert (metadata["Version"], metadata["License-Expression"]) == (__version__, "BSD-3-Clause")
    assert metadata.get_payload().startswith("# astrodetect")  # type: ignore[union-attr]
    assert "Redistribution" in licence
    requirements = metadata.get_all("Requires-Dist") or []
    for name in ("tensorflow", "keras", "h5py", "nncf", "efficientnet-lite0"):
        [requirement] = [line for line in requirements if line.startswith(name)]
        assert requirement.endswith("; extra == 'train'")


def test_installed_command_keeps_data_and_models_in_the_current_folder(installed: Path, tmp_path: Path) -> None:
    done = astrodetect(installed, tmp_path, "--version")
    assert done.stdout == f"astrodetect {__version__}\n", done.stderr
    done = astrodetect(installed, tmp_path, "models")
    assert done.stderr == "astrodetect: no model resnet50_model yet: astrodetect train makes one from your images\n"
    code = "from astrodetect import provenance, settings; print(settings.ROOT, provenance._commit())"
    command = [sys.executable, "-c", code]
    printed = subprocess.check_output(command, cwd=tmp_path, env=environment(installed), text=True)
    assert printed == f"{tmp_path} \n"


def test_installed_setup_db_finds_its_migrations(installed: Path, tmp_path: Path, postgres_url: str) -> None:
    (tmp_path / "database.py").write_text("raise SystemExit('a module of the user')")
    done = astrodetect(installed, tmp_path, "setup-db", DATABASE_URL=postgres_url)
    assert done.returncode == 0, done.stderr
    assert query(postgres_url, "SELECT count(*) FROM predictions") == [(0,)]


def test_installed_train_reads_the_options_of_train_model(installed: Path, tmp_path: Path) -> None:
    done = astrodetect(installed, tmp_path, "train", "--train", "a", "--test", "b", "--recipe", "forest")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("train_model: ")
    assert "a" in line


def test_installed_serve_answers_with_several_workers(installed: Path, tmp_path: Path, database_url: str) -> None:
    port = free_port()
    arguments = [str(installed / "bin" / "astrodetect"), "serve", "--port", str(port), "--workers", "2"]
    variables = environment(installed) | {"DATABASE_URL": database_url}
    with Program(*arguments, log=tmp_path / "log", folder=tmp_path, environment=variables) as service:

        def answers() -> bool:
            try:
                return httpx2.get(f"http://127.0.0.1:{port}/models-page").status_code == httpx2.codes.OK
            except httpx2.TransportError:
                return False

        service.wait_until(answers)
        service.signal(15)
        service.wait(60)


def test_training_without_its_packages_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "keras" else name)
    done = run_here(main, "train", "--train", tmp_path, "--test", tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "train_model: training needs packages that are missing (keras): pip install 'astrodetect[train]'\n"
    )


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("astrodetect se", {"serve", "setup-db"}),
        ("astrodetect train --stretch a", {"asinh"}),
        ("astrodetect score galaxies/", {"galaxies/one.jpg"}),
    ],
)
def test_bash_completes_commands_choices_and_paths(tmp_path: Path, words: str, completed: set[str]) -> None:
    (tmp_path / "galaxies").mkdir()
    (tmp_path / "galaxies" / "one.jpg").touch()
    script = run_here(main, "completion", "bash").stdout
    (tmp_path / "completion.bash").write_text(script)
    ask = f"""source completion.bash; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        $(complete -p astrodetect | sed 's/.*-F \\([^ ]*\\).*/\\1/'); printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == completed
