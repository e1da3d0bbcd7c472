"""Models are published atomically, verified when loaded, and rolled back to complete earlier versions."""

import itertools
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from published_models import FILES, INT8_FILES, publish

from astrodetect import atomic_files
from astrodetect.errors import ModelError, ModelMissing, ModelUnknown
from astrodetect.inference import engine
from astrodetect.inference.engine import load_verified
from astrodetect.model_store import mirror, publication, store, versions
from astrodetect.model_store.manifest import Manifest, list_manifests, parse_manifest, read_manifest


def served(folder: Path) -> tuple[bytes, bytes]:
    loaded = load_verified(folder, "m")
    return loaded.xml, loaded.weights


def earlier_versions(folder: Path) -> list[str]:
    return [manifest.version for manifest in versions.earlier_versions(folder, "m").values()]


def current_content(folder: Path) -> str:
    """The content of the current model, all of whose files belong together."""
    content = served(folder)[0].decode().split()[0]
    assert served(folder) == (f"{content} m.xml".encode(), f"{content} m.bin".encode())
    return content


def roll_back(folder: Path, name: str, version: str | None = None) -> Manifest:
    return store.rollback(folder, name, version, precision="f32", has_bf16=lambda: False, trial=lambda _: None)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def report(folder: Path, text: str) -> None:
    """Write the files of an evaluation of the current model."""
    version = read_manifest(folder / "m.json").version
    for name, content in (("m.html", text), ("m.metrics.json", json.dumps({"version": version}))):
        (folder / ".part").write_text(content)
        (folder / ".part").replace(folder / name)


def test_load_returns_the_published_model(tmp_path: Path) -> None:
    publish(tmp_path, "old")
    assert served(tmp_path) == (b"old m.xml", b"old m.bin")
    publish(tmp_path, "new")
    assert served(tmp_path) == (b"new m.xml", b"new m.bin")
    assert names(tmp_path) == sorted([*FILES, "m.json", ".m.earlier"])
    assert load_verified(tmp_path, "m").manifest.version == load_verified(tmp_path, "m").manifest.files["m.h5"][:12]


@pytest.mark.parametrize("name", FILES)
def test_load_rejects_a_file_with_another_sha256(tmp_path: Path, name: str) -> None:
    publish(tmp_path, "old")
    (tmp_path / name).write_text("other")
    with pytest.raises(ModelError, match=f"{name} does not match the SHA-256 in its manifest"):
        load_verified(tmp_path, "m")
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=f"{name} cannot be read"):
        load_verified(tmp_path, "m")


@pytest.mark.parametrize("name", ["m.json", *FILES])
def test_load_reads_no_device(tmp_path: Path, name: str) -> None:
    publish(tmp_path, "old")
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/null")  # /dev/zero has no end
    with pytest.raises(ModelError, match=rf"{name} cannot be read\W+is no regular file"):
        load_verified(tmp_path, "m")


def test_the_error_of_a_lock_that_cannot_be_written_names_its_path_as_text(tmp_path: Path) -> None:
    (tmp_path / ".m.lock").mkdir()
    with pytest.raises(IsADirectoryError) as caught, store.exclusive_lock(tmp_path, "m"):
        pass
    assert caught.value.filename == str(tmp_path / ".m.lock")


def test_each_precision_loads_its_own_network_files(tmp_path: Path) -> None:
    publish(tmp_path, "old", "int8")
    for requested, precision, stem in (("auto", "int8", "m.int8"), ("int8", "int8", "m.int8"), ("f32", "f32", "m")):
        loaded = load_verified(tmp_path, "m", requested)  # type: ignore[arg-type]
        assert (loaded.precision, loaded.xml) == (precision, f"old {stem}.xml".encode())
        assert loaded.weights == f"old {stem}.bin".encode()


@pytest.mark.parametrize("name", INT8_FILES)
def test_load_rejects_an_int8_file_with_another_sha256(tmp_path: Path, name: str) -> None:
    publish(tmp_path, "old", "int8")
    (tmp_path / name).write_text("other")
    for requested in ("auto", "int8", "f32"):
        with pytest.raises(ModelError, match=f"{name} does not match the SHA-256 in its manifest"):
            load_verified(tmp_path, "m", requested)


def test_publishing_without_int8_removes_the_older_int8_files(tmp_path: Path) -> None:
    publish(tmp_path, "old", "int8")
    publish(tmp_path, "new")
    assert names(tmp_path) == sorted([*FILES, "m.json", ".m.earlier"])
    with pytest.raises(ModelError, match="model m has no int8 network: ask for auto, bf16 or f32"):
        load_verified(tmp_path, "m", "int8")


def test_bf16_is_loaded_only_where_the_processor_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, "old", "bf16")
    monkeypatch.setattr(engine, "has_bf16", lambda: True)
    assert load_verified(tmp_path, "m").precision == load_verified(tmp_path, "m", "bf16").precision == "bf16"
    monkeypatch.setattr(engine, "has_bf16", lambda: False)
    assert load_verified(tmp_path, "m").precision == "f32"
    with pytest.raises(ModelError, match="this processor does not compute in bf16: ask for auto or f32"):
        load_verified(tmp_path, "m", "bf16")


def test_a_manifest_without_precision_loads_in_float32(tmp_path: Path) -> None:
    publish(tmp_path, "old")
    path = tmp_path / "m.json"
    fields = json.loads(path.read_text())
    del fields["precision"], fields["fidelity"]
    path.write_text(json.dumps(fields | {"canary_score": 0.25}))
    loaded = load_verified(tmp_path, "m")
    assert loaded.precision == "f32"
    assert loaded.manifest.expected_canary_score("f32") == loaded.manifest.expected_canary_score("bf16") == 0.25


class Killed(BaseException):
    """Simulates `kill -9`: nothing after it has an effect, not even clean-up."""


def is_killed_after(steps: int, work: Callable[[], object]) -> bool:
    """Run `work`, killed after so many changes of the disk; whether it was killed."""
    left = steps

    def counting(real: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **options: object) -> object:
            nonlocal left
            if left <= 0:
                raise Killed
            left -= 1
            return real(*arguments, **options)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for method in ("replace", "rename", "rmdir", "unlink", "write_text", "hardlink_to"):
            patch.setattr(Path, method, counting(getattr(Path, method)))
        patch.setattr(atomic_files, "sync_file", counting(atomic_files.sync_file))
        patch.setattr(shutil, "rmtree", counting(shutil.rmtree))
        try:
            work()
        except Killed:
            return True
    return False


OPERATIONS: dict[str, tuple[str, int, Callable[[Path], object]]] = {  # content afterwards, versions deleted
    "publishing": ("new", 1, lambda folder: publish(folder, "new")),
    "rolling back": ("oldest", 0, lambda folder: roll_back(folder, "m", earlier_versions(folder)[-1])),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_interruption_at_any_step_leaves_a_complete_model_and_complete_earlier_versions(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes, (after, deleted, operation) = [], OPERATIONS[name]
    monkeypatch.setattr(atomic_files, "sync_file", lambda _: None)  # called hundreds of times
    for content in ("dropped", "oldest", "older", "newer", "now"):
        publish(tmp_path / "all", content, "int8" if content == "newer" else "f32")
        if content == "oldest":
            report(tmp_path / "all", "the oldest one's")
    for steps in itertools.count():
        folder = tmp_path / str(steps)
        shutil.copytree(tmp_path / "all", folder, copy_function=os.link)
        before = {load_verified(folder, "m").manifest.version, *earlier_versions(folder)}
        killed = is_killed_after(steps, lambda folder=folder: operation(folder))  # type: ignore[misc]
        outcomes.append(current_content(folder))
        version = load_verified(folder, "m").manifest.version
        assert version not in earlier_versions(folder)
        assert len(before - {version, *earlier_versions(folder)}) <= deleted
        for other in earlier_versions(folder)[: versions.KEPT]:
            assert roll_back(folder, "m", other) == load_verified(folder, "m").manifest
            assert load_verified(folder, "m").manifest.version == other
        publish(folder, "next")
        assert current_content(folder) == "next"
        assert names(folder) == sorted([*FILES, "m.json", "m.html", "m.metrics.json", ".m.earlier"])
        assert len(list((folder / ".m.earlier").iterdir())) == versions.KEPT
        if not killed:
            break
    commit = outcomes.index(after)
    assert 10 < commit < len(outcomes) - 5
    assert outcomes == ["now"] * commit + [after] * (len(outcomes) - commit)


def test_the_most_recent_earlier_versions_are_kept_newest_first(tmp_path: Path) -> None:
    published = []
    for content in "abcde":
        publish(tmp_path, content)
        published.append(load_verified(tmp_path, "m").manifest.version)
    assert (
        earlier_versions(tmp_path) == published[-2::-1][: versions.KEPT] == [published[3], published[2], published[1]]
    )


def test_rollback_restores_all_files_and_archives_the_replaced_version(tmp_path: Path) -> None:
    publish(tmp_path, "old", "int8")
    old = load_verified(tmp_path, "m").manifest
    store.attach_detectors(tmp_path, "m", lambda path: path.write_text("what is usual"))
    report(tmp_path, "the old one's")
    publish(tmp_path, "new")
    new = load_verified(tmp_path, "m").manifest
    assert store.report_page(tmp_path, new) is None  # the page is of the old version
    report(tmp_path, "the new one's")

    assert roll_back(tmp_path, "m").version == old.version
    loaded = load_verified(tmp_path, "m")
    assert (loaded.xml, loaded.precision, loaded.novelty) == (b"old m.int8.xml", "int8", b"what is usual")
    assert store.report_page(tmp_path, loaded.manifest) == tmp_path / "m.html"
    assert (tmp_path / "m.html").read_text() == "the old one's"
    assert list(versions.earlier_versions(tmp_path, "m").values()) == [new]

    assert roll_back(tmp_path, "m") == new
    assert load_verified(tmp_path, "m").novelty is None
    assert (tmp_path / "m.html").read_text() == "the new one's"
    assert names(tmp_path) == sorted([*FILES, "m.json", "m.html", "m.metrics.json", ".m.earlier"])
    assert earlier_versions(tmp_path) == [old.version]


def test_detectors_are_not_attached_to_another_network_than_computed_their_features(tmp_path: Path) -> None:
    publish(tmp_path, "first")
    version = load_verified(tmp_path, "m").manifest.version
    publish(tmp_path, "second")
    with pytest.raises(ModelError, match="m was replaced meanwhile by another version: try again"):
        store.attach_detectors(tmp_path, "m", Path.touch, version=version)
    assert load_verified(tmp_path, "m").novelty is None


def test_an_adapted_model_is_a_new_version_with_the_same_network_and_report(tmp_path: Path) -> None:
    publish(tmp_path, "network")
    store.attach_detectors(tmp_path, "m", lambda path: path.write_text("the training images"))
    report(tmp_path, "the network's")
    before = load_verified(tmp_path, "m").manifest
    adapted = store.attach_detectors(
        tmp_path, "m", lambda path: path.write_text("the survey"), ordinary={"source": "survey", "images": 3}
    )
    assert adapted.version != before.version
    assert adapted.files["m.bin"] == before.files["m.bin"]
    assert store.report_page(tmp_path, adapted) == tmp_path / "m.html"
    assert earlier_versions(tmp_path) == [before.version]
    assert roll_back(tmp_path, "m") == before
    assert load_verified(tmp_path, "m").novelty == b"the training images"
    assert earlier_versions(tmp_path) == [adapted.version]
    assert roll_back(tmp_path, "m") == adapted
    assert load_verified(tmp_path, "m").novelty == b"the survey"
    assert store.report_page(tmp_path, adapted) == tmp_path / "m.html"


def test_rollback_keeps_the_report_of_the_restored_version(tmp_path: Path) -> None:
    publish(tmp_path, "old")
    report(tmp_path, "the old one's")
    publish(tmp_path, "new")
    roll_back(tmp_path, "m")
    assert (tmp_path / "m.html").read_text() == "the old one's"
    assert names(tmp_path) == sorted([*FILES, "m.json", "m.html", "m.metrics.json", ".m.earlier"])


def test_earlier_versions_are_hard_links(tmp_path: Path) -> None:
    publish(tmp_path, "old")
    inode = (tmp_path / "m.h5").stat().st_ino
    publish(tmp_path, "new")
    [folder] = versions.version_folders(tmp_path, "m").values()
    assert (folder / "m.h5").stat().st_ino == inode
    roll_back(tmp_path, "m")
    assert (tmp_path / "m.h5").stat().st_ino == inode


def test_earlier_versions_are_copies_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refused)
    publish(tmp_path, "old")
    publish(tmp_path, "new")
    roll_back(tmp_path, "m")
    assert current_content(tmp_path) == "old"


def test_new_detectors_or_the_same_weights_make_no_new_version(tmp_path: Path) -> None:
    publish(tmp_path, "old")
    publish(tmp_path, "old")
    store.attach_detectors(tmp_path, "m", lambda path: path.write_text("what is usual"))
    assert earlier_versions(tmp_path) == []
    version = load_verified(tmp_path, "m").manifest.version
    assert roll_back(tmp_path, "m", version).version == version  # archived once only
    assert earlier_versions(tmp_path) == []


def test_rollback_to_an_unknown_or_damaged_version_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelUnknown, match=r"^no model m here$"):
        roll_back(tmp_path, "m")
    assert list(tmp_path.iterdir()) == []
    publish(tmp_path, "old")
    with pytest.raises(ModelUnknown, match="model m has no earlier version: publishing"):
        roll_back(tmp_path, "m")
    publish(tmp_path, "new")
    with pytest.raises(ModelUnknown, match=r"no earlier version \.\./x: it has [0-9a-f]{12}$"):
        roll_back(tmp_path, "m", "../x")
    [folder] = versions.version_folders(tmp_path, "m").values()
    (folder / "m.bin").write_text("torn")
    with pytest.raises(ModelError, match=r"m\.bin does not match the SHA-256 in its manifest"):
        roll_back(tmp_path, "m")
    assert current_content(tmp_path) == "new"


def test_rollback_from_a_damaged_model_does_not_archive_it(tmp_path: Path) -> None:
    publish(tmp_path, "old")
    publish(tmp_path, "new")
    (tmp_path / "m.json").write_text("{}")
    roll_back(tmp_path, "m")
    assert current_content(tmp_path) == "old"
    assert earlier_versions(tmp_path) == []


def test_the_error_for_a_missing_model_names_the_training_command(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"python train_model\.py makes one"):
        load_verified(tmp_path, "m")


def test_a_publication_that_was_killed_is_completed_before_models_are_listed(tmp_path: Path) -> None:
    publish(tmp_path, "new")
    damaged = tmp_path / ".damaged.ready"
    damaged.mkdir()
    ready = tmp_path / ".m.ready"
    ready.mkdir()
    for name in ("m.xml", "m.json"):
        (tmp_path / name).rename(ready / name)
    mirror.pull_all(tmp_path)
    assert [manifest.name for manifest in list_manifests(tmp_path)] == ["m"]
    assert current_content(tmp_path) == "new"
    assert damaged.exists()
    assert not ready.exists()


def test_a_move_that_is_overtaken_leaves_the_files_of_the_next_publication(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store, "finish_interrupted", lambda *_: None)
        publish(tmp_path, "old")  # without int8
    next_one = threading.Thread(target=publish, args=(tmp_path, "new", "int8"))

    def parse_slowly(content: bytes, name: str) -> Manifest:
        if next_one.ident is None:
            next_one.start()
            next_one.join(0.2)  # it ends within that time, or waits for this move
        return parse_manifest(content, name)

    monkeypatch.setattr(publication, "parse_manifest", parse_slowly)
    publication.finish_interrupted(tmp_path, "m")
    next_one.join()
    assert served(tmp_path) == (b"new m.int8.xml", b"new m.int8.bin")


def test_a_damaged_commit_is_named_and_not_moved_into_place(tmp_path: Path) -> None:
    publish(tmp_path, "old")
    (tmp_path / ".m.ready").mkdir()
    (tmp_path / ".m.ready" / "m.json").write_text("{")
    with pytest.raises(ModelError, match=r"m\.json cannot be read"):
        load_verified(tmp_path, "m")
    assert (tmp_path / "m.xml").read_text() == "old m.xml"
