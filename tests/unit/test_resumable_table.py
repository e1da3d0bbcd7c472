"""A table that is written part by part: interrupted anywhere it is resumed to the same content, or refused."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fasteners import InterProcessLock

from astrodetect.errors import DataError
from astrodetect.scoring import resumable_table
from astrodetect.scoring.chunks import Chunk
from astrodetect.scoring.part_files import COLUMNS, ScoreRow, encode_part
from astrodetect.scoring.resumable_table import ResumableTable
from astrodetect.storage import objects

ODD_NAMES = ["comma,.jpg", 'quote".jpg', "line\nend.jpg", "return\r.jpg", "é.jpg", "\udcff.jpg", "\n.jpg", '",".jpg']
RUN_SETTINGS = {"model": "m", "threshold": 0.5}


def rows_in(output: Path, columns: list[str] = COLUMNS) -> list[list[str]]:
    """The rows without the header."""
    with output.open("rb") as file:
        header, *rows = resumable_table.read_rows(file, len(columns))
    assert header == columns
    return rows


def row_of(path: str) -> ScoreRow:
    return [path, 0.25, "No Anomaly", "odd,\n" if "," in path else None, "m", "1"]


@contextmanager
def opened(
    output: Path | str, *, settings: dict[str, Any] = RUN_SETTINGS, restart: bool = False, chunk: int = 2
) -> Iterator[ResumableTable]:
    with resumable_table.open_table(output, COLUMNS, settings, images_per_chunk=chunk, restart=restart) as table:
        yield table


def add_next(table: ResumableTable) -> Chunk:
    """Scores the first missing chunk."""
    chunk = next(table.missing_chunks())
    table.add(chunk, encode_part(COLUMNS, [row_of(path) for path in chunk.references]))
    return chunk


def finish(table: ResumableTable) -> None:
    for _ in list(table.missing_chunks()):
        add_next(table)
    table.finish(lambda _: None)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_interrupted_after_any_chunk_is_resumed_to_the_same_content(tmp_path: Path, suffix: str) -> None:
    uninterrupted = tmp_path / f"u{suffix}"
    with opened(uninterrupted) as table:
        assert table.plan(iter(ODD_NAMES), 1, "") == 0
        finish(table)
    if suffix == ".csv":
        assert b"\xff.jpg" in uninterrupted.read_bytes()
        assert [row[0] for row in rows_in(uninterrupted)] == ODD_NAMES
    for done in range(len(ODD_NAMES) // 2 + 1):
        output, runs = tmp_path / f"t{done}{suffix}", set()
        for interrupted in (True, False):
            with opened(output, chunk=2 if interrupted else 5) as table:
                assert table.plan(iter(ODD_NAMES), 1, "") == (0 if interrupted else 2 * done)
                runs.add(table.run)
                for _ in range(done if interrupted else 0):
                    add_next(table)
                if not interrupted:
                    finish(table)
        assert len(runs) == 1
        assert output.read_bytes() == uninterrupted.read_bytes()
    assert {path.suffix for path in tmp_path.iterdir()} == {suffix}


def test_chunks_done_in_any_order_are_joined_in_the_order_of_the_paths(tmp_path: Path) -> None:
    with opened(tmp_path / "t.csv") as table:
        table.plan(iter(ODD_NAMES), 1, "")
        for chunk in reversed(list(table.missing_chunks())):
            table.add(chunk, encode_part(COLUMNS, [row_of(path) for path in chunk.references]))
        counted: list[ScoreRow] = []
        table.finish(counted.append)
    assert [row[0] for row in rows_in(tmp_path / "t.csv")] == [row[0] for row in counted] == ODD_NAMES


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """The path of a table whose run was interrupted."""
    output = tmp_path / "t.csv"
    with opened(output) as table:
        table.plan(iter(ODD_NAMES), 1, "")
        add_next(table)
    return output


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**RUN_SETTINGS, "model": "n"}, "a run with another model (m, now n): --restart"),
        ({**RUN_SETTINGS, "threshold": 0.6}, "another threshold (0.5, now 0.6)"),
    ],
)
def test_a_run_with_other_settings_does_not_resume_the_table(
    interrupted: Path, settings: dict[str, Any], message: str
) -> None:
    parts = interrupted.with_name("t.csv.parts")
    before = sorted(path.name for path in parts.iterdir())
    with pytest.raises(DataError) as refused, opened(interrupted, settings=settings):
        pass
    assert message in str(refused.value)
    assert sorted(path.name for path in parts.iterdir()) == before
    with opened(interrupted, settings=settings, restart=True) as table:
        assert table.plan(iter(ODD_NAMES), 1, "") == 0


def test_resuming_is_refused_if_images_were_added_or_removed_among_those_done(interrupted: Path) -> None:
    for paths in (ODD_NAMES[1:], [*ODD_NAMES[:1], "new.jpg", *ODD_NAMES[1:]], ODD_NAMES[:1], []):
        with (
            opened(interrupted) as table,
            pytest.raises(DataError, match=r"were added or removed .* --restart"),
        ):
            table.plan(iter(paths), 1, "")
    with opened(interrupted) as table:
        assert table.plan(iter([*ODD_NAMES, "one more.jpg"]), 1, "") == 2
        finish(table)
    assert [row[0] for row in rows_in(interrupted)] == [*ODD_NAMES, "one more.jpg"]


def test_a_partial_table_of_an_unknown_run_is_not_overwritten(interrupted: Path) -> None:
    interrupted.with_name("t.csv.run").write_text("torn")
    with pytest.raises(DataError, match="--restart"), opened(interrupted):
        pass
    assert len(list(interrupted.with_name("t.csv.parts").iterdir())) == 2


def test_a_damaged_part_is_named(interrupted: Path) -> None:
    [part] = interrupted.with_name("t.csv.parts").glob("part-*")
    part.write_bytes(b"torn")
    with opened(interrupted) as table:
        table.plan(iter(ODD_NAMES), 1, "")
        with pytest.raises(DataError, match=f"{part.name} is damaged: delete it"):
            finish(table)
    part.unlink()
    with opened(interrupted) as table:
        table.plan(iter(ODD_NAMES), 1, "")
        finish(table)
    assert [row[0] for row in rows_in(interrupted)] == ODD_NAMES


def test_a_full_disk_is_reported_and_loses_no_earlier_part(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    output = tmp_path / "t.csv"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(output) as table:
        table.plan(iter(ODD_NAMES), 1, "")
        add_next(table)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            with pytest.raises(DataError, match=r"cannot write .*t\.csv.*: File too large"):
                add_next(table)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with opened(output) as table:
        assert table.plan(iter(ODD_NAMES), 1, "") == 2
        finish(table)
    assert [row[0] for row in rows_in(output)] == ODD_NAMES


@pytest.mark.parametrize("end", [0, 50, 90, -20, -1, None])
def test_a_table_that_version_0_1_began_is_continued_after_its_last_whole_batch(
    tmp_path: Path, end: int | None
) -> None:
    """It has the rows in OUTPUT.part, which may end anywhere."""
    output = tmp_path / "t.csv"
    with opened(output) as table:
        table.plan(iter(ODD_NAMES), 1, "")
        finish(table)
    content = output.read_bytes()
    output.unlink()
    (tmp_path / "t.csv.part").write_bytes(content[:end])
    run = "8bd2d4f4-6a2f-4d64-8a1c-2c0f5d6a7b80"
    (tmp_path / "t.csv.run").write_text(json.dumps({"run": run, **RUN_SETTINGS}))
    for _ in range(2):
        with opened(output) as table:
            done = table.plan(iter(ODD_NAMES), 3, "")
            assert done % 3 == 0
            assert done == {0: 0, 50: 0, 90: 0, -20: 6, -1: 6, None: 6}[end]
            assert str(table.run) == run
    with opened(output) as table:
        table.plan(iter(ODD_NAMES), 3, "")
        finish(table)
    assert output.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_a_table_that_another_process_finishes_before_it_is_locked_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "t.csv"
    with opened(output) as table:
        table.plan(iter(ODD_NAMES), 1, "")
        finish(table)
    with pytest.raises(DataError, match="exists already"), opened(output):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    acquire = InterProcessLock.acquire

    def finished_meanwhile(lock: InterProcessLock, **options: Any) -> Any:
        (tmp_path / "t.csv.run").unlink()
        return acquire(lock, **options)

    monkeypatch.setattr(InterProcessLock, "acquire", finished_meanwhile)
    with pytest.raises(DataError, match="another process is writing"), opened(output, restart=True):
        pass


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_on_an_object_store_is_resumed_and_equals_a_local_one(bucket: str, tmp_path: Path, suffix: str) -> None:
    with opened(tmp_path / f"t{suffix}") as table:
        table.plan(iter(ODD_NAMES), 1, "")
        finish(table)
    url, runs = f"{bucket}/t{suffix}", set()
    for done in (0, 2, 4):
        assert not objects.exists(url)
        resumable_table.check_table_path(url, restart=False)
        with opened(url) as table:
            assert table.plan(iter(ODD_NAMES), 1, "") == done
            runs.add(table.run)
            if done == 4:
                finish(table)
            else:
                add_next(table)
    assert len(runs) == 1
    assert objects.read_bytes(url) == (tmp_path / f"t{suffix}").read_bytes()
    assert list(objects.list_names(bucket)) == [f"t{suffix}"]
    with pytest.raises(DataError, match="exists already"):
        resumable_table.check_table_path(url, restart=False)
    with pytest.raises(DataError, match="exists already"), opened(url):
        pass  # finished after this process had looked


def test_parts_that_a_slower_run_leaves_on_an_object_store_are_not_taken_by_a_later_one(bucket: str) -> None:
    """The images may be others by then."""
    url = f"{bucket}/t.csv"
    with opened(url) as fast, opened(url) as slow:
        for table in (fast, slow):
            table.plan(iter(ODD_NAMES), 1, "")
        finish(fast)
        add_next(slow)
    objects.delete(url)
    with opened(url) as later:
        assert later.plan(iter(ODD_NAMES), 1, "") == 0
        finish(later)
    assert list(objects.list_names(bucket)) == ["t.csv"]


def test_a_run_with_other_settings_does_not_continue_a_table_on_an_object_store(bucket: str) -> None:
    url, other = f"{bucket}/t.csv", {**RUN_SETTINGS, "model": "n"}
    with opened(url) as table:
        table.plan(iter(ODD_NAMES), 1, "")
        add_next(table)
    with pytest.raises(DataError, match="a run with another model"), opened(url, settings=other):
        pass
    with opened(url, settings=other, restart=True) as table:
        assert table.plan(iter(ODD_NAMES), 1, "") == 0
