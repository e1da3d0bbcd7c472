"""Text that a spreadsheet would evaluate."""

import csv
import io
from pathlib import Path

import pytest

from astrodetect.csv_cells import literal_text, write_csv
from astrodetect.datasets.sources import manifest
from astrodetect.datasets.sources.manifest import CollectionManifest, ManifestEntry

ASCII = ["=1+1", "+1+1", "-1+1", "-A1", "@SUM(1)", "\t=1", " =1+1", "\n=1"]
FORMULAS = [*ASCII, "\u00a0=1", "\uff1d1+1", "\uff0b1", "\uff0d1", "\uff20A"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_preceded_by_an_apostrophe(text: str) -> None:
    assert literal_text(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "m51.jpg", "a=b", "'=1", "NGC 1-2", "3 - 1", "-3.25", "+1", "-1e-05"])
def test_other_text_is_unchanged(text: str) -> None:
    assert literal_text(text) == text


def test_catalogues_have_no_formulas_but_keep_what_identifies_an_image(tmp_path: Path) -> None:
    png = bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060"
        "000000050001a5f645400000000049454e44ae426082"
    )
    entry = ManifestEntry(label="=x", source="s", source_id="=1", url="u", title="=HYPERLINK(1)", center=" =1+1")
    for _ in range(2):  # the second run reads it
        collection = CollectionManifest(tmp_path)
        if not collection.already_tried(entry):
            collection.save(entry, png, "-name")
    with (tmp_path / manifest.CATALOGUE).open(newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["title"], row["center"], row["source_id"]) == ("'=HYPERLINK(1)", "' =1+1", "=1")
    assert row["path"] == "%3Dx/%2Dname.png"


def test_a_name_with_any_line_end_is_one_cell() -> None:
    rows = [["a\rb", "1"], ["c\r\nd", "2"], ["e\nf", "3"]]
    file = io.BytesIO()
    write_csv(file, ["path", "n"], rows)
    assert [*csv.reader(io.StringIO(file.getvalue().decode(), newline=""))] == [["path", "n"], *rows]
