"""Cross-match: the nearest object within a radius, exact separations, chance matches, and tables of files."""

import csv
from pathlib import Path

import numpy as np
import pytest
from programs import run_here

from astrodetect.__main__ import main
from astrodetect.sky import crossmatch, healpix
from astrodetect.sky.crossmatch import NO_OBJECT, NearestObjects

ARCSEC = 1 / 3600
FIELDS = [(0.0, 0.0), (359.9999, 41.0), (120.0, 89.9999), (10.0, -90.0)]  # at the wrap of RA, and at the poles


def scattered(centre: tuple[float, float], count: int, width_arcsec: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    ra, dec = np.full(count, centre[0]), np.full(count, centre[1])
    for axis in (0.0, 90.0):
        for index, arcsec in enumerate(random.uniform(-width_arcsec, width_arcsec, count)):
            x, y, z = crossmatch.shift(ra[index : index + 1], dec[index : index + 1], arcsec, axis)[0]
            ra[index], dec[index] = np.degrees(np.arctan2(y, x)) % 360, np.degrees(np.arctan2(z, np.hypot(x, y)))
    return ra, dec


@pytest.mark.parametrize("centre", FIELDS)
def test_the_nearest_object_within_the_radius_is_found_with_its_exact_separation(centre: tuple[float, float]) -> None:
    (ra, dec), (known_ra, known_dec) = scattered(centre, 60, 20, 1), scattered(centre, 90, 20, 2)
    ids = np.arange(90) + 1000
    nearest = NearestObjects(ra, dec, 2.0)
    for part in (slice(0, 40), slice(40, 40), slice(40, None)):  # whatever the parts are
        nearest.add(ids[part], known_ra[part], known_dec[part])
    for index in range(60):
        distances = healpix.separation(ra[index], dec[index], known_ra, known_dec) * 3600
        if distances.min() <= 2.0:
            assert nearest.ids[index] == ids[distances.argmin()]
            assert nearest.arcsec[index] == pytest.approx(distances.min(), abs=1e-7)
        else:
            assert (nearest.ids[index], nearest.arcsec[index]) == (NO_OBJECT, np.inf)
    assert 10 < nearest.matched < 60
    assert nearest.objects == 90


def test_matches_by_chance_are_as_many_as_the_density_of_objects_says() -> None:
    random = np.random.default_rng(3)
    ra, dec = random.uniform(100, 101, 20_000), random.uniform(-0.5, 0.5, 20_000)
    known_ra, known_dec = random.uniform(100, 101, 40_000), random.uniform(-0.5, 0.5, 40_000)
    known_ra[:500], known_dec[:500] = ra[:500], dec[:500] + 0.1 * ARCSEC
    nearest = NearestObjects(np.tile(ra, 2), np.tile(dec, 2), 5.0)
    nearest.add(np.arange(1, 40_001), known_ra, known_dec)
    by_density = 40_000 * (1 - np.exp(-40_000 * np.pi * (5 * ARCSEC) ** 2))
    assert nearest.expected_by_chance == pytest.approx(by_density, rel=0.06)
    assert nearest.matched - 1000 == pytest.approx(by_density, rel=0.06)


def test_no_positions_and_no_objects_are_no_matches() -> None:
    empty = np.zeros(0)
    nearest = NearestObjects(empty, empty, 2.0)
    nearest.add(np.array([1]), np.array([10.0]), np.array([10.0]))
    assert (nearest.matched, nearest.expected_by_chance, nearest.ids.tolist()) == (0, 0.0, [])
    lonely = NearestObjects(np.array([10.0]), np.array([10.0]), 2.0)
    lonely.add(np.zeros(0, np.int64), empty, empty)
    assert (lonely.matched, lonely.expected_by_chance) == (0, 0.0)


@pytest.fixture
def known(tmp_path: Path) -> Path:
    path = tmp_path / "known.csv"
    path.write_text(
        "main_id,otype,RAJ2000,DEJ2000,nbref,z\nM 51,GPair,202.46957,47.19525,4313,0.0015\n"
        '=far,"G, old",10,-90,,\nnowhere,?,,,3,\n',
        encoding="utf-8",
    )
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "ranked.csv"
    path.write_text(
        "rank,path,ra,dec,object_id,known\n1,a.jpg,13:29:52.70,+47:11:43.5,007,old\n2,b.jpg,202.5,47.2,b,old\n"
        "3,c.jpg,190,-89.9999,,\n4,d.jpg,,,d,\n",
        encoding="utf-8",
    )
    return path


def test_a_table_gets_what_is_known_of_each_row_without_a_database(known: Path, table: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    done = run_here(main, "crossmatch", table, "--catalogue", known, "--output", output)
    assert done.returncode == 0, done.stderr
    assert "2 of 3 rows with a position are within 2″ of one of 2 known objects, 1 are not" in done.stdout
    assert "0.0 matches are expected by chance (positions shifted by 60″)" in done.stdout
    with output.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == [
        *("rank", "path", "ra", "dec", "object_id"),
        *("known", "known_name", "known_type", "known_arcsec", "known_references", "known_catalogue"),
    ]
    assert rows[0][2:] == [
        "13:29:52.70",
        "+47:11:43.5",
        "007",
        "true",
        "M 51",
        "GPair",
        rows[0][8],
        "4313",
        "known.csv",
    ]
    assert 0.3 < float(rows[0][8]) < 0.9
    assert rows[1][5:] == ["false", "", "", "", "", ""]
    assert rows[2][5:] == ["true", "'=far", "G, old", "0.36", "", "known.csv"]
    assert rows[3][5:] == [""] * 6


@pytest.mark.parametrize("suffix", [".vot", ".parquet", ".fits"])
def test_other_formats_keep_types_and_can_be_compared_again(
    known: Path, table: Path, tmp_path: Path, suffix: str
) -> None:
    first, second = tmp_path / f"first{suffix}", tmp_path / "second.csv"
    for source, output in ((table, first), (first, second)):
        done = run_here(main, "crossmatch", source, "--catalogue", known, "--output", output)
        assert done.returncode == 0, done.stderr
    with second.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["known_name"] for row in rows] == ["M 51", "", "'=far", ""]
    assert [row["object_id"] for row in rows] == ["007", "b", "", "d"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["TABLE"], 2, "--output is needed for a TABLE"),
        (["import", "KNOWN"], 2, "import needs --name"),
        (["import", "--name", "x"], 2, "import needs a file"),
        (["list", "x"], 2, "nothing else takes a second argument"),
        (["--catalogue", "KNOWN"], 2, "are for a TABLE only"),
        (["TABLE", "--output", "out.txt"], 1, "written as .csv, .parquet, .vot, .fits or .hats, not out.txt"),
        (["missing.csv", "--output", "out.csv"], 1, "missing.csv cannot be read: No such file or directory"),
        (["KNOWN", "--ra", "RA2", "--output", "out.csv"], 1, "has no column RA2: it has main_id"),
        (["TABLE", "--radius", "0", "--output", "out.csv"], 2, "between 0.01 and 600"),
    ],
)
def test_wrong_usage_is_one_clear_line(
    known: Path, table: Path, arguments: list[str], status: int, message: str
) -> None:
    words = [{"TABLE": str(table), "KNOWN": str(known)}.get(word, word) for word in arguments]
    done = run_here(main, "crossmatch", *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr.splitlines()[-1]
