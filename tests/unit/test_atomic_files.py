"""A file is replaced completely or not at all."""

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from astrodetect import atomic_files
from astrodetect.anomalies.results import replace_output_folder
from astrodetect.model_store.versions import prune
from astrodetect.storage import objects


def test_an_exception_leaves_the_old_file_and_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    atomic_files.write_text(path, "old")
    with pytest.raises(UnicodeEncodeError), atomic_files.replacing(path) as part:
        part.write_text("new\ud800", encoding="utf-8")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="named pipes are of POSIX")
def test_a_pipe_stays_one_and_a_link_is_followed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is no regular file"):
        atomic_files.write_text(tmp_path / "pipe", "new")
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to("file")
    for text in ("new", "newer"):
        atomic_files.write_text(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "file").read_text() == text


def test_what_killed_processes_left_is_removed_and_what_running_ones_write_is_not(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    names = {
        (name, process): atomic_files.part_path(tmp_path / name).name.replace(f".{os.getpid()}.", f".{process}.")
        for name, process in (("[a].csv", ended.pid), ("[a].csv", 1), ("b.csv", ended.pid))
    }
    for name in names.values():
        (tmp_path / name).touch()
    with objects.open_writer(str(tmp_path / "[a].csv")):
        pass
    left = {"[a].csv", *names.values()} - {names["[a].csv", ended.pid]}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_processes_of_one_id_in_two_containers_have_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.csv"
    with atomic_files.replacing(path) as part:
        part.write_text("ours")
        with monkeypatch.context() as patch:
            patch.setattr(socket, "gethostname", lambda: "another container")
            atomic_files.write_text(path, "theirs")
        assert path.read_text() == "theirs"
    assert path.read_text() == "ours"
    assert [*tmp_path.iterdir()] == [path]


def test_folders_of_a_lower_layer_of_an_overlay_which_cannot_be_renamed_are_replaced_and_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def rename_upper(path: Path, target: Path) -> Path:
        if path.name in {"out", "0001.old"}:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(path, target)

    for name in ("out", ".m.earlier/0001.old"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "anomalies.csv").write_text("old")
    monkeypatch.setattr(Path, "rename", rename_upper)
    with replace_output_folder(tmp_path / "out") as staged:
        (staged / "anomalies.csv").write_text("new")
    prune(tmp_path, "m", "old")
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert files == ["out/anomalies.csv"]
    assert (tmp_path / files[0]).read_text() == "new"


def test_a_page_may_have_names_that_are_not_utf8(tmp_path: Path) -> None:
    atomic_files.write_text(tmp_path / "a.html", "µ\udcff")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == "µ\\udcff"


def test_the_contents_are_on_the_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.csv"
    synced: list[str] = []

    def sync_file(part: Path) -> None:
        assert not path.exists()
        synced.append(part.read_text())

    monkeypatch.setattr(atomic_files, "sync_file", sync_file)
    atomic_files.write_text(path, "µ\n")
    assert (synced, path.read_text(encoding="utf-8")) == (["µ\n"], "µ\n")


def test_a_write_without_sync_is_still_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_files, "sync_file", lambda _: pytest.fail("fsync"))
    atomic_files.write_bytes(tmp_path / "a", b"1", sync=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
