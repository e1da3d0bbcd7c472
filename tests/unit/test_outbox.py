"""The outbox: rows survive a crash, in order, and a lost row is reported."""

import contextlib
import errno
import os
import subprocess
import sys
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import ROOT, outbox_user

from astrodetect.errors import DatabaseUnavailable, OutboxFull
from astrodetect.records import ANOMALY, ScoredImage
from astrodetect.service import outbox
from astrodetect.service.outbox import Outbox

Opened = Callable[..., Outbox]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    boxes: list[Outbox] = []

    def open_outbox(max_bytes: int = 1_000_000) -> Outbox:
        boxes.append(Outbox(tmp_path, max_bytes=max_bytes))
        return boxes[-1]

    yield open_outbox
    for box in boxes:
        box.close()


def row(name: object, *, key: str | None = None) -> ScoredImage:
    request_id = uuid.uuid5(uuid.NAMESPACE_URL, key) if key else uuid.uuid4()
    return ScoredImage(str(name), "ab" * 32, 0.75, 0.5, "resnet50_model", "1", request_id)


def labelled(name: str) -> ScoredImage:
    """A row of a model with several classes."""
    probabilities = {"galaxy": 0.25, "ümläut ✨": 0.75}
    return ScoredImage(name, "ab" * 32, 0.75, None, "galaxies", "1", label="ümläut ✨", probabilities=probabilities)


def unusual(name: str) -> ScoredImage:
    """A row with a vector."""
    vector = (*(0.12345, -12.5, 1.5e-07), *(-1.2345e-05,) * 61)
    return ScoredImage(
        name,
        "ab" * 32,
        0.75,
        0.5,
        "resnet50_model",
        "1",
        novelty=0.998,
        vector=vector,
        space="5f0c3a9be214",
        in_domain=False,
        novelty_view="asymmetry",
        description="A" * 1832,
        description_kind="5f0c3a9be2145f0c",
    )


def drain(box: Outbox, max_rows: int = 100) -> list[ScoredImage]:
    rows: list[ScoredImage] = []
    while box.drain(max_rows, rows.extend):
        pass
    return rows


def test_rows_are_drained_complete_and_in_order(opened: Opened) -> None:
    box = opened()
    rows = [row(name) for name in ("plain", "ümläut ✨", 'q"uo\\te', "new\nline", "nul\0", "\ud800", "x" * 5000)]
    rows += [labelled("m42"), unusual("m82")]
    box.append(rows[:3])
    box.append(rows[3:])
    assert len(box) == len(rows)
    assert drain(box, max_rows=2) == rows
    assert len(box) == 0


def test_rows_queued_by_an_earlier_version_are_drained(opened: Opened, tmp_path: Path) -> None:
    line = (
        b'{"image_name": "m51", "image_sha256": "ab", "score": 0.75, "threshold": 0.5, "model": "resnet50_model",'
        b' "model_version": "1", "request_id": "a31d16b8-d6f8-45cd-9dc4-73804962d190",'
        b' "timestamp": "2026-11-21 03:29:56.226900+00:00"}'
    )
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "00000001.rows").write_bytes(b"%08x %s\n" % (zlib.crc32(line), line))
    [row] = drain(opened())
    assert (row.image_name, row.result, row.label, row.probabilities) == ("m51", ANOMALY, None, None)
    assert (row.novelty, row.vector, row.space) == (None, None, None)


def test_rows_queued_by_a_newer_version_are_recorded_without_unknown_fields_and_kept_aside(
    opened: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, _, text = outbox._format_line(row("m51")).partition(b" ")
    line = text.rstrip(b"\n").replace(b"{", b'{"margin": 0.25, ', 1)
    (tmp_path / "0").mkdir()
    no_row = b'{"image_name": "m52"}'
    lines = [b"%08x %s\n" % (zlib.crc32(text), text) for text in (line, no_row)]
    (tmp_path / "0" / "00000001.rows").write_bytes(b"".join(lines))
    assert [queued.image_name for queued in drain(opened())] == ["m51"]
    assert "1 rows of a newer version are recorded without margin" in caplog.text
    assert (tmp_path / "0" / "newer").read_bytes() == lines[0]
    assert (tmp_path / "0" / "damaged").read_bytes() == lines[1]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_only_the_user_of_the_service_reads_the_outbox(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "outbox"
    box = outbox.Outbox(folder, max_bytes=10_000)
    box.close()
    assert {path.stat().st_mode & 0o777 for path in (folder, folder / "0")} == {0o700}


def test_a_row_with_a_vector_fits_the_reserved_size() -> None:
    assert len(outbox._format_line(unusual("x" * 255))) < outbox.MAX_ROW_BYTES


def test_rows_that_could_not_be_written_stay_queued_in_order(opened: Opened) -> None:
    box = opened()
    rows = [row(number) for number in range(5)]
    box.append(rows)

    def failing(_: list[ScoredImage]) -> None:
        raise DatabaseUnavailable("down")

    assert box.drain(2, lambda _: None) == 2
    with pytest.raises(DatabaseUnavailable):
        box.drain(2, failing)
    assert len(box) == 3
    box.append([row("late")])
    assert [row.image_name for row in drain(box)] == ["2", "3", "4", "late"]


def test_a_crash_loses_no_row_and_a_damaged_line_is_reported(
    opened: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = opened()
    rows = [row(number, key=str(number)) for number in range(3)]
    first.append(rows)
    first.close()
    [segment] = (tmp_path / "0").glob("*.rows")
    whole = segment.read_bytes()
    segment.write_bytes(whole + whole.splitlines(keepends=True)[0][:-5])
    second = opened()
    assert "1 damaged lines are left out" in caplog.text
    assert second.find(rows[1].request_id) == rows[1]
    second.append([row("new")])
    assert [row.image_name for row in drain(second)] == ["0", "1", "2", "new"]
    assert second.find(rows[1].request_id) is None
    assert not list((tmp_path / "0").glob("*.rows"))


def test_a_killed_process_leaves_every_row_whose_append_returned(tmp_path: Path, opened: Opened) -> None:
    code = f"""
import sys, uuid
from pathlib import Path
from astrodetect.records import ScoredImage
from astrodetect.service.outbox import Outbox
box = Outbox(Path({str(tmp_path)!r}), max_bytes=10**9)
for number in range(10**6):
    box.append([ScoredImage(f"{{number}}-{{part}}", "ab", 0.5, 0.5, "m", "1") for part in range(3)])
    print(number, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 50:
                process.kill()
                break
        acknowledged = [line, *process.stdout][-1]
    names = [row.image_name for row in drain(opened(10**9))]
    expected = [f"{number}-{part}" for number in range(int(acknowledged) + 1) for part in range(3)]
    assert names[: len(expected)] == expected


def test_a_full_outbox_refuses_rows_and_keeps_those_queued(opened: Opened) -> None:
    box = opened(max_bytes=2_000)
    with contextlib.suppress(OutboxFull):
        for count in range(100):
            box.append([row(count)])
    assert 2 < len(box) == count < 20
    assert box.full
    assert [row.image_name for row in drain(box)] == [str(number) for number in range(count)]
    box.append([row("again")])


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_a_partial_write_queues_no_row_and_the_next_append_works(opened: Opened) -> None:
    import resource

    box = opened()
    box.append([row("before")])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (800, before[1]))
    try:
        with pytest.raises(OutboxFull, match="File too large"):
            box.append([row("lost"), row("too")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(box) == 1
    box.append([row("after")])
    box.close()
    assert [row.image_name for row in drain(opened())] == ["before", "after"]


def test_a_failed_fsync_queues_no_row(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    box = opened()
    box.append([row("before")])

    def failing(_: int) -> None:
        raise OSError(5, os.strerror(5))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(OutboxFull, match="Input/output error"):
            box.append([row("lost")])
    box.append([row("after")])
    box.close()
    assert [row.image_name for row in drain(opened())] == ["before", "after"]


def test_long_outages_use_many_segments_each_deleted_once_drained(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "SEGMENT_BYTES", 1_000)
    box = opened()
    for number in range(30):
        box.append([row(number)])
    assert len(list((tmp_path / "0").glob("*.rows"))) > 5
    assert [row.image_name for row in drain(box, max_rows=4)] == [str(number) for number in range(30)]
    assert not list((tmp_path / "0").glob("*.rows"))


def test_two_processes_share_no_folder_and_the_next_drains_both(opened: Opened, tmp_path: Path) -> None:
    with outbox_user(tmp_path):
        own = opened()
        own.append([row("own")])
        assert [row.image_name for row in drain(own)] == ["own"]
        own.append([row("own")])
    own.close()
    assert {row.image_name for row in drain(opened())} == {"own", "other"}


def test_the_rows_of_a_killed_process_are_adopted_while_this_one_runs(opened: Opened, tmp_path: Path) -> None:
    own = opened()
    own.append([row("first"), row("second")])
    assert own.drain(1, lambda _: None) == 1
    with outbox_user(tmp_path) as process:
        assert own.adopt() == 0  # it is alive
        process.kill()
    assert own.adopt() == 1
    assert own.adopt() == 0
    own.append([row("third")])
    assert [row.image_name for row in drain(own)] == ["second", "other", "third"]
    assert not list(tmp_path.rglob("*.rows"))
    own.close()
    assert len(opened()) == 0


@pytest.mark.parametrize("name", ["2.rows", "rejected.rows"])
def test_rows_that_were_kept_aside_are_adopted_each_time_they_are_moved_back(
    opened: Opened, tmp_path: Path, name: str
) -> None:
    outbox = opened()
    outbox.append([row("first")])
    (tmp_path / "again").mkdir()
    for file in ("1.rows", name):
        assert outbox.drain(1, list) == 1
        (tmp_path / "0" / "rejected").rename(tmp_path / "again" / file)
        assert outbox.adopt() == 1
    assert [row.image_name for row in drain(outbox)] == ["first"]


@pytest.mark.parametrize("cut", [0, 20])
def test_rows_that_are_adopted_while_they_are_copied_are_adopted_again(
    opened: Opened, tmp_path: Path, cut: int
) -> None:
    box, copy = opened(), tmp_path / "again" / "1.rows"
    lines = [outbox._format_line(row(name)) for name in ("first", "second", "third")]
    copy.parent.mkdir()
    copy.write_bytes(lines[0] + lines[1][:cut])
    assert box.adopt() == 1
    copy.write_bytes(b"".join(lines))
    names = {row.image_name for row in drain(box, max_rows=1)}
    assert box.adopt() == 3
    assert names | {row.image_name for row in drain(box)} == {"first", "second", "third"}
    assert not copy.exists()


def test_a_request_whose_row_was_lost_may_be_repeated(opened: Opened, tmp_path: Path) -> None:
    box, lost = opened(), row("lost", key="lost")
    box.append([lost])
    next(tmp_path.rglob("*.rows")).unlink()
    assert drain(box) == []
    assert box.find(lost.request_id) is None


@pytest.mark.parametrize("deleted", [True, False])
def test_rows_that_are_damaged_or_deleted_while_they_wait_hold_up_no_other(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, deleted: bool
) -> None:
    monkeypatch.setattr(outbox, "SEGMENT_BYTES", 1)
    box = opened()
    for number in range(3):
        box.append([row(number)])
    [path] = (tmp_path / "0").glob("*2.rows")
    path.unlink()
    if not deleted:
        path.write_bytes(b"x" * 40)  # cut short, too
    assert [row.image_name for row in drain(box) + drain(box)] == ["0", "2"]
    assert len(box) == 0
    assert "1 rows were damaged or deleted" in caplog.text
    assert deleted or path.with_suffix(".damaged").read_bytes() == b"x" * 40


@pytest.mark.parametrize("change", [Path.unlink, lambda path: os.truncate(path, 10)])
def test_rows_that_follow_the_deletion_or_cutting_of_a_segment_are_kept(
    opened: Opened, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    box = opened()
    box.append([row("lost")])
    change(next(tmp_path.rglob("*.rows")))
    box.append([row("kept")])
    assert [row.image_name for row in drain(box) + drain(box)] == ["kept"]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_segment_that_cannot_be_read_holds_up_no_other_and_is_counted(
    opened: Opened,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    restarted: bool,
) -> None:
    monkeypatch.setattr(outbox, "SEGMENT_BYTES", 1)
    box = opened()
    for number in range(3):
        box.append([row(number)])
    for name in ("00000002.rows", "00000003.rows"):  # the second of which is still appended to
        (tmp_path / "0" / name).unlink()
        (tmp_path / "0" / name).mkdir()
    if restarted:
        box.close()
        box = opened()
    assert [row.image_name for row in (*drain(box), *drain(box), *drain(box))] == ["0"]
    assert (len(box), box.rejected) == (0, 2)
    assert "00000002.rows cannot be read, 1 rows or more are kept in it: [Errno 21]" in caplog.text
    box.append([row("after")])
    assert [row.image_name for row in drain(box)] == ["after"]
    box.close()
    assert opened().rejected == 2
    assert len(list((tmp_path / "0").glob("*.unreadable"))) == 2


def test_the_rows_before_an_error_of_the_disk_are_written_and_what_is_not_the_file_s_fault_waits(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = opened()
    box.append([row(number) for number in range(3)])
    parse, cause = outbox._parse_line, errno.EIO

    def failing(line: bytes) -> ScoredImage | None:
        if b'"image_name": "1"' in line:
            raise OSError(cause, os.strerror(cause))
        return parse(line)

    monkeypatch.setattr(outbox, "_parse_line", failing)
    assert [row.image_name for row in drain(box)] == ["0"]
    assert (len(box), box.rejected) == (0, 2)
    box.append([row("1")])
    cause = errno.EMFILE
    with pytest.raises(OSError, match="Too many open files"):
        drain(box)
    assert (len(box), box.rejected) == (1, 2)


def test_a_row_that_cannot_be_kept_aside_stays_queued(opened: Opened, tmp_path: Path) -> None:
    box = opened()
    box.append([row("bad"), row("good")])
    (tmp_path / "0" / "rejected").mkdir()
    with pytest.raises(IsADirectoryError):
        box.drain(2, lambda rows: rows[:1])
    assert len(box) == 2
    (tmp_path / "0" / "rejected").rmdir()
    assert box.drain(2, lambda rows: rows[:1]) == 2
    assert (len(box), box.rejected, opened().rejected) == (0, 1, 1)
