"""Rows in the outbox are there after a crash, in order, and none is given up without a word."""

import contextlib
import os
import subprocess
import sys
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import ROOT

from astrodetect.errors import DatabaseUnavailable, OutboxFull
from astrodetect.records import ANOMALY, ScoredImage
from astrodetect.service import outbox
from astrodetect.service.outbox import Outbox

Opened = Callable[..., Outbox]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    held: list[Outbox] = []

    def open_one(max_bytes: int = 1_000_000) -> Outbox:
        held.append(Outbox(tmp_path, max_bytes=max_bytes))
        return held[-1]

    yield open_one
    for one in held:
        one.close()


def row(name: object, *, key: str | None = None) -> ScoredImage:
    request_id = uuid.uuid5(uuid.NAMESPACE_URL, key) if key else uuid.uuid4()
    return ScoredImage(str(name), "ab" * 32, 0.75, 0.5, "resnet50_model", "1", request_id)


def labelled(name: str) -> ScoredImage:
    """One of several classes."""
    probabilities = {"galaxy": 0.25, "ümläut ✨": 0.75}
    return ScoredImage(name, "ab" * 32, 0.75, None, "galaxies", "1", label="ümläut ✨", probabilities=probabilities)


def unusual(name: str) -> ScoredImage:
    """One with its place among others."""
    vector = (*(0.12345, -12.5, 1.5e-07), *(-1.2345e-05,) * 61)
    return ScoredImage(
        name, "ab" * 32, 0.75, 0.5, "resnet50_model", "1", novelty=0.998, vector=vector, space="5f0c3a9be214"
    )


def emptied(box: Outbox, most: int = 100) -> list[ScoredImage]:
    found: list[ScoredImage] = []
    while box.hand_over(most, found.extend):
        pass
    return found


def test_rows_come_out_whole_and_in_order(opened: Opened) -> None:
    box = opened()
    rows = [row(name) for name in ("plain", "ümläut ✨", 'q"uo\\te', "new\nline", "nul\0", "\ud800", "x" * 5000)]
    rows += [labelled("m42"), unusual("m82")]
    box.append(rows[:3])
    box.append(rows[3:])
    assert len(box) == len(rows)
    assert emptied(box, most=2) == rows
    assert len(box) == 0


def test_rows_that_an_earlier_version_left_are_handed_over(opened: Opened, tmp_path: Path) -> None:
    left = (
        b'{"image_name": "m51", "image_sha256": "ab", "score": 0.75, "threshold": 0.5, "model": "resnet50_model",'
        b' "model_version": "1", "request_id": "a31d16b8-d6f8-45cd-9dc4-73804962d190",'
        b' "timestamp": "2026-11-21 03:29:56.226900+00:00"}'
    )
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "00000001.rows").write_bytes(b"%08x %s\n" % (zlib.crc32(left), left))
    [found] = emptied(opened())
    assert (found.image_name, found.result, found.label, found.probabilities) == ("m51", ANOMALY, None, None)
    assert (found.novelty, found.vector, found.space) == (None, None, None)


def test_a_row_with_its_vector_fits_into_the_room_that_is_kept_free() -> None:
    assert len(outbox._line(unusual("x" * 255))) < outbox.ROOM_BYTES


def test_what_could_not_be_handed_over_stays_in_its_place(opened: Opened) -> None:
    box = opened()
    rows = [row(number) for number in range(5)]
    box.append(rows)

    def away(_: list[ScoredImage]) -> None:
        raise DatabaseUnavailable("away")

    assert box.hand_over(2, lambda _: None) == 2
    with pytest.raises(DatabaseUnavailable):
        box.hand_over(2, away)
    assert len(box) == 3
    box.append([row("late")])
    assert [one.image_name for one in emptied(box)] == ["2", "3", "4", "late"]


def test_a_crash_loses_nothing_and_a_torn_line_is_told_of(
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
    assert "1 lines were torn" in caplog.text
    assert second.find(rows[1].request_id) == rows[1]
    second.append([row("new")])
    assert [one.image_name for one in emptied(second)] == ["0", "1", "2", "new"]
    assert second.find(rows[1].request_id) is None
    assert not list((tmp_path / "0").glob("*.rows"))


def test_a_killed_process_leaves_every_row_that_it_was_told_is_kept(tmp_path: Path, opened: Opened) -> None:
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
    names = [one.image_name for one in emptied(opened(10**9))]
    expected = [f"{number}-{part}" for number in range(int(acknowledged) + 1) for part in range(3)]
    assert names[: len(expected)] == expected


def test_a_full_outbox_refuses_and_keeps_what_it_has(opened: Opened) -> None:
    box = opened(max_bytes=2_000)
    with contextlib.suppress(OutboxFull):
        for kept in range(100):
            box.append([row(kept)])
    assert 2 < len(box) == kept < 20
    assert box.full
    assert [one.image_name for one in emptied(box)] == [str(number) for number in range(kept)]
    box.append([row("again")])


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_a_disk_that_takes_part_of_the_rows_keeps_none_of_them_and_takes_the_next(opened: Opened) -> None:
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
    assert [one.image_name for one in emptied(opened())] == ["before", "after"]


def test_a_disk_that_cannot_promise_keeps_none_of_the_rows(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert [one.image_name for one in emptied(opened())] == ["before", "after"]


def test_long_outages_take_many_files_each_gone_once_it_is_empty(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "SEGMENT_BYTES", 1_000)
    box = opened()
    for number in range(30):
        box.append([row(number)])
    assert len(list((tmp_path / "0").glob("*.rows"))) > 5
    assert [one.image_name for one in emptied(box, most=4)] == [str(number) for number in range(30)]
    assert not list((tmp_path / "0").glob("*.rows"))


def test_two_processes_never_share_a_folder_and_the_next_takes_over_what_both_left(
    opened: Opened, tmp_path: Path
) -> None:
    code = f"""
from pathlib import Path
from astrodetect.records import ScoredImage
from astrodetect.service.outbox import Outbox
box = Outbox(Path({str(tmp_path)!r}), max_bytes=10**6)
box.append([ScoredImage("theirs", "ab", 0.5, 0.5, "m", "1")])
print("kept", flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "kept\n"
        ours = opened()
        ours.append([row("ours")])
        assert [one.image_name for one in emptied(ours)] == ["ours"]
        ours.append([row("ours")])
        process.communicate("\n")
    ours.close()
    assert {one.image_name for one in emptied(opened())} == {"ours", "theirs"}
