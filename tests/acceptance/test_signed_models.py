"""`models new-key`, `sign` and `verify`, and ASTRODETECT_REQUIRE_SIGNED."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import colour_models
import pytest
from programs import run_here

from astrodetect.__main__ import main
from astrodetect.errors import ModelError
from astrodetect.inference.engine import load_verified
from astrodetect.model_store import store
from astrodetect.settings import settings

Models = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two versions of the model m."""
    for scale in (0.05, 0.1):
        colour_models.publish(tmp_path / "models", "m", colour_models.TWO_CLASSES, scale=scale)
    return tmp_path / "models"


@pytest.fixture
def models(folder: Path) -> Models:
    """A function that runs the command."""
    environment = {"ASTRODETECT_MODELS_DIR": str(folder), "ASTRODETECT_MODEL": "m"}
    return lambda *arguments, trusted="": run_here(
        main, "models", *arguments, environment=environment | {"ASTRODETECT_REQUIRE_SIGNED": trusted}
    )


@pytest.fixture
def key(models: Models, tmp_path: Path) -> tuple[Path, str]:
    """A private key's file, and the public key."""
    done = models("new-key", "--key", tmp_path / "key.pem")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    return tmp_path / "key.pem", done.stdout.strip().removeprefix("ASTRODETECT_REQUIRE_SIGNED=")


def test_where_signatures_are_required_only_signed_models_are_loaded(
    folder: Path, models: Models, key: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, public = key
    other = models("new-key", "--key", tmp_path / "other.pem").stdout.strip().partition("=")[2]
    version = load_verified(folder, "m").manifest.version
    assert models("verify").stdout == f"m: version {version} is whole, not signed\n"
    assert "no key in ASTRODETECT_REQUIRE_SIGNED has signed it" in models("verify", trusted=public).stderr
    assert models("sign", "m", "--key", file).stdout == f"m: version {version} signed\n"
    assert (
        models("verify", trusted=f"{other}, {public}").stdout == f"m: version {version} is whole, signed by {public}\n"
    )

    monkeypatch.setenv("ASTRODETECT_REQUIRE_SIGNED", public)
    settings.cache_clear()
    assert load_verified(folder, "m").manifest.version == version
    manifest = json.loads((folder / "m.json").read_text())
    changes: list[dict[str, object]] = [
        {"threshold": 0.9},
        {"signatures": {public: manifest["signatures"][public][::-1]}},
        {"signatures": {}},
    ]
    for change in changes:
        (folder / "m.json").write_text(json.dumps(manifest | change))
        with pytest.raises(ModelError, match="no key in ASTRODETECT_REQUIRE_SIGNED has signed it"):
            load_verified(folder, "m")
    (folder / "m.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="have to be signed here"):
        store.attach_detectors(folder, "m", lambda _: None)
    monkeypatch.setenv("ASTRODETECT_REQUIRE_SIGNED", other)
    settings.cache_clear()
    with pytest.raises(ModelError, match="has signed it"):
        load_verified(folder, "m")
    assert "has signed it" in models("verify", trusted=" , ").stderr  # a list without a key is no permission
    (folder / "n.json").write_text("{")
    damaged = models("verify")
    assert (damaged.returncode, damaged.stderr.partition(":")[2][:22]) == (1, " n.json cannot be read")


def test_an_unsigned_version_is_not_rolled_back_to_where_signatures_are_required(
    models: Models, key: tuple[Path, str]
) -> None:
    file, public = key
    assert models("sign", "m", "--key", file).returncode == 0
    assert "has signed it" in models("rollback", "m", trusted=public).stderr
    assert models("rollback", "m").returncode == 0
    assert (
        models("rollback", "m", trusted=public).returncode == 0
    )  # the signed one again: the archive has its signature


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sign", "m"), "new-key and sign need --key FILE"),
        (("verify", "--key", "x"), "the others take none"),
        (("sign", "--key", "{none}"), "which model?"),
        (("sign", "m", "--key", "{none}"), "No such file"),
        (("sign", "m", "--key", "{text}"), "no private key without a password, in PEM"),
        (("new-key", "--key", "{text}"), "exists: a key is never replaced"),
        (("verify", "nobody"), "no model nobody"),
    ],
)
def test_errors_are_one_line(models: Models, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "text").write_text("no key")
    done = models(*(word.format(none=tmp_path / "none", text=tmp_path / "text") for word in arguments))
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
