"""A model on disk is whole and true, or it is not loaded."""

import json
from pathlib import Path

import numpy as np
import pytest

from astrodetect import bundle, inference
from astrodetect.bundle import Manifest, Precision
from astrodetect.errors import ModelError, ModelMissing
from astrodetect.records import ImageContract

FILES = ("m.h5", "m.xml", "m.bin")
INT8_FILES = ("m.int8.xml", "m.int8.bin")


def manifest(precision: Precision = "f32") -> Manifest:
    return Manifest(
        name="m",
        classes=["SB", "E"],
        image=ImageContract(64),
        metrics={},
        data={},
        settings={},
        versions={},
        precision=precision,
    )


def publish(folder: Path, word: str, precision: Precision = "f32") -> None:
    with bundle.staging(folder, "m") as staged:
        for name in (*FILES, *(INT8_FILES if precision == "int8" else ())):
            (staged / name).write_text(f"{word} {name}")
        bundle.publish(staged, folder, manifest(precision))


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


def test_each_precision_loads_its_own_network(tmp_path: Path) -> None:
    publish(tmp_path, "old", "int8")
    for asked, precision, stem in (("auto", "int8", "m.int8"), ("int8", "int8", "m.int8"), ("f32", "f32", "m")):
        loaded = bundle.load(tmp_path, "m", asked)  # type: ignore[arg-type]
        assert (loaded.precision, loaded.xml) == (precision, f"old {stem}.xml".encode())
        assert loaded.weights == f"old {stem}.bin".encode()


@pytest.mark.parametrize("name", INT8_FILES)
def test_an_int8_file_that_is_not_the_vouched_one_is_refused(tmp_path: Path, name: str) -> None:
    publish(tmp_path, "old", "int8")
    (tmp_path / name).write_text("other")
    for asked in ("auto", "int8", "f32"):
        with pytest.raises(ModelError, match=f"{name} is not the file that its manifest vouches for"):
            bundle.load(tmp_path, "m", asked)


def test_a_new_model_without_int8_takes_the_older_ones_away(tmp_path: Path) -> None:
    publish(tmp_path, "old", "int8")
    publish(tmp_path, "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "m.json"])
    with pytest.raises(ModelError, match="model m has no int8 network: ask for auto, bf16 or f32"):
        bundle.load(tmp_path, "m", "int8")


def test_bf16_serves_where_the_processor_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, "old", "bf16")
    monkeypatch.setattr(inference, "has_bf16", lambda: True)
    assert bundle.load(tmp_path, "m").precision == bundle.load(tmp_path, "m", "bf16").precision == "bf16"
    monkeypatch.setattr(inference, "has_bf16", lambda: False)
    assert bundle.load(tmp_path, "m").precision == "f32"
    with pytest.raises(ModelError, match="this processor does not compute in bf16: ask for auto or f32"):
        bundle.load(tmp_path, "m", "bf16")


def test_a_manifest_from_before_low_precision_serves_in_float32(tmp_path: Path) -> None:
    publish(tmp_path, "old")
    path = tmp_path / "m.json"
    fields = json.loads(path.read_text())
    del fields["precision"], fields["fidelity"]
    path.write_text(json.dumps(fields | {"canary_score": 0.25}))
    loaded = bundle.load(tmp_path, "m")
    assert loaded.precision == "f32"
    assert loaded.manifest.canary_of("f32") == loaded.manifest.canary_of("bf16") == 0.25


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
        {"precision": "f8"},
        {"fidelity": {"int8": {"kept": True}}},
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
