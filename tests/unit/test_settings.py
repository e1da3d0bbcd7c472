"""Settings come from the environment or from files of secrets; a problem is one line that names it."""

import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from astrodetect.__main__ import main
from astrodetect.settings import Settings, settings


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of secrets, with a database's URL."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "database_url").write_text("postgresql://from-file/astrodetect\n")
    monkeypatch.setitem(Settings.model_config, "secrets_dir", folder)
    monkeypatch.delenv("DATABASE_URL")
    return folder


def test_secrets_are_read_from_files_and_the_environment_goes_first(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (secrets / "astrodetect_api_key").write_text("key one,key two\n")
    assert settings().database_url == SecretStr("postgresql://from-file/astrodetect")
    assert settings().api_key == SecretStr("key one,key two")
    monkeypatch.setenv("DATABASE_URL", "postgresql://from-environment/astrodetect")
    assert Settings().database_url == SecretStr("postgresql://from-environment/astrodetect")


def test_unreadable_secret_is_one_line(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)  # root reads everything
    with pytest.raises(SystemExit, match=r"cannot read a setting: .*Permission denied: .*database_url"):
        settings()


@pytest.mark.filterwarnings("default")  # as without pytest
def test_a_secret_that_is_a_folder_as_docker_makes_of_a_missing_one_is_one_line(secrets: Path) -> None:
    (secrets / "astrodetect_api_key").mkdir()
    with pytest.raises(SystemExit, match=r"cannot read a setting: .*astrodetect_api_key.* found a directory"):
        settings()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'ASTRODETECT_API_KEY="hidden', "line 3 is not NAME=value"),
        (b"ASTRODETECT_API_KEY: hidden", "line 3 is not NAME=value"),
        ("ASTRODETECT_API_KEY=hidden".encode("utf-16"), "can't decode byte"),
    ],
    ids=["quotation mark", "colon", "UTF-16"],
)
def test_a_line_of_the_env_file_that_cannot_be_read_does_not_open_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, problem: str
) -> None:
    (tmp_path / ".env").write_bytes(b"# settings\nASTRODETECT_THREADS=1\n" + line + b"\n")
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    with pytest.raises(SystemExit, match=problem) as refusal:
        settings()
    assert "hidden" not in str(refusal.value)


def test_an_env_file_that_is_a_folder_as_docker_makes_of_a_missing_one_or_a_pipe_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / name)
        with pytest.raises(SystemExit, match=f"^cannot read .*{name}: "):
            settings()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ASTRODETECT_API_KY", "ASTRODETECT_API_KEY"),
        ("astrodetect_model_dir", "ASTRODETECT_MODELS_DIR"),
        ("ASTRODETECT_DATABASE_URL", "DATABASE_URL"),
    ],
)
def test_a_misspelt_setting_is_refused_and_what_kubernetes_adds_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    for ending in ("PORT", "SERVICE_HOST", "SERVICE_PORT", "PORT_80_TCP_ADDR", "MODELS_PORT", "API_SERVICE_PORT"):
        monkeypatch.setenv(f"ASTRODETECT_{ending}", "1")
    settings()
    settings.cache_clear()
    (tmp_path / ".env").write_text(f"{name}=hidden\n")
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    with pytest.raises(SystemExit, match=rf"^invalid setting: there is no {name}, but {meant}$"):
        settings()
    monkeypatch.setitem(Settings.model_config, "env_file", None)
    monkeypatch.setenv(name, "hidden")
    with pytest.raises(SystemExit, match=f"no {name}, but"):
        settings()


@pytest.mark.parametrize("value", [" ", ", ,", "\u00a0"])
def test_an_api_key_of_blanks_does_not_open_the_service(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ASTRODETECT_API_KEY", value)
    with pytest.raises(SystemExit, match=r"invalid setting: ASTRODETECT_API_KEY: .* write a key, or leave it unset"):
        settings()
    monkeypatch.setenv("ASTRODETECT_API_KEY", "")
    assert not settings().api_key


@pytest.mark.parametrize("value", ["inf", "1e9"])
def test_a_timeout_that_postgresql_cannot_have_is_one_line(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ASTRODETECT_DATABASE_TIMEOUT_S", value)
    with pytest.raises(SystemExit, match=r"invalid setting: ASTRODETECT_DATABASE_TIMEOUT_S: .* 86400"):
        settings()


@pytest.mark.parametrize(("value", "problem"), [("abc", "invalid integer value: 'abc'"), ("70000", "from 0 to 65535")])
def test_port_of_the_platform_is_the_default_of_serve(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str, problem: str
) -> None:
    monkeypatch.setenv("PORT", value)
    with pytest.raises(SystemExit):
        main(["serve"])
    assert f"argument --port: {problem}" in capsys.readouterr().err
