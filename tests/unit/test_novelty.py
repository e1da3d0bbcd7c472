"""How unusual an image is: the same alone as in company, before and after it was kept, and of no damaged file."""

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
from astrodetect.anomalies.detectors.registry import FITTABLE_DETECTORS
from astrodetect.anomalies.novelty import Novelty, NoveltyResult
from astrodetect.anomalies.whitening import CLIP, FeatureBlock, WhitenedSpace
from astrodetect.errors import DataError, ModelError
from astrodetect.features.extraction import feature_matrix
from astrodetect.records import Floats

WIDTH = 60


def images(count: int, seed: int = 0) -> Floats:
    """Descriptions that vary in few ways, on scales of their own, and one number that never varies."""
    random = np.random.default_rng(seed)
    ways = np.random.default_rng(99).normal(size=(12, WIDTH))
    rows = random.normal(size=(count, 12)) @ ways + 0.1 * random.normal(size=(count, WIDTH))
    rows *= 10.0 ** np.linspace(-3, 3, WIDTH)
    rows[:, 7] = 5
    return np.asarray(rows, np.float32)


def strange(count: int, seed: int = 1) -> Floats:
    rows = images(count, seed)
    rows[:, ::2] = images(count, seed + 100)[:, ::2]  # halves that do not belong together
    return rows


@pytest.fixture(scope="module")
def fitted() -> Novelty:
    return Novelty.fit(images(500), names=tuple(FITTABLE_DETECTORS))


@pytest.fixture(scope="module")
def file(fitted: Novelty, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    place = tmp_path_factory.mktemp("kept") / "model.novelty.npz"
    fitted.save(place)
    return place.read_bytes()


def same(one: NoveltyResult, other: NoveltyResult) -> bool:
    return (
        np.array_equal(one.novelty, other.novelty)
        and np.array_equal(one.strength, other.strength)
        and np.array_equal(one.vectors, other.vectors)
        and list(one.scores) == list(other.scores)
        and all(np.array_equal(one.scores[name], other.scores[name]) for name in one.scores)
        and all(np.array_equal(one.flagged[name], other.flagged[name]) for name in one.flagged)
    )


def test_what_was_kept_scores_the_same_alone_in_any_company_and_in_any_order(fitted: Novelty, file: bytes) -> None:
    looked_at = np.concatenate([images(40, 2), strange(10)])
    kept = Novelty.load(file)
    together = fitted.score(looked_at)
    assert (kept.feature_kind, kept.names, kept.images) == (fitted.feature_kind, fitted.names, 500)
    assert same(kept.score(looked_at), together)
    assert same(NoveltyResult.concatenate([kept.score(looked_at[i : i + 1]) for i in range(50)]), together)
    order = np.random.default_rng(0).permutation(50)
    shuffled = kept.score(looked_at[order])
    assert np.array_equal(shuffled.strength, together.strength[order])
    assert np.array_equal(shuffled.vectors, together.vectors[order])
    assert same(together[10:13], fitted.score(looked_at[10:13]))


def test_many_threads_at_once_see_the_same(file: bytes) -> None:
    kept, looked_at = Novelty.load(file), images(64, 2)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: kept.score(looked_at[i : i + 1]), range(64)))
    assert same(NoveltyResult.concatenate(found), kept.score(looked_at))


def test_more_images_than_are_looked_at_in_one_go_and_none_at_all(
    fitted: Novelty, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fitted.score(images(50, 2))
    monkeypatch.setattr(novelty, "BATCH_SIZE", 7)
    assert same(fitted.score(images(50, 2)), whole)
    assert len(fitted.score(images(0)).strength) == 0


def test_the_same_images_give_the_same_file(file: bytes, tmp_path: Path) -> None:
    Novelty.fit(images(500), names=tuple(FITTABLE_DETECTORS)).save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == file


def test_novelty_is_the_share_of_the_images_learnt_from_that_are_less_unusual(fitted: Novelty) -> None:
    learnt, looked = fitted.score_training_images(), fitted.score(np.concatenate([images(40, 2), strange(5)]))
    for strength, share in zip(looked.strength, looked.novelty, strict=True):
        assert share == pytest.approx((learnt.strength < strength).mean(), abs=1e-6)
    assert looked.novelty[40:].min() > 0.99
    assert looked.novelty[:40].mean() == pytest.approx(0.5, abs=0.15)


def test_strength_ranks_as_the_local_outlier_factor_also_beyond_all_that_was_learnt(fitted: Novelty) -> None:
    middle, odd = images(1, 3), strange(1)
    looked = fitted.score(middle + np.linspace(0, 1, 30, dtype=np.float32)[:, None] * (odd - middle))
    assert np.array_equal(np.argsort(looked.strength), np.argsort(looked.scores["lof"]))
    assert (looked.novelty == 1).sum() > 3  # which only strength still tells apart
    assert len(set(looked.strength[looked.novelty == 1].tolist())) == (looked.novelty == 1).sum()


def test_those_learnt_from_are_judged_as_if_they_had_not_been_there() -> None:
    rows = np.concatenate([images(300), strange(3)])
    fitted = Novelty.fit(rows, names=("lof", "knn"))
    learnt = fitted.score_training_images()
    peer = LocalOutlierFactor(n_neighbors=20).fit(learnt.vectors)
    assert np.allclose(learnt.scores["lof"], -peer.negative_outlier_factor_, rtol=1e-3)
    assert (fitted.score(rows[-3:]).scores["knn"] < learnt.scores["knn"][-3:]).all()  # itself is near
    assert set(np.argsort(-learnt.strength)[:3]) == {300, 301, 302}
    assert learnt.consensus[-3:].all()
    assert learnt.agreement[:300].mean() < 0.1


def test_only_a_fresh_fit_knows_the_images_learnt_from(file: bytes) -> None:
    with pytest.raises(RuntimeError):
        Novelty.load(file).score_training_images()


def test_of_very_many_images_some_are_drawn_and_all_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(novelty, "MAX_REFERENCE_IMAGES", 100)
    rows = np.concatenate([images(400), strange(4)])
    fitted = Novelty.fit(rows)
    learnt = fitted.score_training_images()
    assert fitted.images == 100
    assert len(learnt.strength) == 404
    assert learnt.novelty[400:].min() > 0.9
    assert learnt.scores["knn"].min() > 0  # none is its own neighbour, drawn or not


def test_numbers_that_are_missing_infinite_or_wild_change_little() -> None:
    rows = images(300)
    rows[5, 3], rows[6, 4], rows[7, 5], rows[8, 6] = np.nan, np.inf, -np.inf, 3e38
    looked = Novelty.fit(rows).score(np.concatenate([rows[:20], images(50, 2)]))
    plain = Novelty.fit(images(300)).score(images(50, 2))
    assert np.isfinite(looked.vectors).all()
    assert np.isfinite(looked.strength).all()
    assert np.corrcoef(looked.strength[20:], plain.strength)[0, 1] > 0.8


def test_the_space_is_white_and_a_wild_number_goes_no_further_than_the_limit() -> None:
    rows = images(400)
    space = WhitenedSpace.fit(rows, [FeatureBlock(WIDTH)])
    vectors = space.transform(rows)
    assert vectors.shape == (400, 40)
    assert np.allclose(np.cov(vectors.T), np.eye(vectors.shape[1]), atol=0.02)
    wild = rows[:1].copy()
    wild[0, 0] = 1e30
    assert space.blocks[0].scaling.transform(wild).max() == CLIP


@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_too_few_images_say_how_many_are_needed(count: int) -> None:
    with pytest.raises(DataError, match=f"^{count} images are too few .* give 10 or more$"):
        Novelty.fit(images(count))


def test_ten_images_are_enough() -> None:
    fitted = Novelty.fit(images(10), names=tuple(FITTABLE_DETECTORS))
    assert fitted.score(strange(1)).novelty[0] == 1


def test_images_that_are_all_alike_say_what_is_needed() -> None:
    with pytest.raises(DataError, match="all training images are identical"):
        Novelty.fit(np.repeat(images(1), 30, axis=0))


def test_a_detector_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(DataError, match=r"no detector is named magic: choose among lof, knn, .*dbscan"):
        Novelty.fit(images(20), names=("lof", "magic"))


def test_images_that_are_described_in_another_way_are_refused(fitted: Novelty) -> None:
    with pytest.raises(ModelError, match="expect 60 features per image, not 61: fit them again with"):
        fitted.score(np.zeros((1, WIDTH + 1), np.float32))


def test_the_study_s_three_rank_by_their_average_where_lof_is_not_among_them() -> None:
    fitted = Novelty.fit(images(200), names=("kmeans", "dbscan"))
    looked = fitted.score(np.concatenate([images(30, 2), strange(5)]))
    assert fitted.names == ("kmeans", "dbscan")
    assert looked.strength[30:].min() > np.median(looked.strength[:30])


def test_scoring_starts_without_scikit_learn(file: bytes, tmp_path: Path) -> None:
    (tmp_path / "kept.npz").write_bytes(file)
    program = f"""
import sys
from pathlib import Path
import numpy as np
from astrodetect.anomalies.novelty import Novelty
Novelty.load(Path({str(tmp_path / "kept.npz")!r}).read_bytes()).score(np.zeros((1, {WIDTH}), np.float32))
print([name for name in ("sklearn", "tensorflow", "PIL") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_shapes_are_measured_in_the_same_middle_of_the_frame_however_much_of_it_the_network_sees() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (2, 128, 128, 3), dtype=np.uint8)
    features = np.ones((2, 5), np.float32)
    whole = feature_matrix("shapes", frame, 1.0, features)
    middle = feature_matrix("shapes", np.ascontiguousarray(frame[:, 32:96, 32:96]), 0.5, features)
    assert np.allclose(whole, middle, atol=1e-4)
    assert feature_matrix("network", frame, 1.0, features) is features
    both = feature_matrix("both", frame, 1.0, features)
    assert np.array_equal(both, np.concatenate([whole, features], axis=1))


def rezipped(file: bytes, changes: Mapping[str, bytes | None]) -> bytes:
    """With other entries in place of some, or without them."""
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        entries: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in ({**entries, **changes}).items():
            if content is not None:
                archive.writestr(name, content)
    return made.getvalue()


def npy(array: np.ndarray, *, pickled: bool = False) -> bytes:
    made = io.BytesIO()
    np.save(made, array, allow_pickle=pickled)
    return made.getvalue()


def said(**changes: object) -> bytes:
    known = {"format": 1, "sight": "shapes", "detectors": list(FITTABLE_DETECTORS)} | changes
    return npy(np.frombuffer(json.dumps(known).encode(), np.uint8))


class Trap:
    """Told on when it is unpickled."""

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
    "what it says is missing": {"said.npy": None},
    "what it says is no JSON": {"said.npy": npy(np.zeros(4, np.uint8))},
    "what it says is a list": {"said.npy": npy(np.frombuffer(b"[]", np.uint8))},
    "another format": {"said.npy": said(format=2)},
    "no sight": {"said.npy": said(sight="smell")},
    "no detectors": {"said.npy": said(detectors=[])},
    "detectors unknown": {"said.npy": said(detectors=["lof", {}])},
    "an autoencoder that is not there": {"said.npy": said(detectors=["autoencoder"])},
    "another shape": {"space.blocks.0.axes.npy": npy(np.ones((WIDTH + 1, 3)))},
    "another kind": {"learnt.lof.npy": npy(np.ones(500))},
    "no numbers": {"learnt.lof.npy": npy(np.full(500, np.nan, np.float32))},
    "nothing": {"space.blocks.0.scaling.mean.npy": npy(np.ones(0))},
    "words": {"learnt.lof.npy": npy(np.array(["a"] * 500))},
    "objects": {"learnt.lof.npy": npy(np.array([Trap()]), pickled=True)},
    "a length that is not there": {"learnt.lof.npy": HUGE},
    "no array": {"learnt.lof.npy": b"hello"},
    "places outside": {"detector.dbscan.core.npy": npy(np.array([500], np.int32))},
    "places below": {"detector.dbscan.core.npy": npy(np.array([-1], np.int32))},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_not_whole_is_one_clear_line(file: bytes, damage: str) -> None:
    assert same(Novelty.load(rezipped(file, {})).score(images(3)), Novelty.load(file).score(images(3)))
    with pytest.raises(
        ModelError, match=r"^the detectors of this model cannot be used \(.+\): fit them again with .+$"
    ):
        Novelty.load(rezipped(file, DAMAGE[damage]))
    assert not Trap.sprung


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_file_of_detectors_is_one_clear_line(content: bytes) -> None:
    with pytest.raises(ModelError, match="no file of detectors, or a damaged one"):
        Novelty.load(content)


def test_a_file_that_was_cut_or_changed_anywhere_is_refused_or_says_the_same(file: bytes) -> None:
    whole, refused = Novelty.load(file).score(images(3)), 0
    for at in np.random.default_rng(0).integers(200, len(file), 40).tolist():
        with pytest.raises(ModelError):
            Novelty.load(file[:at])
        try:
            found = Novelty.load(file[:at] + bytes([file[at] ^ 0xFF]) + file[at + 1 :])
        except ModelError:
            refused += 1
        else:  # a date of the archive's, which nobody reads
            assert same(found.score(images(3)), whole)
    assert refused > 30


def test_blocks_have_as_many_dimensions_as_is_said_however_many_numbers_they_are_of() -> None:
    rows = np.concatenate([images(300)[:, :10], 100 * images(300, 1)], axis=1)
    vectors = WhitenedSpace.fit(rows, [FeatureBlock(10, 5), FeatureBlock(WIDTH, 7)]).transform(rows)
    assert vectors.shape == (300, 12)
    np.testing.assert_array_equal(
        vectors[:, :5], WhitenedSpace.fit(rows[:, :10], [FeatureBlock(10, 5)]).transform(rows[:, :10])
    )


def test_a_bomb_is_refused_by_what_it_declares(file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = rezipped(file, {"bomb.npy": bytes(50_000_000)})
    assert len(bomb) < 5_000_000
    monkeypatch.setattr(serialisation, "MAX_BYTES", 20_000_000)

    def unpacked(*_: object) -> bytes:
        raise AssertionError("it was unpacked")

    monkeypatch.setattr(zipfile.ZipFile, "read", unpacked)
    with pytest.raises(ModelError, match="more than 20,000,000 bytes"):
        Novelty.load(bomb)
