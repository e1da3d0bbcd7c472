"""Morphology and colours of the central object alone: segmented, so that neighbouring sources do not count."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

import numpy as np
import scipy  # loads its submodules when they are first used
from numpy.typing import NDArray

from astrodetect.features.cutout import STRUCTURE_FEATURES, measure_structure
from astrodetect.features.stamps import (
    PIXELS,
    SIDE_PX,
    SMOOTHING_PX,
    Stamps,
    gaussian_blur,
    join_columns,
    row_products,
)
from astrodetect.records import Floats

OBJECT_FEATURES = 37  # columns of `measure_central_object`
ASYMMETRY_FEATURES = 6  # columns of `measure_asymmetry`
ISOPHOTES = ((0.4, 0.0), (0.08, 1.2))  # segmentation thresholds: share of the peak, and a minimum in sigmas of noise
ASYMMETRY_ISOPHOTES = ((0.15, 1.2), (0.4, 1.2))  # in pixels of the object's own colour
MAX_COLOUR_DISTANCE = 0.15  # from the centre's, in shares of the flux per band: stars in front of the object differ
CORE_PX = 2.5  # radius of the core: its colour is that of the object
CENTRE_PX = 3  # around the centre: the segment that overlaps it most is the object
PEAKS = 4  # brightest local maxima that are compared
PEAK_SEPARATION_PX = 2
FAINTEST_PEAK = 0.1  # of the brightest
LOG_FLOOR = 0.03  # added to brightness before its logarithm
MIN_FLUX = 1e-3  # of full scale, summed over the bands: below it a pixel has no colour
TINY = 1e-6

Doubles: TypeAlias = NDArray[np.float64]

_FOUR_CONNECTED = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.bool_)
_SHARES, _SIGMAS = np.array(ISOPHOTES + ASYMMETRY_ISOPHOTES, np.float32).T[:, :, None]
_CENTRE = slice(SIDE_PX // 2 - CENTRE_PX, SIDE_PX // 2 + CENTRE_PX)
_HALF = PIXELS // 2  # a rotation by 180° exchanges the first and the second half of the pixels
_BANDS = PIXELS * np.arange(3)[:, None]
_AT = (np.arange(SIDE_PX) - (SIDE_PX - 1) / 2).astype(np.float32)
_POWERS = np.stack([_AT**power for power in range(4)], axis=1)  # products with it on both sides give moments
_X, _Y = (plane.ravel() for plane in np.broadcast_arrays(_AT[None, :], _AT[:, None]))
_CORE = np.flatnonzero(np.hypot(_X, _Y) < CORE_PX)
_QUADRATIC = np.stack([_X**i * _Y**j for i, j in ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))])
_WINDOW = range(-PEAK_SEPARATION_PX, PEAK_SEPARATION_PX + 1)
_WINDOW_Y, _WINDOW_X = (plane.ravel() for plane in np.meshgrid(_WINDOW, _WINDOW))
_ALL, _FIRST, _LAST = slice(None), slice(-1), slice(1, None)
_NEIGHBOURS = (((_ALL, _FIRST), (_ALL, _LAST)), ((_ALL, _ALL, _FIRST), (_ALL, _ALL, _LAST)))  # down, across


@dataclass(frozen=True, slots=True)
class Segments:
    """Masks (2, n, pixels) of the central object within each isophote."""

    isophotes: NDArray[np.bool_]  # of ISOPHOTES
    same_colour: NDArray[np.bool_]  # of ASYMMETRY_ISOPHOTES, in pixels of the object's own colour

    @classmethod
    def of(cls, stamps: Stamps) -> Self:
        """The connected pixels above each threshold."""
        thresholds = np.maximum(_SHARES * stamps.peak, _SIGMAS * stamps.noise)
        above = (stamps.smooth > thresholds[:, :, None, None]).reshape(len(thresholds), len(stamps), PIXELS)
        above[2:] &= _same_colour(stamps, above[2] | above[3])
        above[2:, :, _CORE] = True
        return cls(*_central_segments(above.reshape(-1, SIDE_PX, SIDE_PX)).reshape(2, 2, len(stamps), PIXELS))


def measure_central_object(stamps: Stamps, segments: Segments) -> Floats:
    """A row of OBJECT_FEATURES measurements for each stamp."""
    images = len(stamps)
    bright = np.maximum(stamps.smooth, 0).reshape(images, PIXELS)
    masks = segments.isophotes.astype(np.float32)
    light = masks * bright
    moments = _moments(np.concatenate([masks, light]).reshape(-1, PIXELS))
    morphology = _isophote_morphology(segments.isophotes.reshape(-1, PIXELS), light.reshape(-1, PIXELS), moments)
    total = moments.total[3 * images :]  # inside the lowest isophote
    size = np.sqrt(moments.total[images : 2 * images] + 1)
    measured: list[NDArray[np.floating]] = [
        morphology.reshape(-1, 2, images).transpose(2, 1, 0).reshape(images, -1),
        _peaks(light[1].reshape(stamps.smooth.shape), stamps.peak, size),
        _colours(stamps.planes, light[1] / total[:, None].astype(np.float32)),
        np.stack([stamps.background, stamps.noise, stamps.peak, total / (bright.sum(axis=1) + TINY)], axis=1),
    ]
    return join_columns(measured)


def measure_asymmetry(segments: Segments) -> Floats:
    """Shape asymmetry, offset and compactness of the central object within two isophotes, in pixels of its own colour.

    The shape asymmetry (Pawlik et al. 2016) is that of the isophote's mask, by a rotation of 180° about the centre of
    the stamp. A companion at another colour is not counted: it is most often a star in front.
    """
    masks = segments.same_colour.reshape(-1, PIXELS)
    area, x, y, xx, xy, yy = _raw_moments(masks.astype(np.float32))[:6]
    x, y = x / area, y / area
    xx, xy, yy = xx / area - x * x + 1 / 12, xy / area - x * y, yy / area - y * y + 1 / 12
    mean, difference = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    ellipse = 4 * np.pi * np.sqrt(mean + difference) * np.sqrt(np.maximum(mean - difference, 0.05))
    columns = np.stack([_shape_asymmetry(masks, area), np.hypot(x, y) / np.sqrt(area), area / ellipse])
    return join_columns([columns.reshape(3, 2, -1).transpose(2, 1, 0).reshape(-1, ASYMMETRY_FEATURES)])


def _same_colour(stamps: Stamps, candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n, pixels) the candidates whose shares of the flux per band are nearly those of the core."""
    flux = gaussian_blur(stamps.planes - stamps.sky[:, :, None, None], SMOOTHING_PX).reshape(len(stamps), 3, PIXELS)
    core = np.maximum(flux.take(_CORE, axis=2), 0).sum(axis=2)
    core /= core.sum(axis=1, keepdims=True) + TINY
    pixel = np.flatnonzero(candidates)
    image = pixel // PIXELS
    first = pixel + 2 * PIXELS * image  # flat index in the first band
    bands = flux.ravel().take(first + _BANDS)
    np.maximum(bands, 0, out=bands)
    total = np.maximum(bands.sum(axis=0), MIN_FLUX)
    bands -= core.T.take(image, axis=1) * total
    bands *= bands
    near = np.zeros(candidates.size, np.bool_)
    near[pixel] = bands.sum(axis=0) < (MAX_COLOUR_DISTANCE * total) ** 2
    return near.reshape(candidates.shape)


def _central_segments(above: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected pixels at the centre of each image; the central pixels where there are none."""
    beside = np.zeros((SIDE_PX, len(above), SIDE_PX + 1), dtype=bool)  # one labelling, with a gap between the images
    beside[:, :, :SIDE_PX] = above.transpose(1, 0, 2)
    labels = scipy.ndimage.label(beside.reshape(SIDE_PX, -1), _FOUR_CONNECTED)[0].reshape(beside.shape)
    central = labels[_CENTRE, :, _CENTRE].transpose(1, 0, 2).reshape(len(above), -1)
    label = central[:, 0].copy()
    for image in np.flatnonzero((central != label[:, None]).any(axis=1) | (label == 0)).tolist():
        objects = central[image][central[image] > 0]
        label[image] = objects.min() + np.bincount(objects - objects.min()).argmax() if objects.size else -1
    segments = labels[:, :, :SIDE_PX].transpose(1, 0, 2) == label[:, None, None]
    segments = np.ascontiguousarray(segments)
    segments[label < 0, _CENTRE, _CENTRE] = True
    return segments


@dataclass(frozen=True, slots=True)
class _Moments:
    """The total, the centroid, and the central moments of second and third order divided by the total."""

    total: Doubles
    x: Doubles
    y: Doubles
    xx: Doubles
    xy: Doubles
    yy: Doubles
    third: Doubles  # (4, n) xxx, xxy, xyy, yyy


def _raw_moments(planes: Floats) -> Doubles:
    """(10, n) sums of 1, x, y, xx, xy, yy, xxx, xxy, xyy, yyy."""
    sums = _POWERS.T @ planes.reshape(-1, SIDE_PX, SIDE_PX) @ _POWERS  # (n, powers of y, powers of x)
    return sums.reshape(len(planes), -1).T[[0, 1, 4, 2, 5, 8, 3, 6, 9, 12]].astype(np.float64)


def _moments(planes: Floats) -> _Moments:
    raw = _raw_moments(planes)
    total = raw[0] + TINY
    x, y, xx, xy, yy, xxx, xxy, xyy, yyy = raw[1:] / total
    third = np.stack([
        xxx - x * (3 * xx - 2 * x * x),
        xxy - 2 * x * xy - y * (xx - 2 * x * x),
        xyy - 2 * y * xy - x * (yy - 2 * y * y),
        yyy - y * (3 * yy - 2 * y * y),
    ])  # fmt: skip
    return _Moments(total, x, y, xx - x * x, xy - x * y, yy - y * y, third)


def _isophote_morphology(segments: NDArray[np.bool_], light: Floats, moments: _Moments) -> Doubles:
    """(11, n) area, axis ratio, asymmetry, skewness and offsets within isophotes: of their masks, and of their light.

    The moments are those of the masks and then of the light.
    """
    mask, other = slice(len(segments)), slice(len(segments), None)
    area, x, y, xy = moments.total[mask], moments.x[mask], moments.y[mask], moments.xy[mask]
    xx, yy = moments.xx[mask] + 1 / 12, moments.yy[mask] + 1 / 12
    mean, half = (xx + yy) / 2, (xx - yy) / 2
    difference = np.hypot(half, xy)
    major, minor = np.sqrt(mean + difference), np.sqrt(np.maximum(mean - difference, 1e-2))
    angle = 0.5 * np.arctan2(xy, half)  # of the major axis
    cosine, sine = np.cos(angle), np.sin(angle)
    skewness = _skewness(moments.third.reshape(4, 2, -1), cosine, sine) / np.stack([major, minor])[:, None] ** 3
    axes = cosine / major, sine / major, -sine / minor, cosine / minor
    size = np.sqrt(area)
    morphology = [
        np.log(area),
        minor / major,
        area / (4 * np.pi * major * minor),  # 1 for an ellipse, less with gaps and bays
        _outside_ellipse(segments, (x, y), axes) / area,
        _shape_asymmetry(segments, area),
        _rotational_asymmetry(light, moments.total[other]),
        skewness[0, 0],
        skewness[1, 0],
        np.hypot(skewness[0, 1], skewness[1, 1]),
        np.hypot(moments.x[other] - x, moments.y[other] - y) / size,
        np.hypot(x, y) / size,
    ]
    return np.stack(morphology)


def _outside_ellipse(segments: NDArray[np.bool_], centre: Sequence[Doubles], axes: Sequence[Doubles]) -> Doubles:
    """The pixels of each segment outside the ellipse with the same second moments.

    `axes` are x and y of both unit vectors, each divided by its standard deviation.
    """
    (x, y), (major_x, major_y, minor_x, minor_y) = centre, axes
    a, b, c = major_x**2 + minor_x**2, 2 * (major_x * major_y + minor_x * minor_y), major_y**2 + minor_y**2
    coefficients = np.stack(
        [a * x * x + b * x * y + c * y * y, -2 * a * x - b * y, -2 * c * y - b * x, a, b, c], axis=1
    )  # of 1, x, y, xx, xy, yy
    outside = row_products(coefficients.astype(np.float32), _QUADRATIC) > 4  # the squared elliptical radius
    outside &= segments
    return _count(outside)


def _count(masks: NDArray[np.bool_]) -> Doubles:
    """(n,) pixels of each mask; of packed bits, since NumPy counts along an axis slowly."""
    words = np.packbits(masks, axis=1).view(np.uint64)
    return np.asarray(np.bitwise_count(words).sum(axis=1), np.float64)


def _shape_asymmetry(masks: NDArray[np.bool_], area: Doubles) -> Doubles:
    """The pixels that differ after a rotation by 180° about the image centre, relative to the area."""
    return np.asarray(2 * _count(masks[:, :_HALF] ^ masks[:, : _HALF - 1 : -1]) / (area + TINY))


def _rotational_asymmetry(light: Floats, total: Doubles) -> Doubles:
    """The absolute residual after a rotation by 180° about the image centre, relative to the total."""
    residual = light[:, :_HALF] - light[:, : _HALF - 1 : -1]
    return np.asarray(2 * np.abs(residual, out=residual).sum(axis=1) / total)


def _skewness(third: Doubles, cosine: Doubles, sine: Doubles) -> Doubles:
    """(2, …) absolute third moments along the major and the minor axis."""
    xxx, xxy, xyy, yyy = third
    along = cosine**3 * xxx + 3 * cosine * sine * (cosine * xxy + sine * xyy) + sine**3 * yyy
    across = -(sine**3) * xxx + 3 * cosine * sine * (sine * xxy - cosine * xyy) + cosine**3 * yyy
    return np.asarray(np.abs(np.stack([along, across])))


def _peaks(light: Floats, peak: Floats, size: Doubles) -> Floats:
    """Local maxima (nuclei): flux of the next ones relative to the first, their number, separation of the first two."""
    images = len(light)
    highest_nearby = light > FAINTEST_PEAK * peak[:, None, None]
    for first, second in _NEIGHBOURS:
        highest_nearby[first] &= light[first] >= light[second]
        highest_nearby[second] &= light[second] >= light[first]
    image, y, x = np.unravel_index(np.flatnonzero(highest_nearby), light.shape)
    around = light[
        image[:, None], np.clip(y[:, None] + _WINDOW_Y, 0, SIDE_PX - 1), np.clip(x[:, None] + _WINDOW_X, 0, SIDE_PX - 1)
    ]
    height = light[image, y, x]
    is_peak = height >= around.max(axis=1, initial=0)
    image, y, x, height = image[is_peak], y[is_peak], x[is_peak], height[is_peak]
    order = np.lexsort((-height, image))
    count = np.bincount(image, minlength=images)
    rank = np.arange(len(image)) - np.repeat(np.cumsum(count) - count, count)
    order, rank = order[rank < PEAKS], rank[rank < PEAKS]
    highest = np.zeros((3, images, PEAKS), np.float32)
    highest[:, image[order], rank] = height[order], x[order], y[order]
    heights, xs, ys = highest
    separation = np.where(heights[:, 1] > 0, np.hypot(xs[:, 0] - xs[:, 1], ys[:, 0] - ys[:, 1]), 0) / size
    relative = heights[:, 1:] / (heights[:, :1] + np.float32(TINY))
    return np.concatenate([relative, np.minimum(count, 2 * PEAKS)[:, None], separation[:, None]], axis=1)


def _colours(planes: Floats, weight: Floats) -> Floats:
    """Flux-weighted mean, dispersion and rotational asymmetry of both colours (logarithms of band ratios)."""
    logs = planes.reshape(len(planes), 3, PIXELS) + np.float32(LOG_FLOOR)
    np.log(logs, out=logs)
    colours = logs[:, :2] - logs[:, 1:]
    residual = colours[..., :_HALF] - colours[..., : _HALF - 1 : -1]
    np.abs(residual, out=residual)
    both = weight[:, :_HALF] + weight[:, : _HALF - 1 : -1]
    asymmetry = np.vecdot(residual, both[:, None])
    mean = np.vecdot(colours, weight[:, None])
    colours *= colours
    square = np.vecdot(colours, weight[:, None])
    return np.stack([mean, np.sqrt(np.maximum(square - mean**2, 0)), asymmetry], axis=2).reshape(len(planes), -1)


FeatureKind = Literal["shapes", "network", "both"]

CENTRAL_SHARE = 0.5  # of the frame's side: the centre that is measured
MEASURED = 16  # images at a time: their arrays stay in the processor's cache
MEASURED_WIDTHS: tuple[int, ...] = (OBJECT_FEATURES, STRUCTURE_FEATURES, ASYMMETRY_FEATURES)  # columns of each block


def feature_matrix(
    kind: FeatureKind, pixels: NDArray[np.uint8], crop: float, network_features: Floats | None = None
) -> Floats:
    """(n, d) feature vectors of images whose pixels show the central `crop` of the frame; "shapes" needs no network."""
    if kind != "shapes" and network_features is None:
        raise ValueError(f"feature kind {kind} needs the network's features")
    if kind == "network":
        return np.asarray(network_features)
    share = min(1.0, CENTRAL_SHARE / crop)
    features = np.concatenate([_measure(part, share) for part in _parts(pixels)])
    return features if kind == "shapes" else np.concatenate([features, np.asarray(network_features)], axis=1)


def _parts(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    return (pixels[at : at + MEASURED] for at in range(0, max(len(pixels), 1), MEASURED))


def _measure(pixels: NDArray[np.uint8], share: float) -> Floats:
    stamps = Stamps.cut(pixels, share)
    segments = Segments.of(stamps)
    measured = measure_central_object(stamps, segments), measure_structure(stamps), measure_asymmetry(segments)
    return np.concatenate(measured, axis=1)


def as_earlier_features(features: Floats) -> Floats:
    """Feature vectors without the asymmetry, as detectors of earlier versions expect them."""
    end = sum(MEASURED_WIDTHS)
    return np.delete(features, slice(end - ASYMMETRY_FEATURES, end), axis=1)
