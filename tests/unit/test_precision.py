"""Low precision: quantisation, measured fidelity, and which precision serves."""

import io
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

import train_model
from astrodetect.errors import ModelError
from astrodetect.inference import engine as engine_module
from astrodetect.inference.engine import Engine, load_verified, openvino
from astrodetect.learning import export, network
from astrodetect.model_store.manifest import Fidelity, Manifest, Precision
from astrodetect.model_store.store import VerifiedModel
from astrodetect.recipes import PixelStatistics
from astrodetect.records import ImageContract, Outputs

SIZE = 32
PRECISIONS: tuple[Precision, ...] = ("int8", "bf16", "f32") if engine_module.has_bf16() else ("int8", "f32")


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """Dark skies and bright ones in turn."""
    random = np.random.default_rng(0)
    return np.stack([random.integers(0, 130 + 60 * (i % 2), (SIZE, SIZE, 3), dtype=np.uint8) for i in range(24)])


@pytest.fixture(scope="module")
def model(pixels: NDArray[np.uint8]) -> keras.Model:
    """Tells dark from bright: a random network whose head was set by hand."""
    network.set_seed(1)
    built = network.build("resnet50", SIZE, PixelStatistics((80.0,) * 3, (2000.0,) * 3), 1)
    features = np.asarray(keras.Model(built.input, built.get_layer("features").output)(pixels, training=False))
    dark, bright = features[::2].mean(axis=0), features[1::2].mean(axis=0)
    kernel = 8 * (bright - dark) / np.square(bright - dark).sum()
    built.get_layer("score").set_weights([kernel[:, np.newaxis], np.array([-kernel @ (bright + dark) / 2])])
    return built


@pytest.fixture(scope="module")
def held_out(model: keras.Model, pixels: NDArray[np.uint8]) -> export.HeldOut:
    return export.HeldOut(pixels, np.arange(len(pixels)) % 2, export.TrainedNetwork(model).probabilities(pixels))


@pytest.fixture(scope="module")
def printed() -> dict[str, str]:
    """What publishing printed, by stream."""
    return {}


@pytest.fixture(scope="module")
def models_dir(
    model: keras.Model, held_out: export.HeldOut, printed: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """With a published model that has all three precisions."""
    models_dir = tmp_path_factory.mktemp("models")
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        export.export_model(
            export.TrainedNetwork(model), manifest(), models_dir, held_out, calibration_images=held_out.pixels[:8]
        )
    printed.update(out=out.getvalue(), err=err.getvalue())
    return models_dir


@pytest.fixture(scope="module")
def exact(models_dir: Path, held_out: export.HeldOut) -> Outputs:
    return Engine(load_verified(models_dir, "m", "f32")).run(held_out.pixels)


def manifest() -> Manifest:
    image = ImageContract(SIZE)
    return Manifest(name="m", classes=["SB", "E"], image=image, metrics={}, data={}, settings={}, versions={})


def biased(network: Any, _pixels: NDArray[np.uint8]) -> Any:
    """Stands in for a failed quantisation: adds a large bias to the logit."""
    head = next(node for node in network.get_ordered_ops() if node.get_type_name() == "Sigmoid")
    moved = openvino.opset13.add(head.input(0).get_source_output(), np.float32(20.0))
    head.input(0).replace_source_output(moved.output(0))
    return network


def test_int8_with_the_same_decisions_as_keras_serves(models_dir: Path, held_out: export.HeldOut) -> None:
    loaded = load_verified(models_dir, "m")
    assert loaded.precision == loaded.manifest.precision == "int8"
    served = Engine(loaded).run(held_out.pixels)
    assert np.array_equal(served.scores > 0.5, held_out.probabilities[:, 1] > 0.5)
    measured = loaded.manifest.fidelity["int8"]
    assert (measured.kept, measured.images, measured.same_decisions) == (True, len(held_out.pixels), 1.0)
    assert measured.largest_difference == pytest.approx(
        float(np.abs(served.scores - held_out.probabilities[:, 1]).max()), abs=1e-5
    )
    assert 0 < measured.mean_difference <= measured.largest_difference < 0.2
    assert export.MIN_R_SQUARED <= min(measured.features, measured.maps) < 1


def test_only_the_network_of_the_serving_precision_is_loaded(models_dir: Path) -> None:
    for precision in PRECISIONS:
        stem = "m.int8" if precision == "int8" else "m"
        loaded = load_verified(models_dir, "m", precision)
        assert loaded.xml == (models_dir / f"{stem}.xml").read_bytes()
        assert loaded.weights == (models_dir / f"{stem}.bin").read_bytes()
    assert len(load_verified(models_dir, "m").weights) < len(load_verified(models_dir, "m", "f32").weights) / 3.5


@pytest.mark.parametrize("precision", PRECISIONS)
def test_batch_composition_does_not_change_outputs_in_any_precision(
    models_dir: Path, held_out: export.HeldOut, precision: Precision
) -> None:
    engine = Engine(load_verified(models_dir, "m", precision))
    alone = [engine.run(held_out.pixels[[i]]) for i in range(12)]
    for count in range(2, 9):
        for first in range(0, 12 - count + 1):
            together = engine.run(held_out.pixels[first : first + count])
            for place in range(count):
                assert abs(together.scores[place] - alone[first + place].scores[0]) <= 1e-5
                assert np.abs(together.features[place] - alone[first + place].features[0]).max() <= 1e-4


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_stay_the_same_where_no_file_can_hold_them(
    models_dir: Path, held_out: export.HeldOut, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk = Engine(load_verified(models_dir, "m", precision), keep_weights=False)
    monkeypatch.setattr(tempfile, "TemporaryFile", Mock(side_effect=OSError("no space left")))
    in_memory = Engine(load_verified(models_dir, "m", precision), keep_weights=False)
    for count in (1, 5, 8):
        from_disk, from_memory = (engine.run_batch(held_out.pixels[:count]) for engine in (on_disk, in_memory))
        assert np.array_equal(from_disk.probabilities, from_memory.probabilities)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_concurrent_callers_get_their_own_outputs(
    models_dir: Path, held_out: export.HeldOut, precision: Precision
) -> None:
    engine = Engine(load_verified(models_dir, "m", precision))
    parts = [held_out.pixels[i : i + 1 + i % 5] for i in range(16)] * 2
    with ThreadPoolExecutor(2 * engine.streams) as pool:
        results = list(pool.map(engine.run, parts))
    for part, outputs in zip(parts, results, strict=True):
        expected = engine.run(part)
        assert np.abs(outputs.scores - expected.scores).max() <= 1e-5
        assert np.abs(outputs.maps - expected.maps).max() <= 1e-4


@pytest.mark.parametrize(("has_bf16", "serves"), [(True, "bf16"), (False, "f32")])
def test_int8_with_other_decisions_is_refused_and_the_next_precision_serves(
    models_dir: Path,
    held_out: export.HeldOut,
    exact: Outputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    has_bf16: bool,
    serves: Precision,
) -> None:
    monkeypatch.setattr(export, "to_int8", biased)
    monkeypatch.setattr(export, "has_bf16", lambda: has_bf16)
    for file in ("m.xml", "m.bin"):
        shutil.copy(models_dir / file, tmp_path)
    chosen = export.choose_precision(manifest(), tmp_path / "m.xml", exact, held_out, held_out.pixels[:2])
    refused = chosen.fidelity["int8"]
    assert (refused.kept, refused.same_decisions) == (False, 0.5)
    assert chosen.precision == serves
    assert sorted(chosen.fidelity) == sorted({"int8", serves} - {"f32"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.bin", "m.xml"]


def test_low_precision_must_keep_decisions_auc_and_explanations(
    models_dir: Path, held_out: export.HeldOut, exact: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = load_verified(models_dir, "m", "int8")
    assert export.measure_fidelity(low, exact, held_out).kept
    for limit, value in (("MIN_SAME_DECISIONS", 1.01), ("MAX_AUC_CHANGE", -1.0), ("MIN_R_SQUARED", 1.01)):
        with monkeypatch.context() as patch:
            patch.setattr(export, limit, value)
            assert not export.measure_fidelity(low, exact, held_out).kept, limit


def test_r_squared_measures_the_error_against_the_variation_between_images() -> None:
    random = np.random.default_rng(0)
    features = (100 + random.normal(size=(50, 8))).astype(np.float32)  # a cosine between any two is above 0.999
    assert export.r_squared(features, features) == 1
    assert export.r_squared(np.broadcast_to(features.mean(axis=0), features.shape), features) == pytest.approx(0)
    maps = random.normal(size=(50, 4, 4)).astype(np.float32)
    maps[0] = 0  # an empty map, whose cosine similarity is undefined
    assert export.r_squared(maps + np.float32(0.01), maps) == pytest.approx(1, abs=1e-3)


def test_the_first_convolution_the_head_and_the_later_residual_additions_stay_in_float(models_dir: Path) -> None:
    loaded = load_verified(models_dir, "m")
    nodes = openvino.Core().read_model(loaded.xml, loaded.weights).get_ordered_ops()
    convolutions = [node for node in nodes if node.get_type_name() == "Convolution"]
    in_float = [node for node in convolutions if inputs(node)[1] == "Constant"]
    assert in_float == [convolutions[0], convolutions[-1]]
    assert [inputs(node) for node in nodes if node.get_type_name() == "MatMul"] == [["ReduceMean", "Constant"]]
    sums = [node for node in nodes if node.get_type_name() == "Add" and "Constant" not in inputs(node)]
    assert [inputs(node).count("FakeQuantize") for node in sums] == [2] * 3 + [0] * 13


def inputs(node: Any) -> list[str]:
    return [str(entry.get_source_output().get_node().get_type_name()) for entry in node.inputs()]


def test_each_precision_is_checked_against_its_own_canary_score(models_dir: Path) -> None:
    true = load_verified(models_dir, "m", "int8")
    Engine(replace(true, manifest=replace(true.manifest, canary_score=0.987)))  # float32's, which does not serve
    other = replace(true.manifest.fidelity["int8"], canary_score=true.manifest.expected_canary_score("int8") + 0.1)
    with pytest.raises(ModelError, match=r"canary 0\.\d+ in int8, not .* set ASTRODETECT_PRECISION=f32"):
        Engine(replace(true, manifest=replace(true.manifest, fidelity={"int8": other})))


def test_an_int8_network_with_corrupted_weights_is_refused(models_dir: Path) -> None:
    true = load_verified(models_dir, "m", "int8")
    spoilt = np.frombuffer(true.weights, dtype=np.int8).copy()
    spoilt[len(spoilt) // 4 :] = 1
    with pytest.raises(ModelError, match="model m"):
        Engine(VerifiedModel(true.manifest, true.xml, spoilt.tobytes(), "int8"))


@pytest.mark.parametrize(("size", "native", "floats"), [(227, True, "bf16"), (227, False, "f32"), (SIZE, True, "f32")])
def test_what_int8_leaves_in_float_is_bfloat16_for_large_images_where_the_processor_has_it(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch, size: int, native: bool, floats: str
) -> None:
    hints = []

    def compile_model(_network: Any, floats: str, *_form: int) -> Any:
        hints.append(floats)
        raise RuntimeError

    monkeypatch.setattr(engine_module, "has_bf16", lambda: native)
    monkeypatch.setattr(engine_module, "_check_shapes", lambda _network, _manifest: None)
    monkeypatch.setattr(engine_module, "_compile", compile_model)
    loaded = load_verified(models_dir, "m", "int8")
    contract = replace(loaded.manifest.image, size=size)
    with pytest.raises(ModelError, match="cannot be compiled"):
        Engine(replace(loaded, manifest=replace(loaded.manifest, image=contract)))
    assert {*hints} == {floats}


def test_a_small_network_leaves_one_of_two_cores_to_what_runs_beside_it(
    models_dir: Path, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_verified(models_dir, "m", "int8")
    alone: list[Engine] = []
    run_latency = Engine._run_latency

    def noted(engine: Engine, image: NDArray[np.uint8]) -> Outputs:
        alone.append(engine)
        return run_latency(engine, image)

    monkeypatch.setattr(Engine, "_run_latency", noted)
    two, four = Engine(loaded, cores=2), Engine(loaded, cores=4)
    expected = two.run_batch(pixels[:1]).probabilities
    for engine in (two, four):
        np.testing.assert_allclose(engine.run_beside(pixels[:1]).probabilities, expected, atol=1e-3)
    assert alone == [four]


@pytest.mark.usefixtures("models_dir")
def test_quantisation_prints_its_progress_and_nothing_else(printed: dict[str, str]) -> None:
    assert printed["out"] == ""
    assert re.fullmatch(r"(trying int8: \d/8.*\n)*trying int8: 8/8, [\d.]+ s\n", printed["err"])


def test_the_precision_that_serves_and_those_refused_are_printed_in_one_line() -> None:
    def tried(share: float, *, kept: bool) -> Fidelity:
        return Fidelity(kept, 0.5, 200, share, 0.1, 0.01, -0.0012, 1.0, 1.0)

    def words(precision: Precision, **fidelity: Fidelity) -> str:
        return train_model.precision_text(
            replace(manifest(), precision=precision, fidelity=fidelity)  # type: ignore[arg-type]
        )

    good, bad = tried(0.995, kept=True), tried(0.9, kept=False)
    assert words("f32") == "f32 serves"
    assert words("int8", int8=good) == "int8 serves: 99.50% of 200 decisions as in Keras, AUC -0.0012"
    assert words("bf16", int8=bad, bf16=good).startswith("int8 is refused: 90.00% of 200 decisions as in Keras, AUC")
    assert "; bf16 serves: 99.50%" in words("bf16", int8=bad, bf16=good)
    assert words("f32", int8=bad).startswith("f32 serves; int8 is refused: 90.00%")
