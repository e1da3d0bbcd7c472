"""Novelty scores: independent of batch composition, unchanged by saving and loading; damaged files are refused."""

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import LocalOutlierFactor

from astrodetect.anomalies import novelty, serialisation
from astrodetect.anomalies.detectors.registry import GENERAL_DETECTORS
from astrodetect.anomalies.novelty import Novelty
from astrodetect.anomalies.novelty_result import NoveltyResult
from astrodetect.anomalies.whitening import CLIP, FeatureBlock, WhitenedSpace
from astrodetect.errors import DataError, ModelError
from astrodetect.features.central_object import feature_matrix
from astrodetect.records import Floats

WIDTH = 60


def images(count: int, seed: int = 0) -> Floats:
    """Feature rows of low rank with noise, on different scales, and one constant feature."""
    random = np.random.default_rng(seed)
    ways = np.random.default_rng(99).normal(size=(12, WIDTH))
    rows = random.normal(size=(count, 12)) @ ways + 0.1 * random.normal(size=(count, WIDTH))
    rows *= 10.0 ** np.linspace(-3, 3, WIDTH)
    rows[:, 7] = 5
    return np.asarray(rows, np.float32)


def outliers(count: int, seed: int = 1) -> Floats:
    rows = images(count, seed)
    rows[:, ::2] = images(count, seed + 100)[:, ::2]  # features of two unrelated images, interleaved
    return rows


@pytest.fixture(scope="module")
def fitted() -> Novelty:
    return Novelty.fit(images(500), names=tuple(GENERAL_DETECTORS))


@pytest.fixture(scope="module")
def file(fitted: Novelty, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    place = tmp_path_factory.mktemp("saved") / "model.novelty.npz"
    fitted.save(place)
    return place.read_bytes()


def equal(a: NoveltyResult, b: NoveltyResult) -> bool:
    return (
        np.array_equal(a.novelty, b.novelty)
        and np.array_equal(a.strength, b.strength)
        and np.array_equal(a.vectors, b.vectors)
        and list(a.scores) == list(b.scores)
        and all(np.array_equal(a.scores[name], b.scores[name]) for name in a.scores)
        and all(np.array_equal(a.flagged[name], b.flagged[name]) for name in a.flagged)
    )


def test_batch_composition_order_and_saving_do_not_change_scores(fitted: Novelty, file: bytes) -> None:
    rows_to_score = np.concatenate([images(40, 2), outliers(10)])
    loaded = Novelty.load(file)
    together = fitted.score(rows_to_score)
    assert (loaded.feature_kind, loaded.names, loaded.images) == (fitted.feature_kind, fitted.names, 500)
    assert equal(loaded.score(rows_to_score), together)
    assert equal(NoveltyResult.concatenate([loaded.score(rows_to_score[i : i + 1]) for i in range(50)]), together)
    order = np.random.default_rng(0).permutation(50)
    shuffled = loaded.score(rows_to_score[order])
    assert np.array_equal(shuffled.strength, together.strength[order])
    assert np.array_equal(shuffled.vectors, together.vectors[order])
    assert equal(together[10:13], fitted.score(rows_to_score[10:13]))


def test_concurrent_scoring_gives_the_same_scores(file: bytes) -> None:
    loaded, rows_to_score = Novelty.load(file), images(64, 2)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: loaded.score(rows_to_score[i : i + 1]), range(64)))
    assert equal(NoveltyResult.concatenate(results), loaded.score(rows_to_score))


def test_scores_do_not_depend_on_the_batch_size_and_no_images_score_nothing(
    fitted: Novelty, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fitted.score(images(50, 2))
    monkeypatch.setattr(novelty, "BATCH_SIZE", 7)
    assert equal(fitted.score(images(50, 2)), whole)
    assert len(fitted.score(images(0)).strength) == 0


def test_saved_file_is_deterministic(file: bytes, tmp_path: Path) -> None:
    Novelty.fit(images(500), names=tuple(GENERAL_DETECTORS)).save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == file


def test_novelty_is_the_share_of_training_images_that_are_less_unusual(fitted: Novelty) -> None:
    training, result = fitted.score_training_images(), fitted.score(np.concatenate([images(40, 2), outliers(5)]))
    for strength, share in zip(result.strength, result.novelty, strict=True):
        assert share == pytest.approx((training.strength < strength).mean(), abs=1e-6)
    assert result.novelty[40:].min() > 0.99
    assert result.novelty[:40].mean() == pytest.approx(0.5, abs=0.15)


def test_strength_ranks_as_lof_beyond_the_training_scores_too(fitted: Novelty) -> None:
    middle, odd = images(1, 3), outliers(1)
    result = fitted.score(middle + np.linspace(0, 1, 30, dtype=np.float32)[:, None] * (odd - middle))
    assert np.array_equal(np.argsort(result.strength), np.argsort(result.scores["lof"]))
    assert (result.novelty == 1).sum() > 3  # which only strength still tells apart
    assert len(set(result.strength[result.novelty == 1].tolist())) == (result.novelty == 1).sum()


def test_training_images_are_scored_leave_one_out() -> None:
    rows = np.concatenate([images(300), outliers(3)])
    fitted = Novelty.fit(rows, names=("lof", "knn"))
    training = fitted.score_training_images()
    reference = LocalOutlierFactor(n_neighbors=20).fit(training.vectors)
    assert np.allclose(training.scores["lof"], -reference.negative_outlier_factor_, rtol=1e-3)
    assert (fitted.score(rows[-3:]).scores["knn"] < training.scores["knn"][-3:]).all()  # itself is near
    assert set(np.argsort(-training.strength)[:3]) == {300, 301, 302}
    assert training.consensus[-3:].all()
    assert training.agreement[:300].mean() < 0.1


def test_loaded_detectors_cannot_score_their_training_images(file: bytes) -> None:
    with pytest.raises(RuntimeError):
        Novelty.load(file).score_training_images()


def test_large_training_sets_are_sampled_but_scored_completely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(novelty, "MAX_REFERENCE_IMAGES", 100)
    rows = np.concatenate([images(400), outliers(4)])
    fitted = Novelty.fit(rows)
    training = fitted.score_training_images()
    assert fitted.images == 100
    assert len(training.strength) == 404
    assert training.novelty[400:].min() > 0.9
    assert training.scores["knn"].min() > 0  # none is its own neighbour, drawn or not


def test_missing_infinite_and_extreme_features_change_little() -> None:
    rows = images(300)
    rows[5, 3], rows[6, 4], rows[7, 5], rows[8, 6] = np.nan, np.inf, -np.inf, 3e38
    result = Novelty.fit(rows).score(np.concatenate([rows[:20], images(50, 2)]))
    plain = Novelty.fit(images(300)).score(images(50, 2))
    assert np.isfinite(result.vectors).all()
    assert np.isfinite(result.strength).all()
    assert np.corrcoef(result.strength[20:], plain.strength)[0, 1] > 0.8


def test_whitened_space_has_unit_covariance_and_clips_extreme_features() -> None:
    rows = images(400)
    space = WhitenedSpace.fit(rows, [FeatureBlock(WIDTH)])
    vectors = space.transform(rows)
    assert vectors.shape == (400, 40)
    assert np.allclose(np.cov(vectors.T), np.eye(vectors.shape[1]), atol=0.02)
    wild = rows[:1].copy()
    wild[0, 0] = 1e30
    assert space.blocks[0].scaling.transform(wild).max() == CLIP


@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_too_few_images_error_says_how_many_are_needed(count: int) -> None:
    with pytest.raises(DataError, match=f"^{count} images are too few .* give 10 or more$"):
        Novelty.fit(images(count))


def test_ten_images_can_be_fitted() -> None:
    fitted = Novelty.fit(images(10), names=tuple(GENERAL_DETECTORS))
    assert fitted.score(outliers(1)).novelty[0] == 1


def test_identical_training_images_are_refused() -> None:
    with pytest.raises(DataError, match="all training images are identical"):
        Novelty.fit(np.repeat(images(1), 30, axis=0))


def test_unknown_detector_error_lists_the_detectors() -> None:
    with pytest.raises(DataError, match=r"no detector is named magic: choose among lof, knn, .*dbscan"):
        Novelty.fit(images(20), names=("lof", "magic"))


def test_feature_matrix_of_another_width_is_refused(fitted: Novelty) -> None:
    with pytest.raises(ModelError, match="expect 60 features per image, not 61: fit them again with"):
        fitted.score(np.zeros((1, WIDTH + 1), np.float32))


def test_strength_averages_all_detectors_without_lof() -> None:
    fitted = Novelty.fit(images(200), names=("kmeans", "dbscan"))
    result = fitted.score(np.concatenate([images(30, 2), outliers(5)]))
    assert fitted.names == ("kmeans", "dbscan")
    assert result.strength[30:].min() > np.median(result.strength[:30])


def test_scoring_starts_without_scikit_learn(file: bytes, tmp_path: Path) -> None:
    (tmp_path / "saved.npz").write_bytes(file)
    program = f"""
import sys
from pathlib import Path
import numpy as np
from astrodetect.anomalies.novelty import Novelty
Novelty.load(Path({str(tmp_path / "saved.npz")!r}).read_bytes()).score(np.zeros((1, {WIDTH}), np.float32))
print([name for name in ("sklearn", "tensorflow", "PIL") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_shape_features_do_not_depend_on_the_crop_of_the_network() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (2, 128, 128, 3), dtype=np.uint8)
    features = np.ones((2, 5), np.float32)
    whole = feature_matrix("shapes", frame, 1.0, features)
    middle = feature_matrix("shapes", np.ascontiguousarray(frame[:, 32:96, 32:96]), 0.5, features)
    assert np.allclose(whole, middle, atol=1e-4)
    assert feature_matrix("network", frame, 1.0, features) is features
    both = feature_matrix("both", frame, 1.0, features)
    assert np.array_equal(both, np.concatenate([whole, features], axis=1))


def with_entries(file: bytes, changes: Mapping[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The archive with some entries replaced, or removed where None."""
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        entries: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for name, content in ({**entries, **changes}).items():
            if content is not None:
                archive.writestr(name, content)
    return made.getvalue()


def npy(array: np.ndarray, *, pickled: bool = False) -> bytes:
    made = io.BytesIO()
    np.save(made, array, allow_pickle=pickled)
    return made.getvalue()


def metadata(**changes: object) -> bytes:
    values = {"format": 1, "sight": "shapes", "detectors": list(GENERAL_DETECTORS)} | changes
    return npy(np.frombuffer(json.dumps(values).encode(), np.uint8))


class Trap:
    """Sets `sprung` when it is unpickled."""

    sprung = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return setattr, (Trap, "sprung", True)


HUGE = (
    b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117)
    + b"\n"
)
DAMAGE: dict[str, dict[str, bytes | None]] = {
    "an array is missing": {"reference.points.npy": None},
    "metadata is missing": {"said.npy": None},
    "metadata is no JSON": {"said.npy": npy(np.zeros(4, np.uint8))},
    "metadata is a list": {"said.npy": npy(np.frombuffer(b"[]", np.uint8))},
    "another format": {"said.npy": metadata(format=2)},
    "unknown feature kind": {"said.npy": metadata(sight="smell")},
    "no detectors": {"said.npy": metadata(detectors=[])},
    "unknown detectors": {"said.npy": metadata(detectors=["lof", {}])},
    "autoencoder arrays are missing": {"said.npy": metadata(detectors=["autoencoder"])},
    "another shape": {"space.blocks.0.axes.npy": npy(np.ones((WIDTH + 1, 3)))},
    "another dtype": {"learnt.lof.npy": npy(np.ones(500))},
    "not finite": {"learnt.lof.npy": npy(np.full(500, np.nan, np.float32))},
    "empty array": {"space.blocks.0.scaling.mean.npy": npy(np.ones(0))},
    "strings": {"learnt.lof.npy": npy(np.array(["a"] * 500))},
    "objects": {"learnt.lof.npy": npy(np.array([Trap()]), pickled=True)},
    "header claims a huge shape": {"learnt.lof.npy": HUGE},
    "not an array": {"learnt.lof.npy": b"hello"},
    "index too large": {"detector.dbscan.core.npy": npy(np.array([500], np.int32))},
    "negative index": {"detector.dbscan.core.npy": npy(np.array([-1], np.int32))},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_detector_file_is_a_one_line_error(file: bytes, damage: str) -> None:
    assert equal(Novelty.load(with_entries(file, {})).score(images(3)), Novelty.load(file).score(images(3)))
    with pytest.raises(
        ModelError, match=r"^the detectors of this model cannot be used \(.+\): fit them again with .+$"
    ):
        Novelty.load(with_entries(file, DAMAGE[damage]))
    assert not Trap.sprung


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(100)])
def test_other_data_than_a_detector_file_is_a_one_line_error(content: bytes) -> None:
    with pytest.raises(ModelError, match="no file of detectors, or a damaged one"):
        Novelty.load(content)


def test_truncated_or_changed_file_is_refused_or_scores_the_same(file: bytes) -> None:
    whole, refused = Novelty.load(file).score(images(3)), 0
    for at in np.random.default_rng(0).integers(200, len(file), 40).tolist():
        with pytest.raises(ModelError):
            Novelty.load(file[:at])
        try:
            loaded = Novelty.load(file[:at] + bytes([file[at] ^ 0xFF]) + file[at + 1 :])
        except ModelError:
            refused += 1
        else:  # a timestamp of the archive, which is not read
            assert equal(loaded.score(images(3)), whole)
    assert refused > 30


def test_whitened_blocks_have_the_requested_dimensions() -> None:
    rows = np.concatenate([images(300)[:, :10], 100 * images(300, 1)], axis=1)
    vectors = WhitenedSpace.fit(rows, [FeatureBlock(10, 5), FeatureBlock(WIDTH, 7)]).transform(rows)
    assert vectors.shape == (300, 12)
    np.testing.assert_array_equal(
        vectors[:, :5], WhitenedSpace.fit(rows[:, :10], [FeatureBlock(10, 5)]).transform(rows[:, :10])
    )


def test_zip_bomb_is_refused_by_its_declared_size(file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = with_entries(file, {"bomb.npy": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 5_000_000
    liar = with_entries(file, {"bomb.npy": b""}, zipfile.ZIP_BZIP2)  # a member is unpacked whole, whatever it declares
    monkeypatch.setattr(serialisation, "MAX_BYTES", 20_000_000)

    def unpacked(*_: object) -> bytes:
        raise AssertionError("it was unpacked")

    monkeypatch.setattr(zipfile.ZipFile, "read", unpacked)
    with pytest.raises(ModelError, match="more than 20,000,000 bytes"):
        Novelty.load(bomb)
    with pytest.raises(ModelError, match="compressed arrays"):
        Novelty.load(liar)


def test_the_limit_of_threads_holds_for_all_of_blas() -> None:
    """Else the last bits of the detectors, and with them the map, depend on what was imported before."""
    script = """
import sys
import numpy as np
import threadpoolctl
from astrodetect.anomalies.novelty import Novelty
limits = threadpoolctl.threadpool_limits
threadpoolctl.threadpool_limits = lambda *a, **named: print("scipy.linalg" in sys.modules) or limits(*a, **named)
Novelty.fit(np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32), names=["knn"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "True"
