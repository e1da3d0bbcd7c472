"""`collect` against local sources with a network's faults: every image once, none corrupt, none asked for twice."""

import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from collect_command import assert_true, collect, collected, rows
from programs import Program, free_port
from source_server import Fault, Picture, Sky, SourceServer, jpeg

from astrodetect import images
from astrodetect.datasets.sources import manifest
from astrodetect.datasets.sources.http import HttpClient
from astrodetect.records import ImageContract
from astrodetect.settings import Settings

QUERIES = ("--class", "galaxy=spiral galaxy", "--class", "nebula=nebula")


def library(many: int = 40) -> Sky:
    """Two classes with duplicates over pages and over classes, and what cannot be had."""
    galaxies = [Picture(f"PIA{number:05}", number) for number in range(many)]
    galaxies[1:1] = galaxies[:1] * 9  # on the second page too
    galaxies += [
        Picture('an id / of "NASA\'s", ü', 1001),
        Picture(".hidden", 1002),
        Picture("x" * 200, 1003),
        Picture("old", 1004, sizes=("orig", "thumb")),
        Picture("gone sizes", 1005, lacking=("small", "medium")),
        Picture("tiny", 1006, side=24),
        Picture("broken", 1007, broken=True),
        Picture("missing", 1008, missing=True),
        Picture("film", 1009, sizes=()),
    ]
    nebulae = [Picture(f"hubble-{number}", 5000 + number) for number in range(many // 2)]
    return Sky({"spiral galaxy": galaxies, "nebula": [*galaxies[3:5], *nebulae, *galaxies[20:22]]})


REFUSED = {"tiny", "broken", "missing", "film"}


def wanted(sky: Sky) -> dict[str, str]:
    """id → class of what can be had."""
    labels = {"nebula": "nebula", "spiral galaxy": "galaxy"}
    found = {picture.id: labels[words] for words in labels for picture in sky.pictures[words]}
    return {name: label for name, label in found.items() if name not in REFUSED}


def test_every_reachable_image_comes_once_whatever_the_network_does_and_the_rest_is_listed(tmp_path: Path) -> None:
    sky = library()
    sky.fault_rate = 0.3
    with SourceServer(sky) as server:
        done = collect(server, "nasa", *QUERIES, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(tmp_path)]
    assert set(sky.faults) == set(Fault)
    assert_true(tmp_path)
    found = rows(tmp_path / "catalogue.csv")
    assert {row["source_id"]: row["label"] for row in found} == wanted(sky)
    for row in found:
        picture = sky.by_id[row["source_id"]]
        size = "orig" if picture.id == "old" else "large" if picture.id == "gone sizes" else "small"
        assert (tmp_path / row["path"]).read_bytes() == picture.file(size)
        assert row["title"] == f'The "{picture.id}", seen'
        assert row["url"].startswith(server.url)
        assert (row["source"], row["center"]) == ("nasa", "JPL")
        assert row["license"]
        assert row["fetched"]
    skipped = {row["source_id"]: row["reason"] for row in rows(tmp_path / "skipped.csv")}
    assert set(skipped) == REFUSED
    assert "each side needs 64" in skipped["tiny"]
    assert "not an image" in skipped["broken"]
    assert "404" in skipped["missing"]
    assert "no image among" in skipped["film"]
    assert "4 also found for another class" in done.stderr
    assert "4 skipped" in done.stderr

    assert sky.rude == []  # nobody was asked before Retry-After was over
    assert sky.most_at_once == 1
    [agent] = sky.agents
    assert agent.startswith("astrodetect/")


def test_a_source_that_wants_to_be_left_alone_is(tmp_path: Path) -> None:
    sky = library()
    sky.fault_rate, sky.kinds, sky.wait_s = 1, (Fault.WAIT,), 3600
    with SourceServer(sky) as server:
        done = collect(server, "nasa", *QUERIES, "--output", tmp_path)
    assert done.returncode == 1
    assert "asks for no request for 3600 s" in done.stderr.splitlines()[-1]
    assert sky.asked.total() == 1


def test_requests_are_never_sent_faster_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    requests, per_s = 6, 20.0
    with SourceServer(library()) as server:
        monkeypatch.setenv("ASTRODETECT_COLLECT_REQUESTS_PER_S", str(per_s))
        remote, began = HttpClient(Settings()), time.monotonic()
        for _ in range(requests):
            assert remote.get(f"{server.url}/image/PIA00000~small.jpg", bytes)
        assert time.monotonic() - began >= (requests - 1) / per_s


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize(
    "body", ["[]", "null", '{"collection": 7}', '{"collection": {"items": [7], "links": [7]}}', "{"]
)
def test_an_answer_of_another_shape_is_one_clear_line(tmp_path: Path, body: str, status: int) -> None:
    sky = library(1)
    sky.search = (status, body.encode())
    with SourceServer(sky) as server:
        done = collect(server, "nasa", *QUERIES, "--output", tmp_path)
    assert done.returncode == 1
    assert "5 attempts" in done.stderr if status == 200 else "answered 404" in done.stderr
    assert "Traceback" not in done.stderr


def test_killed_many_times_it_goes_on_and_asks_for_nothing_twice(tmp_path: Path) -> None:
    sky, moments, kills = library(60), random.Random(3), 6
    sky.fault_rate = 0.1
    arguments = ("-m", "astrodetect", "collect", "nasa", *QUERIES, "--output", str(tmp_path / "sky"))
    with SourceServer(sky) as server:
        for kill in range(kills):
            goal = sky.asked.total() + moments.randrange(1, 25)
            with Program(*arguments, log=tmp_path / f"{kill}.log", environment=server.environment) as program:
                program.wait_until(lambda: sky.asked.total() >= goal)  # noqa: B023 - at once
                by_hand = kill % 4 == 3
                program.signal(signal.SIGINT if by_hand else signal.SIGKILL)
                assert program.wait() == (130 if by_hand else -signal.SIGKILL)
            for data in collected(tmp_path / "sky").values():
                images.decode(data, ImageContract())
        with Program(*arguments, log=tmp_path / "last.log", environment=server.environment) as program:
            assert program.wait() == 0, program.output
        assert_true(tmp_path / "sky")
        found = [row["source_id"] for row in rows(tmp_path / "sky" / "catalogue.csv")]
        assert Counter(found) == Counter(wanted(sky).keys())
        pictures = {path: count for path, count in sky.served.items() if path.startswith("/image/")}
        refused = sum(count for path, count in pictures.items() if "tiny" in path or "broken" in path)
        assert sum(pictures.values()) - refused <= len(found) + kills
        assert not list((tmp_path / "sky").glob("**/.*.part"))

        asked = sky.asked.copy()
        assert collect(server, "nasa", *QUERIES, "--limit", 20, "--output", tmp_path / "sky").returncode == 0
        assert sky.asked == asked  # the classes are full


def test_what_a_crash_tore_or_someone_spoilt_is_mended(tmp_path: Path) -> None:
    sky = library(10)
    with SourceServer(sky) as server:
        assert collect(server, "nasa", *QUERIES, "--output", tmp_path).returncode == 0
        whole = sorted((row["path"], row["sha256"]) for row in rows(tmp_path / "catalogue.csv"))
        book = tmp_path / "catalogue.csv"
        book.write_bytes(book.read_bytes()[:-40])
        (tmp_path / whole[2][0]).write_bytes(b"\xff\xd8\xff spoilt")
        (tmp_path / whole[3][0]).unlink()
        (tmp_path / "galaxy" / ".x.jpg.part").write_bytes(b"half")
        sky.served.clear()
        assert collect(server, "nasa", *QUERIES, "--output", tmp_path).returncode == 0
        assert sorted((row["path"], row["sha256"]) for row in rows(book)) == whole
        assert_true(tmp_path)
        assert not (tmp_path / "galaxy" / ".x.jpg.part").exists()
        again = [
            path for path in sky.served if path.startswith("/image/") and "tiny" not in path and "broken" not in path
        ]
        assert len(again) == 3


def test_a_limit_counts_each_class(tmp_path: Path) -> None:
    with SourceServer(library()) as server:
        assert collect(server, "nasa", *QUERIES, "--limit", 5, "--output", tmp_path).returncode == 0
        assert Counter(row["label"] for row in rows(tmp_path / "catalogue.csv")) == {"galaxy": 5, "nebula": 5}
        assert collect(server, "nasa", *QUERIES, "--limit", 8, "--output", tmp_path).returncode == 0
        assert Counter(row["label"] for row in rows(tmp_path / "catalogue.csv")) == {"galaxy": 8, "nebula": 8}


@pytest.mark.parametrize(("side", "size"), [(1, "small"), (700, "medium"), (1920, "large"), (9000, "large")])
def test_the_side_that_is_wanted_chooses_the_file(tmp_path: Path, side: int, size: str) -> None:
    sky = Sky({"m": [Picture("one", 1)]})
    with SourceServer(sky) as server:
        assert collect(server, "nasa", "--class", "a=m", "--side", side, "--output", tmp_path).returncode == 0
    assert [path for path in sky.served if path.startswith("/image/")] == [f"/image/one~{size}.jpg"]


def test_too_large_a_file_gives_way_to_a_smaller_one(tmp_path: Path) -> None:
    sky = Sky({"m": [Picture("one", 1, side=256)]})
    with SourceServer(sky) as server:
        limit = str(len(jpeg(1, 512)) - 1)
        done = collect(
            server, "nasa", "--class", "a=m", "--side", 1920, "--output", tmp_path, ASTRODETECT_COLLECT_MAX_BYTES=limit
        )
    assert done.returncode == 0, done.stderr
    [row] = rows(tmp_path / "catalogue.csv")
    assert row["url"].endswith("~medium.jpg")


def test_a_source_that_is_away_is_one_clear_line(tmp_path: Path) -> None:
    with SourceServer(Sky()) as server:
        away = {"ASTRODETECT_NASA_URL": f"http://127.0.0.1:{free_port()}"}
        done = collect(server, "nasa", *QUERIES, "--output", tmp_path, **away)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "the connection failed" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_source_that_falls_silent_ends_the_run(tmp_path: Path) -> None:
    place = tmp_path / "places.csv"
    place.write_text("ra,dec\n" + "".join(f"{number},0\n" for number in range(300)))
    with SourceServer(Sky()) as server:
        away = {"ASTRODETECT_SDSS_URL": f"http://127.0.0.1:{free_port()}"}
        done = collect(server, "cutouts", place, "--source", "sdss", "--output", tmp_path / "out", **away)
    assert done.returncode == 1
    assert "does not answer" in done.stderr.splitlines()[-1]
    assert len(rows(tmp_path / "out" / "skipped.csv")) == 4


def test_nothing_found_is_one_clear_line(tmp_path: Path) -> None:
    with SourceServer(Sky()) as server:
        done = collect(server, "nasa", "--class", "a=nothing", "--output", tmp_path)
    assert done.returncode == 1
    assert "no image was collected" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("nasa",), 2, "--class"),
        (("nasa", "--class", "galaxy"), 2, "CLASS=WORDS"),
        (("nasa", "--class", "a=b", "--limit", "0"), 2, "from 1"),
        (("cutouts", "gone.csv", "--source", "sdss"), 1, "cannot be read"),
        (("cutouts", "README.md", "--source", "sdss"), 1, "for RA: name it with --ra"),
        (("cutouts", "README.md", "--source", "sdss", "--format", "fits"), 1, "sdss has no fits"),
        (("galaxy10", "--file", "README.md"), 1, "not the Galaxy10 file"),
        (("galaxy10", "--file", "gone.h5"), 1, "no such file"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    tmp_path: Path, arguments: Sequence[str], status: int, said: str
) -> None:
    with SourceServer(Sky()) as server:
        done = collect(server, *arguments, "--output", tmp_path)
    assert done.returncode == status
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_two_at_once_into_one_folder_are_refused(tmp_path: Path) -> None:
    arguments = ("-m", "astrodetect", "collect", "nasa", *QUERIES, "--output", str(tmp_path / "sky"))
    with SourceServer(library()) as server, manifest.open_manifest(tmp_path / "sky"):
        with Program(*arguments, log=tmp_path / "log", environment=server.environment) as program:
            assert program.wait() == 1
        assert "another process collects" in program.output.splitlines()[-1]


def test_another_csv_of_that_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "catalogue.csv").write_text("my,own\n1,2\n")
    with SourceServer(library()) as server:
        done = collect(server, "nasa", *QUERIES, "--output", tmp_path)
    assert done.returncode == 1
    assert "is not a catalogue" in done.stderr.splitlines()[-1]
    assert (tmp_path / "catalogue.csv").read_text() == "my,own\n1,2\n"
