"""The documentation is true: its examples run, its reference is that of the code, its links lead somewhere."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import colour_models
import numpy as np
import pytest
from programs import ROOT, query, run_here
from starlette.testclient import TestClient

import run
from astrodetect.__main__ import main
from astrodetect.cli import train_options
from astrodetect.datasets.simulation import generator
from astrodetect.model_store.manifest import Manifest
from astrodetect.service.schemas import PredictionResponse
from astrodetect.settings import Settings
from docs import generate_reference

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
IN_ORDER = [ROOT / "README.md", ROOT / "docs" / "quickstart.md"]
SERVICE = "http://127.0.0.1:8000"
LONGEST_LINE, LONGEST_README = 120, 180
FEWER = {"E=300": "E=24", "SB=300": "SB=24"}  # images of the examples, which would take a minute
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def shell_commands(page: Path) -> list[list[str]]:
    """The words of each command in the page's shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    """The models: one of E against SB, which goes by colour."""
    models = tmp_path / "models"
    ordinary = np.stack([colour_models.image("nebula", seed) for seed in range(12)])
    colour_models.publish_with_detectors(models, "resnet50_model", ordinary, ["SB", "E"])
    return models


@pytest.fixture
def examples(
    tmp_path: Path, models_dir: Path, database_url: str, start: Callable[[], TestClient]
) -> Iterator[Callable[[list[str]], str]]:
    """Runs a command of an example as in the repository after `python3 run.py`, at a small size."""
    generator.make_sample(tmp_path / "data" / "sample", 1, 3, seed=0, size=64, workers=1)
    client = start()
    environment = {"DATABASE_URL": database_url, "ASTRODETECT_MODELS_DIR": str(models_dir)}

    def run_example(words: list[str]) -> str:
        match words:
            case ["python", "-m", "astrodetect", *arguments]:
                smaller = [FEWER.get(word, word) for word in arguments]
                smaller += ["--top", "2"] if arguments[0] == "anomalies" else []
                done = run_here(main, *smaller, folder=tmp_path, environment=environment)
                assert done.returncode == 0, done.stderr
                return done.stdout
            case ["curl", *arguments]:
                request(client, tmp_path, arguments)
            case ["echo", *_, redirect, file]:
                subprocess.run(f"{shlex.join(words[:-2])} {redirect} {file}", shell=True, cwd=tmp_path, check=True)
            case ["python3", "run.py", *arguments]:
                run.parse_arguments() if not arguments else None
            case ["python", "train_model.py", *arguments]:
                train_options.parse_train_options(arguments, None)
            case _:
                assert words == ["source", ".venv/bin/activate"], f"nothing here runs {words[0]}"
        return ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["run.py"])
        yield run_example


def request(client: TestClient, folder: Path, arguments: list[str]) -> None:
    """What curl would send."""
    files = []
    while "-F" in arguments:
        field, _, path = arguments.pop(arguments.index("-F") + 1).partition("=@")
        arguments.remove("-F")
        files.append((field, (Path(path).name, (folder / path).read_bytes())))
    [url] = arguments
    address = url.removeprefix(SERVICE)
    response = client.post(address, files=files) if files else client.get(address)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("page", IN_ORDER, ids=name)
def test_shell_examples_run_in_order(page: Path, examples: Callable[[list[str]], str]) -> None:
    commands = shell_commands(page)
    assert commands
    printed = {masked(line) for words in commands for line in examples(words).splitlines()}
    shown = re.findall(r"^```\n(\d+ images.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert {masked(line) for text in shown for line in text.splitlines()} <= printed


def masked(line: str) -> str:
    return re.sub(r"\d[\d,]*", "N", line)


def test_every_documented_command_line_parses() -> None:
    parsers = generate_reference.programs()
    for page in PAGES:
        for command in shell_commands(page):
            words = ["python", "-m", *command] if command[0] == "astrodetect" else command
            line = shlex.join(words)
            if words[:2] == ["python", "train_model.py"]:
                train_options.parse_train_options(words[2:], None)
            elif words[:3] == ["python", "-m", "astrodetect"] and words[3] not in {"--version", "completion"}:
                program = max((known for known in parsers if line.startswith(known)), key=len)
                parsers[program].parse_args(words[len(program.split()) :])


def test_generated_reference_is_up_to_date() -> None:
    assert not [name(page) for page in generate_reference.outdated()], "run python docs/generate_reference.py"


def test_documented_settings_are_those_of_settings() -> None:
    settings = {f"ASTRODETECT_{field}".upper() for field in Settings.model_fields}
    for page in PAGES:
        named = set(re.findall(r"ASTRODETECT_[A-Z0-9_]*[A-Z0-9](?!_…)\b", page.read_text(encoding="utf-8")))
        assert not named - settings, name(page)


def test_documented_requests_are_routes_of_the_service() -> None:
    routes = [re.sub(r"\{\w+\}", "[^/]+", path) for path in generate_reference.openapi()["paths"]]
    for page in PAGES:
        for words in shell_commands(page):
            for url in (word for word in words if word.startswith(SERVICE)):
                path = url.removeprefix(SERVICE).partition("?")[0]
                assert any(re.fullmatch(route, path) for route in routes), f"{name(page)}: {url}"


def documented(page: str, heading: str) -> list[str]:
    """The first column of the table below a heading."""
    _, _, text = (ROOT / "docs" / "reference" / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    return re.findall(r"^\| `(\w+)` \|", text.partition("\n## ")[0], re.MULTILINE)


def test_documented_response_fields_are_those_of_detect() -> None:
    assert documented("http-api.md", "Responses") == list(PredictionResponse.model_fields)


def test_documented_manifest_fields_are_those_of_manifest() -> None:
    assert documented("models.md", "The manifest") == [field.name for field in fields(Manifest)]


def test_documented_columns_are_those_of_the_database(database_url: str) -> None:
    columns = """SELECT column_name FROM information_schema.columns
        WHERE table_schema = 'public' AND table_name = 'predictions' ORDER BY ordinal_position"""
    assert documented("tables.md", "`predictions`") == [column for [column] in query(database_url, columns)]
    tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    others = {table for [table] in query(database_url, tables)} - {"predictions"}
    assert set(documented("tables.md", "Other tables")) | {"features"} == others | {"features"}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_documentation_lines_are_short_and_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    long = [line for line in text.splitlines() if len(line) > LONGEST_LINE and not line.startswith("|")]
    assert not long
    targets = [link.partition("#")[0] for link in LINK.findall(without_code(page)) if "://" not in link]
    assert not [target for target in targets if target and not (page.parent / target).exists()]


@pytest.mark.parametrize("page", [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"], ids=name)
def test_named_source_files_exist(page: Path) -> None:
    paths = re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", page.read_text(encoding="utf-8"))
    placeholders = ("NAME", "NNNN", "data/", "models/", "templates/")
    paths = [path for path in paths if not any(word in path for word in placeholders)]
    assert not [path for path in paths if not any((top / path).exists() for top in (ROOT, ROOT / "astrodetect"))]


def test_readme_is_short_and_its_code_map_is_the_tree() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= LONGEST_README
    code_map = readme.partition("## Code map")[2]
    block = code_map.partition("```\n")[2].partition("```")[0]
    parents: dict[int, str] = {}
    shown = set()
    for line in block.splitlines():
        depth = len(line) - len(line.lstrip())
        entries = [line.split()[0], *re.findall(r"(?<= )\w+\.py\b|(?<= )sql/", line)]
        if entries[0].endswith("/"):
            parents[depth] = entries[0]
        above = "".join(folder for at, folder in sorted(parents.items()) if at < depth)
        shown |= {f"{above}{entry}" for entry in entries}
    assert not [path for path in shown if not (ROOT / path).exists()]
    packages = {f"{path.parent.relative_to(ROOT).as_posix()}/" for path in (ROOT / "astrodetect").rglob("__init__.py")}
    assert packages <= shown
