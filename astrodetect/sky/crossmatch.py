"""Cross-match: the nearest known object within a radius of each position, and how many matches chance would give."""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from astrodetect.sky.healpix import Cells, Degrees

DEFAULT_RADIUS_ARCSEC = 2.0
MAX_RADIUS_ARCSEC = 600.0
ARCSEC = math.radians(1 / 3600)
MIN_SHIFT_ARCSEC = 60.0  # of positions in the estimate of chance matches: beyond the objects, within the same field
SHIFT_RADII = 10.0
SHIFT_BEARINGS = (0.0, 90.0, 180.0, 270.0)  # degrees, from north through east
MAX_SHIFTED = 100_000  # positions of the estimate; of more, a random sample
NO_OBJECT = 0  # stands for no match among the identifiers, in sql/queries/catalogues.sql too

Vectors = NDArray[np.float64]  # (n, 3), of length 1


class NearestObjects:
    """Positions, and the nearest object of those that were added; the memory grows with the positions alone."""

    def __init__(self, ra: Degrees, dec: Degrees, radius_arcsec: float) -> None:
        self._chord = 2 * math.sin(radius_arcsec * ARCSEC / 2)
        # A position is looked up once, however many predictions have it.
        places, self._place = np.unique(np.stack([ra, dec], axis=1), axis=0, return_inverse=True)
        self._vectors = unit_vectors(places[:, 0], places[:, 1])
        self._object, self._distance = np.full(len(places), NO_OBJECT), np.full(len(places), np.inf)
        self._weights = np.bincount(self._place.ravel(), minlength=len(places))  # positions at each place
        sampled = len(places) > MAX_SHIFTED
        random = np.random.default_rng(0)
        self._sample = random.choice(len(places), MAX_SHIFTED, replace=False) if sampled else np.arange(len(places))
        self.shift_arcsec = max(MIN_SHIFT_ARCSEC, SHIFT_RADII * radius_arcsec)
        self._shifted = [
            shift(places[self._sample, 0], places[self._sample, 1], self.shift_arcsec, bearing)
            for bearing in SHIFT_BEARINGS
        ]
        self._by_chance = np.zeros((len(SHIFT_BEARINGS), len(self._sample)), bool)
        self.objects = 0  # that were added

    def add(self, ids: Cells, ra: Degrees, dec: Degrees) -> None:
        """Compare with these objects; an identifier of NO_OBJECT is not allowed."""
        from scipy.spatial import cKDTree  # noqa: PLC0415 - slow to import

        self.objects += len(ids)
        if not len(ids) or not len(self._vectors):
            return
        tree = cKDTree(unit_vectors(ra, dec), balanced_tree=False, compact_nodes=False)
        limit = np.nextafter(self._chord, np.inf)  # the tree finds what is nearer than its limit
        distance, index = tree.query(self._vectors, distance_upper_bound=limit)
        nearer = distance < self._distance
        self._distance[nearer], self._object[nearer] = distance[nearer], ids[index[nearer]]
        for bearing, shifted in enumerate(self._shifted):
            self._by_chance[bearing] |= np.isfinite(tree.query(shifted, distance_upper_bound=limit)[0])

    def add_all(self, parts: Iterable[tuple[Cells, Degrees, Degrees]]) -> None:
        """Compare with the objects of every part."""
        for ids, ra, dec in parts:
            self.add(ids, ra, dec)

    @property
    def ids(self) -> Cells:
        """The identifier of each position's nearest object, NO_OBJECT where none is within the radius."""
        nearest: Cells = self._object[self._place.ravel()]
        return nearest

    @property
    def arcsec(self) -> Degrees:
        """The separation from it; infinite where there is none."""
        chords = self._distance[self._place.ravel()]
        separations: Degrees = np.where(
            np.isfinite(chords), 2 * np.arcsin(np.minimum(chords, 2.0) / 2) / ARCSEC, np.inf
        )
        return separations

    @property
    def matched(self) -> int:
        """The number of positions that have a match."""
        return int(np.count_nonzero(self.ids))

    @property
    def expected_by_chance(self) -> float:
        """How many positions would have a match without being that object: the matches of shifted positions."""
        weights = self._weights[self._sample]
        share = (self._by_chance * weights).sum() / max(1, len(SHIFT_BEARINGS) * weights.sum())
        return float(share * self._weights.sum())

    def describe(self, what: str, radius_arcsec: float) -> list[str]:
        """The numbers in words: how many of `what` are known."""
        total, known = int(self._weights.sum()), self.matched
        return [
            f"{known:,} of {total:,} {what} are within {radius_arcsec:g}″ of one of {self.objects:,} known objects, "
            f"{total - known:,} are not",
            f"{self.expected_by_chance:,.1f} matches are expected by chance (positions shifted by "
            f"{self.shift_arcsec:g}″)",
        ]


def unit_vectors(ra: Degrees, dec: Degrees) -> Vectors:
    """Positions as points of the unit sphere."""
    longitude, latitude = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], 1)


def shift(ra: Degrees, dec: Degrees, arcsec: float, bearing: float) -> Vectors:
    """Positions moved along great circles that leave them at this bearing, as points of the unit sphere."""
    longitude, latitude, angle = np.radians(ra), np.radians(dec), math.radians(bearing)
    north = np.stack(
        [-np.sin(latitude) * np.cos(longitude), -np.sin(latitude) * np.sin(longitude), np.cos(latitude)], axis=1
    )
    east = np.stack([-np.sin(longitude), np.cos(longitude), np.zeros_like(longitude)], axis=1)
    direction = math.cos(angle) * north + math.sin(angle) * east
    moved: Vectors = math.cos(arcsec * ARCSEC) * unit_vectors(ra, dec) + math.sin(arcsec * ARCSEC) * direction
    return moved
