"""`collect` from local sources with network faults: every image once, none corrupt, none requested twice."""

import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from collect_command import assert_consistent, collect, collected_files, read_rows
from programs import Program, free_port
from source_server import Fault, LibraryImage, SourceServer, SourceState, jpeg

from astrodetect import images
from astrodetect.datasets.sources import manifest
from astrodetect.datasets.sources.http import HttpClient
from astrodetect.records import ImageContract
from astrodetect.settings import Settings

QUERIES = ("--class", "galaxy=spiral galaxy", "--class", "nebula=nebula")


def nasa_library(count: int = 40) -> SourceState:
    """Two classes with duplicates across pages and classes, and unusable images."""
    galaxies = [LibraryImage(f"PIA{number:05}", number) for number in range(count)]
    galaxies[1:1] = galaxies[:1] * 9  # on the second page too
    galaxies += [
        LibraryImage('an id / of "NASA\'s", ü', 1001),
        LibraryImage(".hidden", 1002),
        LibraryImage("x" * 200, 1003),
        LibraryImage("old", 1004, sizes=("orig", "thumb")),
        LibraryImage("gone sizes", 1005, missing_sizes=("small", "medium")),
        LibraryImage("tiny", 1006, side=24),
        LibraryImage("broken", 1007, broken=True),
        LibraryImage("missing", 1008, missing=True),
        LibraryImage("film", 1009, sizes=()),
    ]
    nebulae = [LibraryImage(f"hubble-{number}", 5000 + number) for number in range(count // 2)]
    return SourceState({"spiral galaxy": galaxies, "nebula": [*galaxies[3:5], *nebulae, *galaxies[20:22]]})


UNUSABLE = {"tiny", "broken", "missing", "film"}


def expected_labels(state: SourceState) -> dict[str, str]:
    """id → class of the usable images."""
    labels = {"nebula": "nebula", "spiral galaxy": "galaxy"}
    by_id = {image.id: labels[words] for words in labels for image in state.results_by_query[words]}
    return {name: label for name, label in by_id.items() if name not in UNUSABLE}


def test_collect_saves_every_image_once_despite_network_faults_and_lists_the_unusable(tmp_path: Path) -> None:
    state = nasa_library()
    state.fault_rate = 0.3
    with SourceServer(state) as server:
        done = collect(server, "nasa", *QUERIES, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(tmp_path)]
    assert set(state.faults) == set(Fault)
    assert_consistent(tmp_path)
    found_rows = read_rows(tmp_path / "catalogue.csv")
    assert {row["source_id"]: row["label"] for row in found_rows} == expected_labels(state)
    for row in found_rows:
        image = state.by_id[row["source_id"]]
        size = "orig" if image.id == "old" else "large" if image.id == "gone sizes" else "small"
        assert (tmp_path / row["path"]).read_bytes() == image.file(size)
        assert row["title"] == f'The "{image.id}", seen'
        assert row["url"].startswith(server.url)
        assert (row["source"], row["center"]) == ("nasa", "JPL")
        assert row["license"]
        assert row["fetched"]
    skipped = {row["source_id"]: row["reason"] for row in read_rows(tmp_path / "skipped.csv")}
    assert set(skipped) == UNUSABLE
    assert "each side needs 64" in skipped["tiny"]
    assert "not a supported image" in skipped["broken"]
    assert "404" in skipped["missing"]
    assert "no image among" in skipped["film"]
    assert "4 also found for another class" in done.stderr
    assert "4 skipped" in done.stderr

    assert state.early_requests == []
    assert state.max_concurrent == 1
    [agent] = state.user_agents
    assert agent.startswith("astrodetect/")


def test_collect_stops_when_a_source_asks_for_a_long_pause(tmp_path: Path) -> None:
    state = nasa_library()
    state.fault_rate, state.fault_kinds, state.retry_after_s = 1, (Fault.RETRY_AFTER_S,), 3600
    with SourceServer(state) as server:
        done = collect(server, "nasa", *QUERIES, "--output", tmp_path)
    assert done.returncode == 1
    assert "asks for no request for 3600 s" in done.stderr.splitlines()[-1]
    assert state.requests.total() == 1


def test_http_client_keeps_the_rate_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    requests, per_s = 6, 20.0
    with SourceServer(nasa_library()) as server:
        monkeypatch.setenv("ASTRODETECT_COLLECT_REQUESTS_PER_S", str(per_s))
        client, start = HttpClient(Settings()), time.monotonic()
        for _ in range(requests):
            assert client.get(f"{server.url}/image/PIA00000~small.jpg", bytes)
        assert time.monotonic() - start >= (requests - 1) / per_s


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize(
    "body", ["[]", "[" * 100_000, '{"collection": 7}', '{"collection": {"items": [7], "links": [7]}}', "{"]
)
def test_collect_with_unexpected_json_is_a_one_line_error(tmp_path: Path, body: str, status: int) -> None:
    state = nasa_library(1)
    state.search = (status, body.encode())
    with SourceServer(state) as server:
        done = collect(server, "nasa", *QUERIES, "--output", tmp_path)
    assert done.returncode == 1
    assert "5 attempts" in done.stderr if status == 200 else "answered 404" in done.stderr
    assert "Traceback" not in done.stderr


def test_collect_resumes_after_kills_and_requests_nothing_twice(tmp_path: Path) -> None:
    state, moments, kills = nasa_library(60), random.Random(3), 6
    state.fault_rate = 0.1
    arguments = ("-m", "astrodetect", "collect", "nasa", *QUERIES, "--output", str(tmp_path / "sky"))
    with SourceServer(state) as server:
        for kill in range(kills):
            goal = state.requests.total() + moments.randrange(1, 25)
            with Program(*arguments, log=tmp_path / f"{kill}.log", environment=server.environment) as program:
                program.wait_until(lambda: state.requests.total() >= goal)  # noqa: B023 - at once
                interrupted = kill % 4 == 3
                program.signal(signal.SIGINT if interrupted else signal.SIGKILL)
                assert program.wait() == (130 if interrupted else -signal.SIGKILL)
            for data in collected_files(tmp_path / "sky").values():
                images.decode(data, ImageContract())
        with Program(*arguments, log=tmp_path / "last.log", environment=server.environment) as program:
            assert program.wait() == 0, program.output
        assert_consistent(tmp_path / "sky")
        source_ids = [row["source_id"] for row in read_rows(tmp_path / "sky" / "catalogue.csv")]
        assert Counter(source_ids) == Counter(expected_labels(state).keys())
        downloads = {path: count for path, count in state.served.items() if path.startswith("/image/")}
        unusable = sum(count for path, count in downloads.items() if "tiny" in path or "broken" in path)
        assert sum(downloads.values()) - unusable <= len(source_ids) + kills
        assert not list((tmp_path / "sky").glob("**/.*.part"))

        requests = state.requests.copy()
        assert collect(server, "nasa", *QUERIES, "--limit", 20, "--output", tmp_path / "sky").returncode == 0
        assert state.requests == requests  # the classes are full


def test_collect_repairs_torn_rows_and_damaged_or_missing_files(tmp_path: Path) -> None:
    state = nasa_library(10)
    with SourceServer(state) as server:
        assert collect(server, "nasa", *QUERIES, "--output", tmp_path).returncode == 0
        original_rows = sorted((row["path"], row["sha256"]) for row in read_rows(tmp_path / "catalogue.csv"))
        catalogue = tmp_path / "catalogue.csv"
        catalogue.write_bytes(catalogue.read_bytes()[:-40])
        (tmp_path / original_rows[2][0]).write_bytes(b"\xff\xd8\xff spoilt")
        (tmp_path / original_rows[3][0]).unlink()
        (tmp_path / "galaxy" / ".x.jpg.part").write_bytes(b"half")
        state.served.clear()
        assert collect(server, "nasa", *QUERIES, "--output", tmp_path).returncode == 0
        assert sorted((row["path"], row["sha256"]) for row in read_rows(catalogue)) == original_rows
        assert_consistent(tmp_path)
        assert not (tmp_path / "galaxy" / ".x.jpg.part").exists()
        requested_again = [
            path for path in state.served if path.startswith("/image/") and "tiny" not in path and "broken" not in path
        ]
        assert len(requested_again) == 3


def test_collect_limit_applies_to_each_class(tmp_path: Path) -> None:
    with SourceServer(nasa_library()) as server:
        assert collect(server, "nasa", *QUERIES, "--limit", 5, "--output", tmp_path).returncode == 0
        assert Counter(row["label"] for row in read_rows(tmp_path / "catalogue.csv")) == {"galaxy": 5, "nebula": 5}
        assert collect(server, "nasa", *QUERIES, "--limit", 8, "--output", tmp_path).returncode == 0
        assert Counter(row["label"] for row in read_rows(tmp_path / "catalogue.csv")) == {"galaxy": 8, "nebula": 8}


@pytest.mark.parametrize(("side", "size"), [(1, "small"), (700, "medium"), (1920, "large"), (9000, "large")])
def test_collect_side_selects_the_file_size(tmp_path: Path, side: int, size: str) -> None:
    state = SourceState({"m": [LibraryImage("one", 1)]})
    with SourceServer(state) as server:
        assert collect(server, "nasa", "--class", "a=m", "--side", side, "--output", tmp_path).returncode == 0
    assert [path for path in state.served if path.startswith("/image/")] == [f"/image/one~{size}.jpg"]


def test_collect_falls_back_to_a_smaller_file_over_the_size_limit(tmp_path: Path) -> None:
    state = SourceState({"m": [LibraryImage("one", 1, side=256)]})
    with SourceServer(state) as server:
        limit = str(len(jpeg(1, 512)) - 1)
        done = collect(
            server, "nasa", "--class", "a=m", "--side", 1920, "--output", tmp_path, ASTRODETECT_COLLECT_MAX_BYTES=limit
        )
    assert done.returncode == 0, done.stderr
    [row] = read_rows(tmp_path / "catalogue.csv")
    assert row["url"].endswith("~medium.jpg")


def test_collect_from_an_unavailable_source_is_a_one_line_error(tmp_path: Path) -> None:
    with SourceServer(SourceState()) as server:
        away = {"ASTRODETECT_NASA_URL": f"http://127.0.0.1:{free_port()}"}
        done = collect(server, "nasa", *QUERIES, "--output", tmp_path, **away)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "the connection failed" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_collect_ends_when_a_source_stops_answering(tmp_path: Path) -> None:
    catalogue = tmp_path / "places.csv"
    catalogue.write_text("ra,dec\n" + "".join(f"{number},0\n" for number in range(300)))
    with SourceServer(SourceState()) as server:
        away = {"ASTRODETECT_SDSS_URL": f"http://127.0.0.1:{free_port()}"}
        done = collect(server, "cutouts", catalogue, "--source", "sdss", "--output", tmp_path / "out", **away)
    assert done.returncode == 1
    assert "does not answer" in done.stderr.splitlines()[-1]
    assert len(read_rows(tmp_path / "out" / "skipped.csv")) == 4


def test_collect_without_results_is_a_one_line_error(tmp_path: Path) -> None:
    with SourceServer(SourceState()) as server:
        done = collect(server, "nasa", "--class", "a=nothing", "--output", tmp_path)
    assert done.returncode == 1
    assert "no image was collected" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
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
def test_invalid_collect_options_are_a_one_line_error(
    tmp_path: Path, arguments: Sequence[str], status: int, message: str
) -> None:
    with SourceServer(SourceState()) as server:
        done = collect(server, *arguments, "--output", tmp_path)
    assert done.returncode == status
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_two_collections_into_one_folder_are_refused(tmp_path: Path) -> None:
    arguments = ("-m", "astrodetect", "collect", "nasa", *QUERIES, "--output", str(tmp_path / "sky"))
    with SourceServer(nasa_library()) as server, manifest.open_manifest(tmp_path / "sky"):
        with Program(*arguments, log=tmp_path / "log", environment=server.environment) as program:
            assert program.wait() == 1
        assert "another process collects" in program.output.splitlines()[-1]


def test_collect_does_not_overwrite_a_foreign_catalogue_csv(tmp_path: Path) -> None:
    (tmp_path / "catalogue.csv").write_text("my,own\n1,2\n")
    with SourceServer(nasa_library()) as server:
        done = collect(server, "nasa", *QUERIES, "--output", tmp_path)
    assert done.returncode == 1
    assert "is not a catalogue" in done.stderr.splitlines()[-1]
    assert (tmp_path / "catalogue.csv").read_text() == "my,own\n1,2\n"
