"""Morphology and colours of the central object alone: segmented, so that neighbouring sources do not count."""

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrodetect.features.cutout import (
    SIDE_PX,
    STRUCTURE_FEATURES,
    border_pixels,
    cut_stamps,
    gaussian_blur,
    measure_structure,
    sky_level,
)
from astrodetect.records import Floats

OBJECT_FEATURES = 37  # columns of `measure_central_object`
ASYMMETRY_FEATURES = 6  # columns of `measure_asymmetry`
ISOPHOTES = ((0.08, 1.2), (0.4, 0.0))  # segmentation thresholds: share of the peak, and a minimum in sigmas of noise
ASYMMETRY_ISOPHOTES = (0.15, 0.4)  # shares of the peak: outer and inner
MAX_COLOUR_DISTANCE = 0.15  # from the centre's, in shares of the flux per band: stars in front of the object differ
PEAK_WITHIN_PX = 4  # of the centre
CORE_PX = 2.5  # radius of the core: its colour is that of the object
CENTRE_PX = 3  # around the centre: the segment that overlaps it most is the object
MIN_NOISE = 0.004  # of full scale: quantisation to 8 bits
PEAKS = 4  # brightest local maxima that are compared
PEAK_SEPARATION_PX = 2
FAINTEST_PEAK = 0.1  # of the brightest
LOG_FLOOR = 0.03  # added to brightness before its logarithm
MIN_FLUX = 1e-3  # of full scale, summed over the bands: below it a pixel has no colour
TINY = 1e-6
MAD_TO_SIGMA = 1.4826  # standard deviation of Gaussian noise over its median absolute deviation

_FOUR_CONNECTED = ndimage.generate_binary_structure(2, 1)
_AT = (np.arange(SIDE_PX) - (SIDE_PX - 1) / 2).astype(np.float32)
_X, _Y = (plane.ravel() for plane in np.broadcast_arrays(_AT[None, :], _AT[:, None]))
_CORE = np.hypot(_X, _Y) < CORE_PX
_QUADRATIC = np.stack([_X**i * _Y**j for i, j in ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))], axis=1)
_CUBIC = np.stack([_X**3, _X**2 * _Y, _X * _Y**2, _Y**3], axis=1)
_MONOMIALS = np.concatenate([_QUADRATIC, _CUBIC], axis=1)  # a product with it gives all moments up to the third


@dataclass(frozen=True, slots=True)
class SmoothedStamps:
    """Smoothed grey stamps above the sky, with what segmentation needs."""

    background: Floats  # (n,)
    noise: Floats  # (n,)
    smooth: Floats  # (n, SIDE_PX, SIDE_PX)
    peak: Floats  # (n,) of the object at the centre

    @classmethod
    def of(cls, bands: Floats) -> Self:
        """From the stamps of `cutout.cut_stamps`."""
        grey = bands.mean(axis=-1)
        background = sky_level(grey)
        noise = MAD_TO_SIGMA * np.median(np.abs(border_pixels(grey) - background[:, None]), axis=1) + MIN_NOISE
        smooth = gaussian_blur(grey - background[:, None, None], 0.8)
        centre = slice(SIDE_PX // 2 - PEAK_WITHIN_PX, SIDE_PX // 2 + PEAK_WITHIN_PX)
        return cls(background, noise, smooth, smooth[:, centre, centre].max(axis=(1, 2)))


def measure_central_object(bands: Floats, stamps: SmoothedStamps | None = None) -> Floats:
    """A row of OBJECT_FEATURES measurements for each stamp of `cutout.cut_stamps`."""
    stamps = stamps or SmoothedStamps.of(bands)
    background, noise, smooth, peak = stamps.background, stamps.noise, stamps.smooth, stamps.peak
    bright = np.maximum(smooth, 0).reshape(len(smooth), -1)
    columns = []
    for share, sigmas in reversed(ISOPHOTES):
        above = smooth > np.maximum(share * peak, sigmas * noise)[:, None, None]
        segment = _central_segments(above).reshape(len(smooth), -1)
        columns += _isophote_morphology(segment.astype(np.float32), bright)
    light = np.where(segment, bright, 0)  # inside the lowest isophote
    total = light.sum(axis=1) + TINY
    columns += _peaks(light.reshape(smooth.shape), peak, np.sqrt(segment.sum(axis=1) + 1))
    columns += _colours(bands, light / total[:, None])
    columns += [background, noise, peak, total / (bright.sum(axis=1) + TINY)]
    return np.nan_to_num(np.stack(columns, axis=1)).astype(np.float32)


def measure_asymmetry(bands: Floats, stamps: SmoothedStamps | None = None) -> Floats:
    """Shape asymmetry, offset and compactness of the central object within two isophotes, in pixels of its own colour.

    The shape asymmetry (Pawlik et al. 2016) is that of the isophote's mask, by a rotation of 180° about the centre of
    the stamp. A companion at another colour is not counted: it is most often a star in front.
    """
    columns = []
    for segment in asymmetry_segments(bands, stamps or SmoothedStamps.of(bands)):
        area, x, y, xx, xy, yy = (segment @ _QUADRATIC).astype(np.float64).T
        x, y = x / area, y / area
        xx, xy, yy = xx / area - x * x + 1 / 12, xy / area - x * y, yy / area - y * y + 1 / 12
        mean, difference = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
        ellipse = 4 * np.pi * np.sqrt(mean + difference) * np.sqrt(np.maximum(mean - difference, 0.05))
        columns += [_rotational_asymmetry(segment), np.hypot(x, y) / np.sqrt(area), area / ellipse]
    return np.asarray(np.nan_to_num(np.stack(columns, axis=1)), np.float32)


def asymmetry_segments(bands: Floats, stamps: SmoothedStamps) -> list[Floats]:
    """(n, pixels) masks of the central object in pixels of its own colour, within each of the two isophotes."""
    same_colour = _squared_colour_distance(bands) < MAX_COLOUR_DISTANCE**2
    segments = []
    for share in ASYMMETRY_ISOPHOTES:
        above = stamps.smooth > np.maximum(share * stamps.peak, ISOPHOTES[0][1] * stamps.noise)[:, None, None]
        above &= same_colour
        above.reshape(len(above), -1)[:, _CORE] = True
        segments.append(_central_segments(above).reshape(len(above), -1).astype(np.float32))
    return segments


def _squared_colour_distance(bands: Floats) -> Floats:
    """(n, SIDE_PX, SIDE_PX) squared distance of each pixel's shares of the flux from those of the core."""
    planes = np.ascontiguousarray(np.moveaxis(bands, 3, 1))
    sky = np.median(np.concatenate([planes[:, :, :2], planes[:, :, -2:]], axis=2), axis=(2, 3))
    flux = np.maximum(gaussian_blur(planes - sky[:, :, None, None], 0.8), 0).reshape(len(bands), 3, -1)
    core = flux[:, :, _CORE].sum(axis=2)
    core /= core.sum(axis=1, keepdims=True) + TINY
    scale = 1 / np.maximum(flux.sum(axis=1), MIN_FLUX)
    squares = np.einsum("nbp,nbp->np", flux, flux) * scale  # (f - c)² summed over the bands, of shares f = flux · scale
    squares -= 2 * (core[:, None, :] @ flux)[:, 0]
    squares *= scale
    squares += (core * core).sum(axis=1)[:, None]
    return np.asarray(squares.reshape(len(bands), SIDE_PX, SIDE_PX))


def _central_segments(above: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected pixels at the centre of each image; the central pixels where there are none."""
    stacked = np.zeros((len(above), SIDE_PX + 1, SIDE_PX), dtype=bool)  # one labelling, with a gap between the images
    stacked[:, :SIDE_PX] = above
    labels = ndimage.label(stacked.reshape(-1, SIDE_PX), _FOUR_CONNECTED)[0].reshape(stacked.shape)[:, :SIDE_PX]
    segments = np.zeros(above.shape, dtype=bool)
    centre = slice(SIDE_PX // 2 - CENTRE_PX, SIDE_PX // 2 + CENTRE_PX)
    for image, plane in enumerate(labels):
        central = plane[centre, centre]
        if (central := central[central > 0]).size:
            first = central.min()
            segments[image] = plane == first + np.bincount(central - first).argmax()
        else:
            segments[image, centre, centre] = True
    return segments


@dataclass(frozen=True, slots=True)
class _Moments:
    """The total, the centroid, and the central moments of second and third order divided by the total."""

    total: Floats
    x: Floats
    y: Floats
    xx: Floats
    xy: Floats
    yy: Floats
    xxx: Floats
    xxy: Floats
    xyy: Floats
    yyy: Floats


def _moments(planes: Floats) -> _Moments:
    total, *raw = (planes @ _MONOMIALS).astype(np.float64).T
    total = total + TINY
    x, y, xx, xy, yy, xxx, xxy, xyy, yyy = (moment / total for moment in raw)
    return _Moments(
        total, x, y, xx - x * x, xy - x * y, yy - y * y,
        xxx - 3 * x * xx + 2 * x**3,
        xxy - 2 * x * xy - y * xx + 2 * x * x * y,
        xyy - 2 * y * xy - x * yy + 2 * x * y * y,
        yyy - 3 * y * yy + 2 * y**3,
    )  # fmt: skip


def _isophote_morphology(segment: Floats, bright: Floats) -> list[Floats]:
    """Area, axis ratio, asymmetry, skewness and offsets within one isophote: of its mask, and of its light."""
    light = segment * bright
    shape, flux = _moments(segment), _moments(light)
    xx, yy, xy = shape.xx + 1 / 12, shape.yy + 1 / 12, shape.xy
    mean, difference = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    major, minor = np.sqrt(mean + difference), np.sqrt(np.maximum(mean - difference, 1e-2))
    size = np.sqrt(shape.total)
    return [
        np.log(shape.total),
        minor / major,
        shape.total / (4 * np.pi * major * minor),  # 1 for an ellipse, less with gaps and bays
        _outside_ellipse(segment, shape, major, minor),
        _rotational_asymmetry(segment),
        _rotational_asymmetry(light),
        *_skewness(shape, shape, major, minor),
        np.hypot(*_skewness(flux, shape, major, minor)),
        np.hypot(flux.x - shape.x, flux.y - shape.y) / size,
        np.hypot(shape.x, shape.y) / size,
    ]


def _major_axis(shape: _Moments) -> tuple[Floats, Floats]:
    """Cosine and sine of the position angle of the major axis."""
    angle = 0.5 * np.arctan2(2 * shape.xy, shape.xx - shape.yy)
    return np.cos(angle), np.sin(angle)


def _outside_ellipse(segment: Floats, shape: _Moments, major: Floats, minor: Floats) -> Floats:
    """The share of the segment outside the ellipse with the same second moments."""
    cosine, sine = _major_axis(shape)
    a, b, c = (
        (cosine / major) ** 2 + (sine / minor) ** 2,
        2 * cosine * sine * (major**-2 - minor**-2),
        (sine / major) ** 2 + (cosine / minor) ** 2,
    )
    x, y = shape.x, shape.y
    coefficients = np.stack(
        [a * x * x + b * x * y + c * y * y, -2 * a * x - b * y, -2 * c * y - b * x, a, b, c], axis=1
    )  # of 1, x, y, xx, xy, yy
    elliptical_radius_squared = coefficients.astype(np.float32) @ _QUADRATIC.T
    outside = (elliptical_radius_squared > 4).astype(np.float32)
    return np.asarray(np.einsum("np,np->n", segment, outside) / shape.total)


def _rotational_asymmetry(planes: Floats) -> Floats:
    """The absolute residual after a rotation by 180° about the image centre, relative to the total."""
    return np.asarray(np.abs(planes - planes[:, ::-1]).sum(axis=1) / (planes.sum(axis=1) + TINY))


def _skewness(moments: _Moments, shape: _Moments, major: Floats, minor: Floats) -> tuple[Floats, Floats]:
    """Absolute standardised third moments along the major and the minor axis."""
    cosine, sine = _major_axis(shape)
    m = moments
    along = cosine**3 * m.xxx + 3 * cosine**2 * sine * m.xxy + 3 * cosine * sine**2 * m.xyy + sine**3 * m.yyy
    across = -(sine**3) * m.xxx + 3 * sine**2 * cosine * m.xxy - 3 * sine * cosine**2 * m.xyy + cosine**3 * m.yyy
    return np.abs(along) / major**3, np.abs(across) / minor**3


def _peaks(light: Floats, peak: Floats, size: Floats) -> list[Floats]:
    """Local maxima (nuclei): flux of the next ones relative to the first, their number, separation of the first two."""
    padded = np.pad(light, ((0, 0), (PEAK_SEPARATION_PX,) * 2, (PEAK_SEPARATION_PX,) * 2))
    shifts = range(2 * PEAK_SEPARATION_PX + 1)
    rows = np.maximum.reduce([padded[:, :, shift : shift + SIDE_PX] for shift in shifts])
    local_maximum = np.maximum.reduce([rows[:, shift : shift + SIDE_PX] for shift in shifts])
    is_peak = ((light == local_maximum) & (light > FAINTEST_PEAK * peak[:, None, None])).reshape(len(light), -1)
    heights = np.where(is_peak, light.reshape(len(light), -1), 0)
    pixel = np.argpartition(-heights, PEAKS, axis=1)[:, :PEAKS]
    highest = np.take_along_axis(heights, pixel, axis=1)
    rank = np.argsort(-highest, axis=1)
    pixel, highest = np.take_along_axis(pixel, rank, axis=1), np.take_along_axis(highest, rank, axis=1)
    (x, y), has_second = (np.asarray(plane[pixel]) for plane in (_X, _Y)), highest[:, 1] > 0
    separation = np.where(has_second, np.hypot(x[:, 0] - x[:, 1], y[:, 0] - y[:, 1]), 0)
    return [
        *(highest[:, 1:] / (highest[:, :1] + TINY)).T,
        np.minimum(is_peak.sum(axis=1), 2 * PEAKS),
        separation / size,
    ]


def _colours(bands: Floats, weight: Floats) -> list[Floats]:
    """Flux-weighted mean, dispersion and rotational asymmetry of both colours (logarithms of band ratios)."""
    logs = np.log(np.maximum(np.moveaxis(bands, 3, 1), 0) + np.float32(LOG_FLOOR)).reshape(len(bands), 3, -1)
    columns = []
    for band in (0, 1):
        colour = logs[:, band] - logs[:, band + 1]
        mean = np.einsum("np,np->n", colour, weight)
        square = np.einsum("np,np,np->n", colour, colour, weight)
        asymmetry = np.einsum("np,np->n", np.abs(colour - colour[:, ::-1]), weight)
        columns += [mean, np.sqrt(np.maximum(square - mean**2, 0)), asymmetry]
    return columns


FeatureKind = Literal["shapes", "network", "both"]

CENTRAL_SHARE = 0.5  # of the frame's side: the centre that is measured
MEASURED_WIDTHS: tuple[int, ...] = (OBJECT_FEATURES, STRUCTURE_FEATURES, ASYMMETRY_FEATURES)  # columns of each block


def feature_matrix(
    kind: FeatureKind, pixels: NDArray[np.uint8], crop: float, network_features: Floats | None = None
) -> Floats:
    """(n, d) feature vectors of images whose pixels show the central `crop` of the frame; "shapes" needs no network."""
    if kind != "shapes" and network_features is None:
        raise ValueError(f"feature kind {kind} needs the network's features")
    if kind == "network":
        return np.asarray(network_features)
    bands = cut_stamps(pixels, min(1.0, CENTRAL_SHARE / crop))
    stamps = SmoothedStamps.of(bands)
    measured = [measure_central_object(bands, stamps), measure_structure(bands), measure_asymmetry(bands, stamps)]
    if kind == "both":
        measured.append(np.asarray(network_features))
    return np.concatenate(measured, axis=1)


def as_earlier_features(features: Floats) -> Floats:
    """Feature vectors without the asymmetry, as detectors of earlier versions expect them."""
    end = sum(MEASURED_WIDTHS)
    return np.delete(features, slice(end - ASYMMETRY_FEATURES, end), axis=1)
