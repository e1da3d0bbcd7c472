"""A model on disk is whole and true, or it is not loaded."""

import json
from pathlib import Path

import numpy as np
import pytest

from astrodetect import bundle
from astrodetect.bundle import Manifest
from astrodetect.errors import ModelError, ModelMissing
from astrodetect.records import ImageContract

FILES = ("m.h5", "m.xml", "m.bin")


def manifest() -> Manifest:
    return Manifest(
        name="m", classes=["SB", "E"], image=ImageContract(64), metrics={}, data={}, settings={}, versions={}
    )


def publish(folder: Path, word: str) -> None:
    with bundle.staging(folder, "m") as staged:
        for name in FILES:
            (staged / name).write_text(f"{word} {name}")
        bundle.publish(staged, folder, manifest())


def served(folder: Path) -> tuple[bytes, bytes]:
    loaded = bundle.load(folder, "m")
    return loaded.xml, loaded.weights


def test_what_is_published_is_loaded(tmp_path: Path) -> None:
    publish(tmp_path, "old")
    assert served(tmp_path) == (b"old m.xml", b"old m.bin")
    publish(tmp_path, "new")
    assert served(tmp_path) == (b"new m.xml", b"new m.bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "m.json"])
    assert bundle.load(tmp_path, "m").manifest.version == bundle.load(tmp_path, "m").manifest.files["m.h5"][:12]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_the_vouched_one_is_refused(tmp_path: Path, name: str) -> None:
    publish(tmp_path, "old")
    (tmp_path / name).write_text("other")
    with pytest.raises(ModelError, match=f"{name} is not the file that its manifest vouches for"):
        bundle.load(tmp_path, "m")
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=f"{name} cannot be read"):
        bundle.load(tmp_path, "m")


class Killed(BaseException):
    """As `kill -9` would: nothing after it runs, not even a cleaning up."""


@pytest.mark.parametrize("moment", range(12))
def test_wherever_publishing_is_cut_short_the_old_or_the_new_model_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    publish(tmp_path, "old")
    left = moment

    def dying(real: object) -> object:
        def step(*arguments: object, **options: object) -> object:
            nonlocal left
            if left == 0:
                monkeypatch.undo()
                raise Killed
            left -= 1
            return real(*arguments, **options)  # type: ignore[operator]

        return step

    for method in ("replace", "rename", "rmdir", "write_text"):
        monkeypatch.setattr(Path, method, dying(getattr(Path, method)))
    monkeypatch.setattr(bundle, "flush", dying(bundle.flush))
    staged = tmp_path / ".m.staging"
    staged.mkdir()
    for name in FILES:
        (staged / name).write_bytes(f"new {name}".encode())
    try:
        bundle.publish(staged, tmp_path, manifest())
    except Killed:
        killed = True
    else:
        killed = False
    monkeypatch.undo()
    assert killed == (moment < 11)
    word = "old" if moment <= 5 else "new"  # the sixth step is the rename that counts
    assert served(tmp_path) == (f"{word} m.xml".encode(), f"{word} m.bin".encode())
    publish(tmp_path, "next")
    assert served(tmp_path) == (b"next m.xml", b"next m.bin")


def test_no_model_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"python train_model\.py makes one"):
        bundle.load(tmp_path, "m")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"files": {"../m.h5": "0"}},
        {"files": {}},
        {"name": "other"},
        {"classes": ["E"]},
        {"image": {"size": 64, "stretch": "asinh"}},
        {"image": {"size": 64, "pixels": 3}},
        {"surprise": 1},
        {"files": ["m.h5"]},
        {"metrics": "good"},
        {"created": None},
    ],
)
def test_a_manifest_of_another_kind_is_refused_in_one_line(tmp_path: Path, change: dict[str, object]) -> None:
    publish(tmp_path, "old")
    path = tmp_path / "m.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError) as refused:
        bundle.load(tmp_path, "m")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\udcff"])
def test_a_damaged_manifest_is_refused_and_not_listed(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ModelError):
        bundle.load(tmp_path, "m")
    assert list(bundle.manifests(tmp_path)) == []


def test_the_canary_is_the_same_for_ever() -> None:
    image = bundle.canary(8)
    assert image.shape == (8, 8, 3)
    assert np.array_equal(image, bundle.canary(8))
    assert image.sum() == 12494
