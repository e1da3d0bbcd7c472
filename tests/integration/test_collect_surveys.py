"""`collect galaxy10` and `collect cutouts` from local sources with network faults."""

import hashlib
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from collect_command import assert_consistent, collect, read_rows
from source_server import MAX_DEC_DEG, SourceServer, SourceState

from astrodetect import images
from astrodetect.datasets.sources import galaxy10, manifest
from astrodetect.errors import SourceError
from astrodetect.records import ImageContract, Pixels
from astrodetect.settings import Settings

QUERIES = ("--class", "galaxy=spiral galaxy", "--class", "nebula=nebula")


def hdf5(path: Path, *, count: int = 45, chunks: tuple[int, ...] | None = (7, 16, 16, 3)) -> Pixels:
    """Write a small file with the structure of Galaxy10."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=pixels, chunks=chunks)
        file["ans"] = np.arange(count) % 10
        for name in ("ra", "dec", "redshift", "pxscale"):
            file[name] = rng.random(count)
    return pixels


@pytest.mark.parametrize("chunks", [None, (7, 16, 16, 3)])
def test_galaxy10_is_unpacked_losslessly_into_ten_classes(tmp_path: Path, chunks: tuple[int, ...] | None) -> None:
    pixels = hdf5(tmp_path / "small.h5", chunks=chunks)
    with SourceServer(SourceState()) as server:
        for limit, count in ((2, 20), (4, 40)):
            arguments = ("galaxy10", "--file", tmp_path / "small.h5", "--limit", limit, "--output", tmp_path / "out")
            done = collect(server, *arguments)
            assert done.returncode == 0, done.stderr
            found_rows = read_rows(tmp_path / "out" / "catalogue.csv")
            assert len(found_rows) == count
    assert_consistent(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == set(galaxy10.CLASSES)
    for row in found_rows:
        number = int(row["source_id"])
        assert row["path"] == f"{galaxy10.CLASSES[number % 10]}/{number:05}.png"
        decoded = images.decode((tmp_path / "out" / row["path"]).read_bytes(), ImageContract(size=32))
        assert np.array_equal(decoded, pixels[number])
        assert all(0 <= float(row[name]) < 1 for name in ("ra", "dec", "redshift", "pxscale"))


def test_galaxy10_download_resumes_over_cut_connections_and_verifies_sha256(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hdf5(tmp_path / "served.h5")
    data = (tmp_path / "served.h5").read_bytes()
    state = SourceState(galaxy10=data, cut_every_bytes=len(data) // 12)
    with SourceServer(state) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        part = tmp_path / f"{galaxy10.FILE}.part"
        part.write_bytes(data[:1000])  # of a run before
        with pytest.raises(SourceError, match="returned an unexpected file"):
            galaxy10.download_galaxy10(tmp_path, Settings())
        assert list(tmp_path.iterdir()) == [tmp_path / "served.h5"]
        monkeypatch.setattr(galaxy10, "SHA256", hashlib.sha256(data).hexdigest().upper())
        part.write_bytes(data[:1000])
        state.requests.clear()
        assert galaxy10.download_galaxy10(tmp_path, Settings()).read_bytes() == data
        assert state.requests.total() == 12
        part.write_bytes(data)  # all of it, but killed before it was believed
        (tmp_path / galaxy10.FILE).unlink()
        assert galaxy10.download_galaxy10(tmp_path, Settings()).read_bytes() == data
        requests = state.requests.total()
        galaxy10.download_galaxy10(tmp_path, Settings())
        assert state.requests.total() == requests


@pytest.mark.parametrize(
    ("source", "kind"), [("legacy", "jpg"), ("legacy", "fits"), ("sdss", "jpg"), ("hips", "jpg"), ("hips", "fits")]
)
def test_cutouts_are_collected_once_and_blank_positions_are_listed(tmp_path: Path, source: str, kind: str) -> None:
    catalogue = tmp_path / "places.csv"
    lines = [f"obj{number},{number * 1.25},{number - 40},{'E' if number % 2 else 'S B'}" for number in range(30)]
    outside = [f"north{number},{number},{MAX_DEC_DEG + 1},E" for number in range(3)]
    catalogue.write_text("\n".join(["objID,RA,DEC,gz2class", *lines, *outside, lines[4]]) + "\n")
    state = SourceState(fault_rate=0.2)
    arguments = ("cutouts", catalogue, "--source", source, "--format", kind, "--side", 64, "--output", tmp_path / "out")
    with SourceServer(state) as server:
        done = collect(server, *arguments)
        assert done.returncode == 0, done.stderr
        assert_consistent(tmp_path / "out")
        found_rows = read_rows(tmp_path / "out" / "catalogue.csv")
        assert [row["title"] for row in found_rows] == [f"obj{number}" for number in range(30)]
        assert Counter(row["label"] for row in found_rows) == {"E": 15, "S B": 15}
        assert all((tmp_path / "out" / row["path"]).suffix == f".{kind}" for row in found_rows)
        assert float(found_rows[3]["ra"]) == 3.75
        skipped = read_rows(tmp_path / "out" / "skipped.csv")
        assert {row["reason"] for row in skipped} <= {
            "all pixels are equal: the survey has no image here",
            "FITS without values: every pixel is undefined",
        }
        assert len(skipped) == 3
        before, state.fault_rate = state.requests.copy(), 0
        assert collect(server, *arguments).returncode == 0
        assert sum((state.requests - before).values()) == 3  # what was skipped, again
        assert collect(server, *arguments, "--side", 80).returncode == 0  # another request, another image
        assert len(read_rows(tmp_path / "out" / "catalogue.csv")) == 60


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ra,dec\n1,2\n361,2\n", "line 3: RA in degrees from 0 to 360, not '361'"),
        ("ra,dec\n10:20:30,2\n", "line 2: RA in degrees"),
        ("ra,dec\n1,nan\n", "line 2: Dec in degrees"),
        ("ra,dec\n1\n", "line 2: Dec in degrees"),
        ("ra,b\n1,2\n", "for DEC: name it with --dec"),
        ("", "for RA: name it with --ra"),
    ],
)
def test_invalid_cutout_catalogue_is_an_error_before_any_request(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "places.csv").write_text(text)
    state = SourceState()
    with SourceServer(state) as server:
        done = collect(server, "cutouts", tmp_path / "places.csv", "--source", "sdss", "--output", tmp_path / "out")
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert state.requests.total() == 0
    assert not (tmp_path / "out").exists()


def test_cutout_catalogue_columns_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "places.csv").write_text("x,y,kind,ra,dec\n10,20,E,0,0\n")
    columns = ("--ra", "x", "--dec", "y", "--label", "kind")
    with SourceServer(SourceState()) as server:
        arguments = ("cutouts", tmp_path / "places.csv", "--source", "sdss", "--output", tmp_path / "out")
        assert collect(server, *arguments, *columns).returncode == 0
        assert "no column z" in collect(server, *arguments, "--ra", "z").stderr
    [row] = read_rows(tmp_path / "out" / "catalogue.csv")
    assert (row["ra"], row["dec"], row["label"]) == ("10.0", "20.0", "E")
    assert row["title"] == "10.00000+20.00000"


@pytest.mark.parametrize("text", ["../../etc", ".hidden", "a/b", "a\\b", "..", "é", "x" * 300, "nul\0", "a:b*?"])
def test_file_names_are_valid_and_unique_and_stay_in_their_folder(text: str) -> None:
    name = manifest.file_name(text)
    assert not set(name) & set('/\\\0:*?"<>|')
    assert not name.startswith(".")
    assert 0 < len(name.encode()) <= 120
    assert name != manifest.file_name(text + "x")
