"""A manifest is checked field by field when it is read, and warns of what its model cannot do."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from published_models import FILES, manifest, publish

from astrodetect.errors import ModelError
from astrodetect.inference.engine import load_verified
from astrodetect.model_store import store
from astrodetect.model_store.manifest import canary, list_manifests, read_manifest


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
        {"classes": ["E", "E"]},
        {"threshold": float("nan")},
        {"threshold": 1.5},
        {"views": 0},
        {"views": 10**6},
        {"balance": {"E": float("nan")}},
        {"image": {"size": 10**6}},
        {"files": {"m.bin": "0", "other.json": "0"}},
        {"better_than_chance": False},
        {"simulated": True, "data": {"test": 1}},
        {"created": "\ud800"},
        {"fidelity": {"a\nb": 1}},
    ],
)
def test_an_invalid_manifest_is_rejected_in_one_line(tmp_path: Path, change: dict[str, object]) -> None:
    publish(tmp_path, "old")
    path = tmp_path / "m.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError) as refused:
        load_verified(tmp_path, "m")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\udcff", pytest.param("[" * 100_000, id="deep")])
def test_a_damaged_manifest_is_rejected_and_not_listed(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ModelError):
        load_verified(tmp_path, "m")
    assert list(list_manifests(tmp_path)) == []


def test_the_canary_image_never_changes() -> None:
    image = canary(8)
    assert image.shape == (8, 8, 3)
    assert np.array_equal(image, canary(8))
    assert image.sum() == 12494


def test_a_model_no_better_than_chance_has_a_warning_in_its_manifest(tmp_path: Path) -> None:
    data = {"test": {"images": {"SB": 30, "E": 30}}}
    good, bad = (replace(manifest(), data=data).with_metrics({"test": {"auc": auc}}) for auc in (0.7, 0.6))
    assert (good.better_than_chance, good.warnings, good.metrics) == (True, [], {"test": {"auc": 0.7}})
    assert bad.warnings == ["No better than chance on its test images: AUC 0.600"]
    with store.staging(tmp_path, "m") as staged:
        for name in FILES:
            (staged / name).write_text(name)
        store.publish(staged, tmp_path, bad)
    assert read_manifest(tmp_path / "m.json").warnings == bad.warnings
    assert manifest().with_metrics({}).warnings == []
