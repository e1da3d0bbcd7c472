"""The default ensemble: views that disagree for a reason, stored and loaded, beside detectors of earlier versions."""

from pathlib import Path

import numpy as np
import pytest
from blob_galaxies import BLUE, YELLOW, blob_galaxies, blob_galaxy

from astrodetect.anomalies.detectors.base import DetectorInput, ReferencePoints
from astrodetect.anomalies.detectors.lof import Lof
from astrodetect.anomalies.detectors.registry import VIEWS
from astrodetect.anomalies.detectors.views import ASYMMETRY_SIGNS
from astrodetect.anomalies.domain import calibrate_domain
from astrodetect.anomalies.novelty import Novelty
from astrodetect.anomalies.whitening import FeatureBlock, WhitenedSpace
from astrodetect.errors import DataError
from astrodetect.features.central_object import (
    ASYMMETRY_FEATURES,
    MEASURED_WIDTHS,
    Segments,
    as_earlier_features,
    feature_matrix,
    measure_asymmetry,
)
from astrodetect.features.stamps import Stamps
from astrodetect.records import Floats

SHAPE_ASYMMETRY = [0, 3]  # columns of the two isophotes


@pytest.fixture(scope="module")
def features() -> Floats:
    return feature_matrix("shapes", blob_galaxies(300), 0.5)


@pytest.fixture(scope="module")
def fitted(features: Floats) -> Novelty:
    return Novelty.fit(features, feature_kind="shapes")


def test_the_views_are_the_default_and_each_finds_what_it_is_for(fitted: Novelty) -> None:
    merger, trail = (
        blob_galaxy(np.random.default_rng(7), companion=YELLOW),
        blob_galaxy(np.random.default_rng(8), trail=True),
    )
    result = fitted.score(feature_matrix("shapes", np.stack([merger, trail]), 0.5))
    assert fitted.names == fitted.ranking == tuple(VIEWS)
    assert result.view(0) == result.views[0] == "asymmetry"
    assert result.view(1) in {"colours", "cutout"}
    assert (result.novelty > 0.98).all()
    assert result.flagged["asymmetry"].tolist() == [True, False]


def test_a_star_in_front_of_the_object_is_not_an_asymmetry() -> None:
    galaxies = [blob_galaxy(np.random.default_rng(7), companion=colour) for colour in ((), YELLOW, BLUE)]
    segments = Segments.of(Stamps.cut(np.stack(galaxies), 1.0))
    alone, companion, star = measure_asymmetry(segments)[:, SHAPE_ASYMMETRY].sum(axis=1)
    assert companion > 3 * alone
    assert star < 0.5 * companion


def test_views_are_the_same_after_saving_and_for_any_batch(fitted: Novelty, features: Floats, tmp_path: Path) -> None:
    fitted.save(tmp_path / "views.npz")
    loaded = Novelty.load((tmp_path / "views.npz").read_bytes())
    whole = fitted.score(features[:20])
    for number in range(20):
        alone = loaded.score(features[number : number + 1])
        assert alone.strength[0] == whole.strength[number]
        assert alone.view(0) == whole.view(number)


def test_detectors_of_earlier_versions_ignore_the_asymmetry(features: Floats, tmp_path: Path) -> None:
    earlier = as_earlier_features(features)
    assert earlier.shape[1] == sum(MEASURED_WIDTHS[:2])
    blocks = [FeatureBlock(width, size) for width, size in zip(MEASURED_WIDTHS[:2], (20, 40), strict=True)]
    space = WhitenedSpace.fit(earlier, blocks)
    reference = ReferencePoints(space.transform(earlier))
    images = DetectorInput(earlier, reference.points, reference, leave_one_out=True)
    lof = Lof.fit(images)
    Novelty("shapes", space, reference, [lof], {"lof": lof.score(images)}).save(tmp_path / "earlier.npz")
    loaded = Novelty.load((tmp_path / "earlier.npz").read_bytes())
    assert loaded.ranking == ("lof",)
    assert loaded.score(features[:2]).views == [None, None]
    assert np.array_equal(loaded.score(features[:9]).strength, loaded.score(earlier[:9]).strength)


def test_views_of_network_features_are_refused() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 50)).astype(np.float32)
    with pytest.raises(DataError, match="no detector of network features is named asymmetry: choose among lof"):
        Novelty.fit(rows, names=("asymmetry",))
    assert Novelty.fit(rows).names == ("lof", "knn", "mahalanobis")


def test_an_asymmetric_object_is_unusual_and_in_domain(features: Floats, tmp_path: Path) -> None:
    """Foreign colours are out of domain, also of a smooth object, which the asymmetry calls ordinary."""
    detectors = calibrate_domain(Novelty.fit(features, feature_kind="shapes"))
    rows = features[[int(detectors.score(features).strength.argmin())] * 2]
    end = sum(MEASURED_WIDTHS)
    asymmetry = slice(end - ASYMMETRY_FEATURES, end)
    rows[0, asymmetry] = features[:, asymmetry].mean(axis=0) + 60 * ASYMMETRY_SIGNS * features[:, asymmetry].std(axis=0)
    rows[1, :-ASYMMETRY_FEATURES] += 8 * features[:, :-ASYMMETRY_FEATURES].std(axis=0)
    result = detectors.score(rows)
    assert result.views[0] == "asymmetry"
    assert result.novelty[0] > 0.99
    assert result.in_domain is not None
    assert result.in_domain.tolist() == [True, False]
    detectors.save(tmp_path / "domain.npz")
    loaded = Novelty.load((tmp_path / "domain.npz").read_bytes())
    np.testing.assert_array_equal(loaded.score(rows).in_domain, result.in_domain)
