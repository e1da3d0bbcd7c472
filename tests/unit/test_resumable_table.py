"""A table that is written row by row: interrupted anywhere it is resumed to the same content, or refused."""

from pathlib import Path

import pytest

from astrodetect.errors import DataError
from astrodetect.scoring import resumable_table

ODD_NAMES = ["comma,.jpg", 'quote".jpg', "line\nend.jpg", "return\r.jpg", "é.jpg", "\udcff.jpg", "\n.jpg", '",".jpg']
RUN_SETTINGS = {"model": "m", "threshold": 0.5}


def rows_in(output: Path, columns: list[str] = resumable_table.COLUMNS) -> list[list[str]]:
    """The rows without the header."""
    with output.open("rb") as file:
        header, *rows = [row for row, _ in resumable_table._read_rows(file, len(columns))]
    assert header == columns
    return rows


def rows_of(paths: list[str]) -> list[list[str]]:
    return [[path, "0.25", "No Anomaly", "odd,\n" if "," in path else "", "m", "1"] for path in paths]


def test_a_table_truncated_at_any_byte_is_resumed_to_the_same_content(tmp_path: Path) -> None:
    output, part = tmp_path / "t.csv", tmp_path / "t.csv.part"
    rows = rows_of(ODD_NAMES)
    with resumable_table.open_table(output, resumable_table.COLUMNS, RUN_SETTINGS, restart=False) as complete:
        complete.resume(iter(ODD_NAMES), 1)
        complete.add(rows)
        run, content = complete.run, part.read_bytes()
        counts = (complete.rows, complete.results, complete.unreadable)
    assert b"\xff.jpg" in content
    for length in range(len(content) + 1):
        part.write_bytes(content[:length])
        paths = iter(ODD_NAMES)
        with resumable_table.open_table(output, resumable_table.COLUMNS, RUN_SETTINGS, restart=False) as resumed:
            resumed.resume(paths, 1)
            resumed.add(rows_of(list(paths)))
            assert (resumed.rows, resumed.results, resumed.unreadable) == counts
        assert resumed.run == run
        assert part.read_bytes() == content
    assert rows_in(part) == rows


def test_a_run_resumes_after_whole_batches_so_that_batches_are_cut_at_the_same_files(tmp_path: Path) -> None:
    output, paths = tmp_path / "t.csv", [f"{number}.jpg" for number in range(10)]
    with resumable_table.open_table(output, resumable_table.COLUMNS, RUN_SETTINGS, restart=False) as first:
        first.resume(iter(paths), 4)
        first.add(rows_of(paths[:7]))
    remaining = iter(paths)
    with resumable_table.open_table(output, resumable_table.COLUMNS, RUN_SETTINGS, restart=False) as second:
        second.resume(remaining, 4)
        assert second.rows == 4
    assert list(remaining) == paths[4:]


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """The path of a table whose run was interrupted."""
    output = tmp_path / "t.csv"
    with resumable_table.open_table(output, resumable_table.COLUMNS, RUN_SETTINGS, restart=False) as table:
        table.resume(iter(ODD_NAMES), 1)
        table.add(rows_of(ODD_NAMES[:3]))
    return output


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**RUN_SETTINGS, "model": "n"}, "of a run with another model (m, now n): --restart"),
        ({**RUN_SETTINGS, "threshold": 0.6}, "another threshold (0.5, now 0.6)"),
    ],
)
def test_a_run_with_other_settings_does_not_resume_the_table(
    interrupted: Path, settings: dict[str, object], message: str
) -> None:
    before = resumable_table._part(interrupted).read_bytes()
    with (
        pytest.raises(DataError) as refused,
        resumable_table.open_table(interrupted, resumable_table.COLUMNS, settings, restart=False),
    ):
        pass
    assert message in str(refused.value)
    assert resumable_table._part(interrupted).read_bytes() == before
    with resumable_table.open_table(interrupted, resumable_table.COLUMNS, settings, restart=True) as table:
        table.resume(iter(ODD_NAMES), 1)
        assert table.rows == 0


def test_resuming_is_refused_if_images_were_added_or_removed(interrupted: Path) -> None:
    for paths in (ODD_NAMES[1:], [*ODD_NAMES[:1], "new.jpg", *ODD_NAMES[1:]], ODD_NAMES[:2]):
        with (
            resumable_table.open_table(interrupted, resumable_table.COLUMNS, RUN_SETTINGS, restart=False) as table,
            pytest.raises(DataError, match=r"were added or removed .* --restart"),
        ):
            table.resume(iter(paths), 1)


def test_a_partial_table_of_an_unknown_run_is_not_overwritten(interrupted: Path) -> None:
    interrupted.with_name("t.csv.run").write_text("torn")
    with (
        pytest.raises(DataError, match="--restart"),
        resumable_table.open_table(interrupted, resumable_table.COLUMNS, RUN_SETTINGS, restart=False),
    ):
        pass
    assert resumable_table._part(interrupted).stat().st_size > 0


def test_a_full_disk_is_reported_and_loses_no_earlier_row(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    output, part = tmp_path / "t.csv", tmp_path / "t.csv.part"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    refused = pytest.raises(DataError, match=r"cannot write .*t\.csv: File too large")
    with refused, resumable_table.open_table(output, resumable_table.COLUMNS, RUN_SETTINGS, restart=False) as table:
        table.resume(iter(ODD_NAMES), 1)
        table.add(rows_of(ODD_NAMES[:3]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (part.stat().st_size + 10, limits[1]))
        try:
            table.add(rows_of(ODD_NAMES[3:]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with resumable_table.open_table(output, resumable_table.COLUMNS, RUN_SETTINGS, restart=False) as table:
        table.resume(iter(ODD_NAMES), 1)
        assert table.rows >= 3
        table.add(rows_of(ODD_NAMES[table.rows :]))
        table.finish()
    assert [row[0] for row in rows_in(output)] == ODD_NAMES
