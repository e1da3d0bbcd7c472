"""What a run on a cluster needs, without a cluster."""

import os
import re
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from astrodetect import __main__, extras
from astrodetect.errors import ClusterError
from astrodetect.features.extraction import FeatureFile, measured_contract, measured_extractor
from astrodetect.scoring.chunks import MAX_CHUNK_IMAGES, WorkerTask, chunk_images, cut_chunks, read_plan, write_plan


def test_without_ray_the_option_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    (tmp_path / "a.jpg").touch()
    assert __main__.main(["score", str(tmp_path), "--output", str(tmp_path / "t.csv"), "--ray", "auto"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line == ("astrodetect: --ray needs packages that are missing (ray): pip install 'astrodetect[cluster]'")


def test_a_cluster_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from astrodetect.cluster import connection

    def failing(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nMore of it.")  # noqa: TRY002 - as Ray does

    monkeypatch.setattr(ray, "init", failing)
    with pytest.raises(ClusterError, match=r"cluster local: The current node timed out during startup\. `ray start"):
        connection.connect_to_ray("local")


def test_a_head_that_lacks_the_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from astrodetect.cluster import connection

    def unpickle_there(_: object) -> None:  # as a driver's through ray://
        raise ModuleNotFoundError("No module named 'astrodetect'")

    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "put", unpickle_there)
    with pytest.raises(ClusterError, match="cluster auto: No module named 'astrodetect'"):
        connection.connect_to_ray("auto")


def test_a_local_run_whose_node_is_lost_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    from astrodetect.cluster import ray_pool

    monkeypatch.setattr(ray_pool, "connect_to_ray", lambda _: None)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": False, "NodeID": "a", "Resources": {"CPU": 1.0}}])
    task = WorkerTask(model="m", cores=1)
    pool = ray_pool.RayPool("local", [], task, environment={}, notify=lambda _: None)
    with pytest.raises(ClusterError, match="on this machine has ended"):
        next(pool.score(iter([])))


def test_ray_neither_ends_the_driver_nor_prints_its_logs_where_its_process_ends() -> None:
    pytest.importorskip("ray")
    from astrodetect.cluster import connection  # noqa: F401 - sets what Ray reads

    assert os.environ["RAY_RAYLET_PID"] == str(os.getpid())
    assert re.search(os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"], "Raylet is terminated.\nLast 20 lines")


def test_a_node_that_does_not_see_the_images_is_named(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from astrodetect.cluster.connection import check_visible

    (tmp_path / "a.jpg").touch()
    check_visible("a.jpg", "node7", tmp_path)
    check_visible("s3://bucket/a.jpg", "node7", tmp_path)
    with pytest.raises(ClusterError, match=r"the node node7 does not see b.jpg: share the folder"):
        check_visible("b.jpg", "node7", tmp_path)


def test_a_node_without_the_package_is_named_and_a_lost_one_is_not() -> None:
    exceptions = pytest.importorskip("ray.exceptions")
    from astrodetect.cluster.connection import node_error

    lines = "ray::_run() (pid=7, ip=10.0.0.2)\nTraceback:\n  ^^^^\nModuleNotFoundError: No module named 'astrodetect'\n"
    in_arguments = exceptions.RayTaskError("_run", lines, exceptions.RaySystemError("…"), "ray", 7, "10.0.0.2")
    for error in in_arguments, exceptions.ActorDiedError(in_arguments):
        assert re.fullmatch(
            r"the node 10\.0\.0\.2 cannot run astrodetect \(ModuleNotFoundError: No module named 'astrodetect'\): .*",
            str(node_error(error)),
        )
    assert node_error(exceptions.ActorDiedError()) is None
    own, defect = ClusterError("own"), ValueError("defect")
    assert node_error(exceptions.RayTaskError("_run", "", own, "ray", 7, "10.0.0.2")) is own
    raised = exceptions.RayTaskError("_run", "", defect, "ray", 7, "10.0.0.2")
    assert node_error(raised) is raised


def test_a_worker_that_is_lost_again_and_again_before_it_is_ready_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    exceptions = pytest.importorskip("ray.exceptions")
    from astrodetect.cluster import ray_pool

    def lost(_: object) -> None:
        raise exceptions.ActorDiedError

    node = {"Alive": True, "NodeID": 28 * "ab", "Resources": {"CPU": 1.0}}
    monkeypatch.setattr(ray_pool, "connect_to_ray", lambda _: None)
    monkeypatch.setattr(ray_pool, "ray", MagicMock(get=lost, nodes=lambda: [node], wait=lambda calls, **_: (calls, [])))
    notices: list[str] = []
    pool = ray_pool.RayPool("a:1", [], WorkerTask(model="m", cores=1), environment={}, notify=notices.append)
    with pytest.raises(
        ClusterError, match=r"worker of the node abab.* was lost before it was ready 5 times: The actor died"
    ):
        pool.wait_ready("")
    assert len(notices) == 5


def test_a_node_with_another_version_of_the_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from astrodetect.cluster.ray_batches import open_extraction

    extractor = measured_extractor(measured_contract(None, "RGB"))
    arguments = (tmp_path, 1_000, list[FeatureFile])
    open_extraction(lambda: extractor, extractor.cache_key, *arguments)
    with pytest.raises(ClusterError, match="has another version of the model"):
        open_extraction(lambda: extractor, "of the driver", *arguments)


@pytest.mark.parametrize(
    ("total", "batch", "images"),
    [
        (1, 16, 16),
        (1_000, 16, 16),
        (5_000, 16, 64),
        (100_000, 2, 1562),
        (10**9, 16, MAX_CHUNK_IMAGES),
        (10**9, 3, 4095),
    ],
)
def test_chunks_are_whole_batches_and_enough_to_be_shared_out(total: int, batch: int, images: int) -> None:
    assert chunk_images(total, batch) == images


def test_a_plan_has_every_reference_once_in_order_with_shards_of_their_own(tmp_path: Path) -> None:
    references = ["a.jpg", "b\udcff.jpg", "c\n.jpg", "d.tar", "e.jpg", "f.tar"]
    chunks = list(cut_chunks(references, 2, "key"))
    assert [chunk.references for chunk in chunks] == [
        ("a.jpg", "b\udcff.jpg"), ("c\n.jpg",), ("d.tar",), ("e.jpg",), ("f.tar",)
    ]  # fmt: skip
    assert [chunk.number for chunk in chunks] == list(range(5))
    other = list(cut_chunks(references, 2, "another model"))
    assert len({chunk.id for chunk in [*chunks, *other]}) == 10
    write_plan(tmp_path / "plan", chunks)
    missing = list(read_plan(tmp_path / "plan", "run", {1: "", 2: ""}))
    assert [chunk.references for chunk in missing] == [chunks[number].references for number in (0, 3, 4)]
