"""What was found as a table, and as lists of images for each detector."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from astrodetect.anomalies.results import AnomalyResults

TableFormat = Literal["csv", "parquet"]


def write_tables(folder: Path, findings: AnomalyResults, kind: TableFormat) -> None:
    """`anomalies.csv` or `.parquet`, and `ids/` with a list for each detector and one for all of them."""
    place, columns = folder / f"anomalies.{kind}", _columns(findings)
    (_parquet if kind == "parquet" else _csv)(place, columns, _rows(findings))
    lists = folder / "ids"
    lists.mkdir()
    for name, flags in findings.flagged_by().items():
        with (lists / f"{name}.txt").open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            for image in findings.order[flags[findings.order]]:
                file.write(str(findings.paths[image]).replace("\n", "\\n") + "\n")


def _columns(findings: AnomalyResults) -> list[str]:
    """What every table has, then three of each detector, then what depends on labels of people, then errors."""
    each = [column for name in findings.names for column in (name, f"{name}_rank", f"{name}_flag")]
    ours = [] if findings.interest is None else ["interest", "your_label"]
    first = ["rank", "path", "label", "novelty", "strength", "agreement", "consensus"]
    return [*first, *each, "x", "y", *ours, "image_sha256", "error"]


def _rows(findings: AnomalyResults) -> Iterator[list[Any]]:
    """The images in the order in which to look at them, then the files that are none, with nothing but the reason."""
    looked, ranks = findings.looked, findings.ranks()
    agreement, agreed = looked.agreement, looked.consensus
    on_map = {int(image): place for place, image in enumerate(findings.flat.places)}
    for rank, image in enumerate(findings.order.tolist(), start=1):
        row = [rank, str(findings.paths[image]), findings.labels[image] or None]
        row += [float(values[image]) for values in (looked.novelty, looked.strength, agreement)]
        row.append(bool(agreed[image]))
        for name in findings.names:
            row += [float(looked.scores[name][image]), int(ranks[name][image]), bool(looked.flagged[name][image])]
        row += [float(at) for at in findings.flat.xy[on_map[image]]] if image in on_map else [None, None]
        if findings.interest is not None:
            row += [float(findings.interest[image]), findings.told.get(image)]
        yield [*row, findings.sha256[image], None]
    for path, reason in findings.skipped:
        yield [None, str(path), *[None] * (len(_columns(findings)) - 3), reason]


def _csv(place: Path, columns: list[str], rows: Iterator[list[Any]]) -> None:
    with place.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows([_said(value) for value in row] for row in rows)


def _said(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.7g}" if isinstance(value, float) else value  # as exact as they are


def _parquet(place: Path, columns: list[str], rows: Iterator[list[Any]]) -> None:
    import pyarrow as pa  # noqa: PLC0415 - only who wants Parquet waits for it
    from pyarrow import parquet  # noqa: PLC0415

    texts, flags = (
        {"path", "label", "your_label", "image_sha256", "error"},
        {"consensus", *(name for name in columns if name.endswith("_flag"))},
    )
    whole = {"rank", *(name for name in columns if name.endswith("_rank"))}

    def kind(name: str) -> Any:
        if name in texts:
            return pa.string()
        return pa.bool_() if name in flags else pa.int64() if name in whole else pa.float64()

    by_column = zip(*rows, strict=True)
    arrays = [
        pa.array([_utf8(value) if name in texts else value for value in values], kind(name))
        for name, values in zip(columns, by_column, strict=True)
    ]
    parquet.write_table(pa.table(arrays, names=columns), place)


def _utf8(text: str | None) -> str | None:
    """Parquet holds UTF-8 alone: a byte of a name that is none becomes \\xff."""
    return text and text.encode(errors="surrogateescape").decode(errors="backslashreplace")
