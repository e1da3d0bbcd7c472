"""`score --ray` on a cluster of several nodes: nodes and drivers are killed, and the table is that of one machine."""

import csv
import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import colour_models
import pytest
from programs import Program

from astrodetect import images

pytest.importorskip("ray", reason="needs ray: pip install 'astrodetect[cluster]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray

IMAGES, MANY_IMAGES = 600, 5000
DIFFERENT = 64
SECONDS_PER_IMAGE = 0.03  # so that nodes are lost and join in the middle, on fast machines too
CRASHING_DECODER = str(Path(__file__).parent.parent / "crashing_decoder")
OBJECT_STORE_BYTES = 80 * 2**20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without CPUs and two nodes of one, whose decoder is slow, and crashes for some images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", CRASHING_DECODER)
        patch.setenv("SECONDS_PER_IMAGE", str(SECONDS_PER_IMAGE))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES},
        )
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES)
        patch.delenv("SECONDS_PER_IMAGE")
        yield cluster
        cluster.shutdown()


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Images, some of them unreadable, and one that crashes the decoder."""
    folder = tmp_path_factory.mktemp("sky")
    count = MANY_IMAGES if request.config.getoption("--full") else IMAGES
    for number in range(count):
        path = folder / f"{number:05}.jpg"
        if number < DIFFERENT:
            images.write_jpeg(path, colour_models.image(colour_models.TWO_CLASSES[number % 2], number))
        else:
            path.hardlink_to(folder / f"{number % DIFFERENT:05}.jpg")
    crashing = folder / f"{count * 2 // 3:05}.jpg"
    crashing.unlink()
    crashing.write_bytes((folder / "00000.jpg").read_bytes() + b"CRASH")
    (folder / "bad.jpg").write_text("no image")
    return folder


def score(sky: Path, output: Path, models: Path, *more: str) -> Program:
    command = ("-m", "astrodetect", "score", str(sky), "--output", str(output), *more)
    environment = {"ASTRODETECT_MODELS_DIR": str(models), "PYTHONPATH": CRASHING_DECODER}
    return Program(*command, log=output.with_suffix(f".{len(more)}.log"), environment=environment)


@pytest.fixture(scope="module")
def on_one_machine(sky: Path, colour_models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of a run without Ray."""
    output = tmp_path_factory.mktemp("one") / "scores.csv"
    with score(sky, output, colour_models_dir) as program:
        assert program.wait() == 0, program.output
    return output


def test_after_a_killed_driver_a_lost_node_and_a_crash_the_table_is_that_of_one_machine(
    cluster: Any, sky: Path, on_one_machine: Path, colour_models_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores.csv"

    def parts() -> int:
        return len(list((tmp_path / "scores.csv.parts").glob("part-*")))

    with score(sky, output, colour_models_dir, "--ray", cluster.address) as driver:
        driver.wait_until(lambda: parts() > 3)
        driver.signal(signal.SIGKILL)
        driver.wait()
    done = parts()
    with score(sky, output, colour_models_dir, "--ray", cluster.address) as driver:
        driver.wait_until(lambda: " images/s on 2 nodes" in driver.output and parts() > done + 2)
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        assert driver.wait() == 0, driver.output
    assert "Traceback" not in driver.output
    assert "a node or its worker was lost" in driver.output
    assert output.read_bytes() == on_one_machine.read_bytes()
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["path"] for row in rows) == Counter(str(path) for path in sky.iterdir())
    assert Counter(row["error"].partition(":")[0] for row in rows if row["error"]) == {
        "its decoder process ended": 1,
        "not a supported image": 1,
    }
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".log"] == ["scores.csv"]


@pytest.mark.long
def test_a_node_that_joins_later_takes_part(
    cluster: Any, sky: Path, on_one_machine: Path, colour_models_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores.csv"
    with score(sky, output, colour_models_dir, "--ray", cluster.address) as driver:
        driver.wait_until((tmp_path / "scores.csv.parts").exists)
        cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES)
        assert driver.wait() == 0, driver.output
    assert output.read_bytes() == on_one_machine.read_bytes()


@pytest.mark.long
def test_the_ranking_of_anomalies_by_a_sample_is_that_of_one_machine(
    cluster: Any, sky: Path, colour_models_dir: Path, tmp_path: Path
) -> None:
    tables = []
    few = tmp_path / "few"
    few.mkdir()
    for number in range(DIFFERENT):
        (few / f"{number}.jpg").hardlink_to(sky / f"{number:05}.jpg")
    for options in ((), ("--ray", cluster.address)):
        output = tmp_path / f"anomalies{len(options)}"
        environment = {
            "ASTRODETECT_MODELS_DIR": str(colour_models_dir),
            "ASTRODETECT_DATA_DIR": str(tmp_path / f"data{len(options)}"),
        }
        command: tuple[str, ...] = ("-m", "astrodetect", "anomalies", str(few), "--features", "both", "--top", "1")
        command += ("--sample", str(DIFFERENT // 2), "--output", str(output), *options)
        with Program(*command, log=output.with_suffix(".log"), environment=environment) as program:
            assert program.wait() == 0, program.output
        assert f"features newly computed for {DIFFERENT}" in program.output
        assert f"compared with {DIFFERENT // 2} of few, drawn at random (seed 0)" in program.output
        tables.append((output / "anomalies.csv").read_bytes())
    assert tables[0] == tables[1]


@pytest.mark.long
def test_a_data_set_is_explored_as_on_one_machine(cluster: Any, tmp_path: Path) -> None:
    for number in range(DIFFERENT):
        name = colour_models.TWO_CLASSES[number % 2]
        (tmp_path / "sky" / name).mkdir(parents=True, exist_ok=True)
        images.write_jpeg(tmp_path / "sky" / name / f"{number}.jpg", colour_models.image(name, number))
    (tmp_path / "sky" / name / "copy.jpg").hardlink_to(tmp_path / "sky" / name / f"{number}.jpg")
    (tmp_path / "sky" / name / "bad.jpg").write_text("no image")
    results = []
    for options in ((), ("--ray", cluster.address)):
        command = ("-m", "astrodetect", "explore", str(tmp_path / "sky"), "--json", *options)
        with Program(*command, log=tmp_path / f"explore{len(options)}.log") as program:
            assert program.wait() == 0, program.output
        results.append(program.output.splitlines()[-1])
    assert json.loads(results[0])["copies"]
    assert results[0] == results[1]


def test_what_a_cluster_cannot_do_is_one_line(cluster: Any, sky: Path, colour_models_dir: Path, tmp_path: Path) -> None:
    for options, message in (
        (("--ray", "127.0.0.1:1"), "cannot connect to the Ray cluster 127.0.0.1:1: "),
        (("--ray", cluster.address, "--log"), "--log on a cluster needs DATABASE_URL"),
    ):
        with score(sky, tmp_path / "scores.csv", colour_models_dir, *options) as driver:
            assert driver.wait() == 1
        assert message in driver.output.splitlines()[-1]
        assert "Traceback" not in driver.output
        assert not list(tmp_path.glob("scores.csv*"))
