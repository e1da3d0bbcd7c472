"""`python -m astrodetect models`: listing and rollback."""

import json
import subprocess
from pathlib import Path

import colour_models
import pytest
from programs import run_here

from astrodetect.__main__ import main
from astrodetect.inference.engine import load_verified
from astrodetect.model_store.publication import NETWORK


def models(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    given = {"ASTRODETECT_MODELS_DIR": str(folder), "ASTRODETECT_MODEL": "m"}
    return run_here(main, "models", *arguments, environment=given)


@pytest.fixture
def versions(tmp_path: Path) -> list[str]:
    """Of the model m, the newest last; there is another model beside it, and one that is broken."""
    published = [
        colour_models.publish(tmp_path, "m", colour_models.TWO_CLASSES, scale=sure).version
        for sure in (0.02, 0.05, 0.1)
    ]
    colour_models.publish(tmp_path, "other")
    (tmp_path / "torn.json").write_text("{")
    (tmp_path / "m.metrics.json").write_text("{}")  # figures of an evaluation: no model
    return published


def test_models_lists_every_model_with_earlier_versions_and_errors(tmp_path: Path, versions: list[str]) -> None:
    done = models(tmp_path)
    assert done.returncode == 0
    first, second, *earlier, other, last = done.stdout.splitlines()
    assert first.startswith(f"m  {versions[2]}  20")
    assert first.endswith("default model")
    assert second.strip() == "colour: nebula or lawn; 0 MB"
    assert [line.split()[:2] for line in earlier] == [["earlier", versions[1]], ["earlier", versions[0]]]
    assert (other.split()[0], "default model" in other) == ("other", False)
    assert last.strip() == "colour: nebula or lawn or ocean; 0 MB"
    assert done.stderr == "models: torn.json cannot be read: train it again with python train_model.py\n"


def test_models_json_lists_the_same_models(tmp_path: Path, versions: list[str]) -> None:
    model, other = json.loads(models(tmp_path, "--json").stdout)
    assert (model["name"], model["version"], model["default"]) == ("m", versions[2], True)
    assert [version["version"] for version in model["earlier"]] == [versions[1], versions[0]]
    assert model["bytes"] == sum((tmp_path / f"m{suffix}").stat().st_size for suffix in NETWORK)
    assert (other["name"], other["default"], other["earlier"]) == ("other", False, [])


def test_rollback_prints_the_restored_version_and_how_to_undo_it(tmp_path: Path, versions: list[str]) -> None:
    done = models(tmp_path, "rollback", "m", versions[0])
    assert done.stdout.splitlines() == [
        f"m: version {versions[0]} restored",
        f"to undo: python -m astrodetect models rollback m {versions[2]}",
    ]
    assert load_verified(tmp_path, "m").manifest.version == versions[0]
    assert models(tmp_path, "rollback", "m", versions[0]).stdout == f"m: version {versions[0]} was already in place\n"
    assert json.loads(models(tmp_path, "rollback", "m", "--json").stdout)["version"] == versions[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "which model?"),
        (("none",), "no model none here"),
        (("other",), "model other has no earlier version"),
        (("m", "0123456789ab"), "model m has no earlier version 0123456789ab: it has"),
    ],
)
def test_rollback_errors_are_one_line(
    tmp_path: Path, versions: list[str], arguments: tuple[str, ...], message: str
) -> None:
    done = models(tmp_path, "rollback", *arguments)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"astrodetect: {message}")
    assert load_verified(tmp_path, "m").manifest.version == versions[2]


def test_models_without_any_model_prints_the_training_command(tmp_path: Path) -> None:
    done = models(tmp_path)
    assert done.returncode == 1
    assert "python train_model.py makes one" in done.stderr


def test_rollback_refuses_a_version_that_fails_its_canary(tmp_path: Path, versions: list[str]) -> None:
    [archived] = [place for place in (tmp_path / ".m.earlier").iterdir() if place.name.endswith(versions[1])]
    manifest = archived / "m.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"canary_score": 0.0}))
    done = models(tmp_path, "rollback", "m")
    assert done.returncode == 1
    assert "astrodetect: model m scores its canary" in done.stderr
    assert load_verified(tmp_path, "m").manifest.version == versions[2]
    assert models(tmp_path, "rollback", "m", versions[0]).returncode == 0
