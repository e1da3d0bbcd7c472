"""Models on an object store: published whole, copied and verified, noticed by others, rolled back."""

import json
import shutil
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from s3_server import FaultProxy, S3Server, cut_body, slow_down

from astrodetect.errors import ModelError, ModelMissing, StorageUnavailable
from astrodetect.model_store import mirror, store, versions
from astrodetect.model_store.manifest import Manifest, list_manifests
from astrodetect.model_store.publication import NETWORK
from astrodetect.records import ImageContract
from astrodetect.settings import MIRRORS, Settings
from astrodetect.storage import clients, objects

NAME = "model"


def mirror_folder(tmp_path: Path, machine: str, bucket: str) -> Path:
    """The copy on a machine of the models in a bucket."""
    return tmp_path / machine / MIRRORS / quote(f"{bucket}/models", safe="")


@pytest.fixture
def here(tmp_path: Path, bucket: str) -> Path:
    """The copy on this machine."""
    return mirror_folder(tmp_path, "here", bucket)


@pytest.fixture
def there(tmp_path: Path, bucket: str) -> Path:
    """The copy on another machine."""
    return mirror_folder(tmp_path, "there", bucket)


def publish(folder: Path, content: str) -> Manifest:
    """Publish a model whose files say `content`."""
    new = Manifest(
        name=NAME, classes=["a", "b"], image=ImageContract(size=24), metrics={}, data={}, settings={}, versions={}
    )
    with store.staging(folder, NAME) as staged:
        for suffix in NETWORK:
            (staged / f"{NAME}{suffix}").write_text(f"{content} {suffix}" * 1000)
        return store.publish(staged, folder, new)


def content(folder: Path) -> str:
    """What the loaded model's weights say."""
    return store.load(folder, NAME, has_bf16=lambda: False).weights.decode().split()[0]


def roll_back(folder: Path, version: str | None = None) -> Manifest:
    """Roll back without a trial."""
    return store.rollback(folder, NAME, version, precision="f32", has_bf16=lambda: False, trial=lambda _: None)


def test_the_folder_of_a_url_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASTRODETECT_MODELS_DIR", "s3://sky/models/")
    folder = Settings().models_dir
    assert folder.parent == tmp_path / "data" / MIRRORS
    assert mirror.remote_url(folder) == "s3://sky/models"
    assert mirror.remote_url(tmp_path / MIRRORS / "models") is None
    assert Settings().as_environment()["ASTRODETECT_MODELS_DIR"] == "s3://sky/models"
    monkeypatch.setenv("ASTRODETECT_MODELS_DIR", "https://sky.org/models")
    with pytest.raises(ValueError, match="models are stored in a folder, or on an object store"):
        Settings()


def test_a_model_published_on_one_machine_is_loaded_on_another(here: Path, there: Path) -> None:
    with pytest.raises(ModelMissing):
        content(there)
    first = publish(here, "first")
    assert content(there) == content(here) == "first"
    publish(here, "second")
    assert content(there) == "second"
    assert [*versions.version_folders(there, NAME)] == [first.version]


def test_an_unchanged_model_is_not_copied_again(here: Path, there: Path, s3: S3Server) -> None:
    publish(here, "first")
    content(there)
    s3.requests.clear()
    content(there)
    assert [request.split()[0] for request in s3.requests] == ["HEAD"]


def test_rollback_on_another_machine_is_noticed_by_all(here: Path, there: Path) -> None:
    first = publish(here, "first")
    publish(here, "second")
    mirror.pull_all(there)
    assert roll_back(there).version == first.version
    assert content(here) == content(there) == "first"
    assert roll_back(here, versions_of(here)[0]).version != first.version
    assert content(there) == "second"


def versions_of(folder: Path) -> list[str]:
    """The earlier versions that a machine knows, the most recent first."""
    mirror.pull(folder, NAME)
    return [*versions.version_folders(folder, NAME)]


def test_only_the_most_recent_earlier_versions_and_their_files_are_left(here: Path, there: Path, bucket: str) -> None:
    published = [publish(here, f"number-{number}") for number in range(versions.KEPT + 3)]
    kept = [manifest.version for manifest in reversed(published[-versions.KEPT - 1 :])]
    assert versions_of(there) == kept[1:]
    files = {*objects.list_names(f"{bucket}/models/{NAME}/files")}
    assert files == {
        f"{sha256}/{file}" for manifest in published[-versions.KEPT - 1 :] for file, sha256 in manifest.files.items()
    }


def test_detectors_are_attached_to_the_version_that_is_in_place_only(
    here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(here, "first")
    attached = store.attach_detectors(there, NAME, lambda path: path.write_text("detectors"))
    assert store.load(here, NAME, has_bf16=lambda: False).novelty == b"detectors"

    def write_while_another_publishes(path: Path) -> None:
        path.write_text("other detectors")
        publish(here, "second")

    with pytest.raises(ModelError, match="was published by another process meanwhile: run the same command again"):
        store.attach_detectors(there, NAME, write_while_another_publishes)
    assert content(there) == content(here) == "second"
    assert attached.version in versions_of(there)


def test_concurrent_publishers_never_mix_their_files(here: Path, there: Path, tmp_path: Path, bucket: str) -> None:
    folders = [mirror_folder(tmp_path, f"machine-{number}", bucket) for number in range(4)]
    threads = [threading.Thread(target=publish, args=(folder, folder.parts[-3])) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = content(here)
    assert winner in {folder.parts[-3] for folder in folders}
    assert {content(folder) for folder in [*folders, there]} == {winner}


def test_a_publisher_killed_at_any_request_leaves_the_former_model_or_the_new_one(
    here: Path, there: Path, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(here, "first")
    monkeypatch.setattr(clients, "MAX_RETRIES", 1)
    s3.requests.clear()
    publish(here, "second")
    requests = len(s3.requests)
    for step in range(requests):
        publish(here, "first")
        folder = mirror_folder(tmp_path, f"killed-{step}", str(mirror.remote_url(here)).removesuffix("/models"))
        shutil.copytree(here, folder)
        s3.faults += [*[_pass] * step, *[_killed] * 50]
        with suppress(StorageUnavailable, ModelError):  # published already where old versions are being deleted
            publish(folder, f"new-{step}")
        s3.faults.clear()
        assert content(there) in {"first", f"new-{step}"}
        assert content(there) == content(here) == content(folder)


def test_a_version_that_is_replaced_at_once_stays_an_earlier_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(here, "first")
    prune, list_names, earlier = mirror._prune, objects.list_names, list[str]()

    def prune_beside_another(url: str, manifest: Manifest) -> None:
        mirror._archive(url, NAME, "of another publisher")  # which is about to put its manifest, and deletes others
        with monkeypatch.context() as patch:
            patch.setattr(objects, "list_names", lambda folder: ["0000.gone.json", *list_names(folder)])
            prune(url, manifest)
        earlier.extend(list_names(f"{url}/{NAME}/earlier"))

    monkeypatch.setattr(mirror, "_prune", prune_beside_another)
    second = publish(here, "second")
    assert earlier[-1] == f"0002.{second.version}.json"
    assert content(here) == "second"


def _pass(proxy: FaultProxy) -> bool:
    return False


def _killed(proxy: FaultProxy) -> bool:
    proxy.close_connection = True
    return True


def test_a_damaged_or_missing_file_is_refused_and_the_former_model_stays(here: Path, there: Path, bucket: str) -> None:
    publish(here, "first")
    assert content(there) == "first"
    second = publish(here, "second")
    key = f"{bucket}/models/{NAME}/files/{second.files[f'{NAME}.bin']}/{NAME}.bin"
    objects.write_bytes(key, b"damaged")
    with pytest.raises(ModelError, match=r"model\.bin does not match the SHA-256 in its manifest"):
        store.load(there, NAME, has_bf16=lambda: False)
    objects.delete(key)
    with pytest.raises(ModelError, match=r"model\.bin is missing"):
        store.load(there, NAME, has_bf16=lambda: False)
    assert json.loads((there / f"{NAME}.json").read_text())["files"] != second.files


def test_faults_while_copying_are_repeated(here: Path, there: Path, s3: S3Server) -> None:
    publish(here, "first")
    s3.faults += [slow_down, cut_body, slow_down, cut_body, slow_down]
    assert content(there) == "first"


def test_the_copy_is_used_while_the_object_store_does_not_answer(
    here: Path, there: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    publish(here, "first")
    content(there)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    clients.forget_servers()
    assert content(there) == "first"
    assert "model model may be out of date: s3://" in caplog.text
    with pytest.raises(StorageUnavailable, match="no connection to its server"):
        publish(there, "second")
    assert content(there) == "first"


def test_evaluations_are_copied_with_their_version(here: Path, there: Path) -> None:
    manifest = publish(here, "first")
    for suffix, text in zip(mirror.REPORT, ("page", json.dumps({"version": manifest.version})), strict=True):
        (here / f"{NAME}{suffix}").write_text(text)
    mirror.push_report(here, manifest)
    mirror.pull_all(there)
    page = store.report_page(there, manifest)
    assert page is not None
    assert page.read_text() == "page"
    assert [each.version for each in list_manifests(there)] == [manifest.version]
    publish(here, "second")
    roll_back(there)
    mirror.pull_all(there)
    assert store.report_page(there, replace(manifest)) is not None


def test_an_earlier_version_is_copied_after_an_interruption_before_its_manifest(
    here: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publish(here, "first")
    publish(here, "second")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("astrodetect.atomic_files.write_bytes", interrupt)
        with pytest.raises(KeyboardInterrupt):
            mirror.pull(there, NAME)
    assert roll_back(there).version == first.version
    assert content(there) == "first"
