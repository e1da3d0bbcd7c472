"""The engine uses as many threads as a container's quota pays for, and runs no network that its manifest misstates."""

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import colour_models
import numpy as np
import pytest
from programs import ROOT

from astrodetect.errors import ModelError
from astrodetect.inference.engine import Engine, available_cores, load_verified, openvino, save_network

PROCESSORS = 8
REPLACED_MODEL = """
import signal, sys
from pathlib import Path
from astrodetect.inference.engine import Engine, load_verified

for _ in range(2):
    engine = Engine(load_verified(Path(sys.argv[1]), "colours"))
del engine
signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000\n", 8), ("250000 100000\n", 3), ("50000 100000\n", 1), ("9900000 100000\n", 8), ("", 8)],
)
def test_threads_follow_the_quota_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(PROCESSORS)), raising=False)
    (tmp_path / "cpu.max").write_text(quota)
    assert available_cores(tmp_path / "cpu.max") == cores
    assert available_cores(tmp_path / "missing") == PROCESSORS


def test_a_manifest_with_other_classes_than_the_network_has_outputs_is_refused(tmp_path: Path) -> None:
    colour_models.publish(tmp_path, "colours")
    loaded = load_verified(tmp_path, "colours")
    for classes in (["E", "SB"], ["E", "SB", "S", "A"]):
        other = replace(loaded, manifest=replace(loaded.manifest, classes=classes))
        with pytest.raises(ModelError, match="its network has 3 outputs, its manifest the classes E, SB"):
            Engine(other)
    smaller = replace(loaded.manifest, image=replace(loaded.manifest.image, size=12))
    with pytest.raises(ModelError, match="takes images of another size than 12 pixels"):
        Engine(replace(loaded, manifest=smaller))


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    colour_models.publish(tmp_path, "colours", scale=0.0173)
    loaded = load_verified(tmp_path, "colours")
    weights = loaded.weights.replace(np.float32(0.0173).tobytes(), np.float32(np.nan).tobytes())
    assert weights != loaded.weights
    with pytest.raises(ModelError, match=r"scores its canary nan in f32, not 0\.\d+: train it again"):
        Engine(replace(loaded, weights=weights))


def test_a_score_that_is_no_number_is_an_error_of_the_model(tmp_path: Path) -> None:
    colour_models.publish(tmp_path, "colours", scale=2e36)  # of white images alone it overflows
    engine = Engine(load_verified(tmp_path, "colours"))
    images = np.full((2, colour_models.SIZE, colour_models.SIZE, 3), [[[[100]]], [[[255]]]], np.uint8)
    assert np.isfinite(engine.run(images[:1]).probabilities).all()
    with pytest.raises(ModelError, match="model colours: its network gives a score that is no number"):
        engine.run(images)


def test_a_process_that_replaces_its_model_can_be_interrupted(tmp_path: Path) -> None:
    colour_models.publish(tmp_path, "colours")
    command = [sys.executable, "-c", REPLACED_MODEL, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == -signal.SIGINT, result.stderr  # of KeyboardInterrupt


def test_a_damaged_network_whose_manifest_vouches_for_it_is_refused_in_one_line(tmp_path: Path) -> None:
    colour_models.publish(tmp_path, "colours")
    loaded = load_verified(tmp_path, "colours")
    rng, refused = random.Random(0), list[str]()
    for _ in range(24):
        damaged = bytearray(loaded.xml)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        try:
            Engine(replace(loaded, xml=bytes(damaged)))
        except ModelError as error:
            refused.append(str(error))
    assert len(refused) > 8
    assert not any("\n" in message for message in refused)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is a full disk")
def test_a_full_disk_while_a_network_is_written_is_one_line(tmp_path: Path) -> None:
    pixels = openvino.opset13.parameter([1], np.float32)
    (tmp_path / "x.bin").symlink_to("/dev/full")
    (tmp_path / "x.xml").symlink_to("/dev/full")
    with pytest.raises(ModelError, match=r"cannot write .*x\.xml, is the disk full\? .*iostream error$"):
        save_network(openvino.Model([pixels], [pixels], "x"), tmp_path / "x.xml")
