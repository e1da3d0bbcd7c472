"""Non-parametric morphology and colours of the whole cutout: nearly invariant under rotation and reflection."""

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astrodetect.features.stamps import (
    PIXELS,
    SIDE_PX,
    SMOOTHING_PX,
    Stamps,
    centre_distance,
    gaussian_blur,
    join_columns,
    row_products,
)
from astrodetect.records import Floats

STRUCTURE_FEATURES = 306  # columns of `measure_structure`
PROFILE_COLUMNS = 48  # of these the first: the mean of each band in each ring
RINGS = 16
ANGLES = 64  # samples along each ring
MODES = 8  # azimuthal Fourier modes m = 1 … 8
ANNULI = 4  # for gradients and texture
ORIENTATION_BINS = 8
GRADIENT_PX = (SMOOTHING_PX, 1.6, 3.0)  # standard deviations of the smoothing
LIGHT_FRACTIONS = (0.2, 0.5, 0.8, 0.9)  # of the curve of growth
FLUX_FLOOR = 1e-3  # of full scale


def measure_images(pixels: NDArray[np.uint8], crop: float) -> Floats:
    """All measurements of the central `crop` of square images (n, side, side, 3), one row each."""
    stamps = Stamps.cut(pixels, crop)
    light = _light(stamps)
    soft = np.sqrt(light)
    columns = [
        *_structure(stamps, soft),
        _asymmetry(light),
        _asymmetry(soft),
        _concentration_gini_m20(light),
        _weighted_moments(light),
        _texture(soft),
        _colour_gradients(stamps.planes, light),
    ]
    return join_columns(columns)


def measure_structure(stamps: Stamps) -> Floats:
    """The subset for anomaly detection: profiles, Fourier modes, gradients; the rest costs more than it adds."""
    return join_columns(_structure(stamps, np.sqrt(_light(stamps))))


def _structure(stamps: Stamps, soft: Floats) -> list[Floats]:
    smooth = np.stack([gaussian_blur(soft, sigma) for sigma in GRADIENT_PX], axis=1)
    return [_radial_profiles(stamps.planes), _polar_fourier_modes(smooth[:, 0]), _gradient_orientations(smooth)]


def _light(stamps: Stamps) -> Floats:
    """The light above the background, with a positive floor."""
    light = np.maximum(stamps.light, 0)
    light += FLUX_FLOOR
    return light


@cache
def _ring_weights() -> NDArray[np.float32]:
    """(pixels, RINGS) weights of the azimuthal mean of each ring."""
    ring = np.minimum(centre_distance() / (SIDE_PX / 2) * RINGS, RINGS + 0.5).astype(int).ravel()
    masks = (ring[:, None] == np.arange(RINGS)).astype(np.float32)
    return np.asarray(masks / masks.sum(axis=0))


def _radial_profiles(planes: Floats) -> Floats:
    """Azimuthal mean and standard deviation of each band in each ring."""
    flat = planes.reshape(-1, PIXELS)
    mean = row_products(flat, _ring_weights())
    deviation = np.sqrt(np.maximum(row_products(flat * flat, _ring_weights()) - mean * mean, 0))
    return np.concatenate([mean.reshape(len(planes), -1), deviation.reshape(len(planes), -1)], axis=1)


@cache
def _polar_grid() -> NDArray[np.int64]:
    """(RINGS, ANGLES) flat index of the nearest pixel."""
    angle = np.arange(ANGLES) / ANGLES * 2 * np.pi
    radius = (np.arange(RINGS) + 0.5) / RINGS * (SIDE_PX / 2 - 1)
    centre = (SIDE_PX - 1) / 2
    row = np.rint(centre + radius[:, None] * np.sin(angle)).astype(np.int64)
    return np.asarray(row * SIDE_PX + np.rint(centre + radius[:, None] * np.cos(angle)).astype(np.int64))


def _polar_fourier_modes(smooth: Floats) -> Floats:
    """Relative amplitudes of the azimuthal modes m = 1 … MODES, and the phase shift of m = 2 between rings."""
    images = len(smooth)
    polar = smooth.reshape(images, -1).take(_polar_grid(), axis=1)
    modes = np.fft.rfft(polar, axis=2)[:, :, : MODES + 1]
    sizes = np.abs(modes)
    amplitude = sizes[:, :, 1:] / (sizes[:, :, :1] + FLUX_FLOOR)
    phase = modes[:, :, 2] / (sizes[:, :, 2] + FLUX_FLOOR)
    winding = phase[:, 1:] * phase[:, :-1].conj()  # constant phase for a bar, drifting phase for spiral arms
    pairs = (amplitude[:, ::2] + amplitude[:, 1::2]) / 2
    mean = amplitude.sum(axis=1) / RINGS
    return np.concatenate([pairs.reshape(images, -1), mean, winding.real, np.abs(winding.imag)], axis=1)


def _asymmetry(light: Floats) -> Floats:
    """Rotational (180°, 90°) and mirror asymmetry (smaller, larger), within half the radius and the full one."""
    columns = []
    for radius in (SIDE_PX / 4, SIDE_PX / 2):
        mask = (centre_distance() < radius).astype(np.float32)
        total = (light * mask).sum(axis=(1, 2))
        others = [np.rot90(light, 2, (1, 2)), np.rot90(light, 1, (1, 2)), light[:, ::-1], light.transpose(0, 2, 1)]
        residuals = [(np.abs(light - other) * mask).sum(axis=(1, 2)) / total for other in others]
        columns += [*residuals[:2], np.minimum(residuals[2], residuals[3]), np.maximum(residuals[2], residuals[3])]
    return np.stack(columns, axis=1)


def _concentration_gini_m20(light: Floats) -> Floats:
    """Curve-of-growth radii (r20, r50, r80, r90), concentration log(r80 / r20), Gini coefficient and M20."""
    order = np.argsort(centre_distance().ravel(), kind="stable")
    growth = np.cumsum(light.reshape(len(light), -1)[:, order], axis=1)
    growth /= growth[:, -1:]
    sorted_radius = centre_distance().ravel()[order]
    radii = np.stack([sorted_radius[(growth < share).sum(axis=1)] for share in LIGHT_FRACTIONS], axis=1) / SIDE_PX
    flat = light.reshape(len(light), -1)
    ranked = np.sort(flat, axis=1)
    count = ranked.shape[1]
    rank = (2 * np.arange(1, count + 1) - count - 1).astype(np.float32)
    total = ranked.sum(axis=1)
    gini = row_products(ranked, rank[:, None])[:, 0] / (total * (count - 1))
    brightest = (np.cumsum(ranked[:, ::-1], axis=1) < 0.2 * total[:, None]).sum(axis=1)
    threshold = np.take_along_axis(ranked, count - np.maximum(brightest, 1)[:, None], axis=1)
    squared_radius = (centre_distance() ** 2).reshape(-1, 1)
    brightest_moment = row_products(flat * (flat >= threshold), squared_radius)
    m20 = np.log(brightest_moment / row_products(flat, squared_radius) + FLUX_FLOOR)
    concentration = np.log(radii[:, 2:3] / (radii[:, :1] + 1 / SIDE_PX))
    return np.concatenate([radii, concentration, gini[:, None], m20], 1)


def _weighted_moments(light: Floats) -> Floats:
    """Size, ellipticity and centroid offset from moments under Gaussian weights of three widths."""
    at = ((np.arange(SIDE_PX) - (SIDE_PX - 1) / 2) / SIDE_PX).astype(np.float32)
    columns = []
    for width in (0.12, 0.25, 0.5):
        weight = light * np.exp(-((centre_distance() / (width * SIDE_PX)) ** 2))
        total = weight.sum(axis=(1, 2))
        x, y = np.einsum("nyx,x->n", weight, at) / total, np.einsum("nyx,y->n", weight, at) / total
        xx = np.einsum("nyx,x->n", weight, at**2) / total - x**2
        yy = np.einsum("nyx,y->n", weight, at**2) / total - y**2
        xy = np.einsum("nyx,y,x->n", weight, at, at, optimize=True) / total - x * y
        size, elongation = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
        columns += [size, elongation / (size + FLUX_FLOOR**2), np.hypot(x, y)]
    return np.stack(columns, axis=1)


@cache
def _annulus_masks() -> NDArray[np.float32]:
    """(ANNULI, pixels)."""
    annulus = np.minimum(centre_distance() / (SIDE_PX / 2) * ANNULI, ANNULI + 0.5).astype(int).ravel()
    return np.asarray(annulus == np.arange(ANNULI)[:, None], np.float32)


class _Directions(NamedTuple):
    """Of each pixel, seen from the centre."""

    sine: Floats
    cosine: Floats
    first_bin: NDArray[np.int64]  # of its annulus in a histogram; that of the pixels outside all annuli is the last


@cache
def _directions() -> _Directions:
    at = np.arange(SIDE_PX) - (SIDE_PX - 1) / 2
    angle = np.arctan2(at[:, None], at)
    annulus = np.minimum(centre_distance() / (SIDE_PX / 2) * ANNULI, ANNULI).astype(np.int64)
    return _Directions(
        np.sin(angle).astype(np.float32), np.cos(angle).astype(np.float32), annulus.ravel() * ORIENTATION_BINS
    )


@lru_cache(16)
def _first_bins(planes: int) -> NDArray[np.int64]:
    """(planes, pixels) first bin of each pixel's annulus in one histogram of all planes."""
    return np.asarray(np.arange(planes)[:, None] * ((ANNULI + 1) * ORIENTATION_BINS) + _directions().first_bin)


def _gradient_orientations(smooth: Floats) -> Floats:
    """Histograms of gradient orientation relative to the radial direction, per annulus, at each scale."""
    scales = [_scale_orientations(smooth[:, scale]) for scale in range(smooth.shape[1])]  # fit the cache one by one
    return np.stack(scales, axis=1).reshape(len(smooth), -1)


def _scale_orientations(planes: Floats) -> Floats:
    """(n, 36) the shares of the orientations in each annulus, and the logarithm of its gradient."""
    down, across = _differences(planes)
    sine, cosine, _ = _directions()
    radial, slope = down * sine, across * sine
    part = across * cosine
    radial += part
    slope -= np.multiply(down, cosine, out=part)
    with np.errstate(divide="ignore", invalid="ignore"):  # without a gradient the orientation has no weight
        slope /= radial
    np.abs(slope, out=slope)
    orientation = (slope >= _TANGENTS[0]).view(np.uint8)
    for tangent in _TANGENTS[1:]:
        orientation += (slope >= tangent).view(np.uint8)
    down *= down
    across *= across
    down += across
    magnitude = np.sqrt(down, out=down)
    bins = _first_bins(len(planes)) + orientation.reshape(len(planes), -1)
    length = len(planes) * (ANNULI + 1) * ORIENTATION_BINS
    counts = np.bincount(bins.ravel(), magnitude.ravel(), minlength=length) / 2  # differences are twice the gradient
    histograms = counts.reshape(len(planes), ANNULI + 1, ORIENTATION_BINS)[:, :ANNULI]
    total = histograms.sum(axis=2)
    shares = histograms / (total[..., None] + FLUX_FLOOR)
    return np.concatenate([shares.reshape(len(planes), -1), np.log(total + FLUX_FLOOR)], axis=1)


_ORIENTATIONS = np.arange(1, ORIENTATION_BINS) / ORIENTATION_BINS * np.pi / 2
_TANGENTS = np.tan(_ORIENTATIONS).astype(np.float32)  # limits of the bins


def _differences(planes: Floats) -> tuple[Floats, Floats]:
    """Twice the gradient, downwards and across: central differences, one-sided ones at the borders.

    Of all planes in one row, since NumPy subtracts long rows several times faster; the borders are replaced.
    """
    flat = planes.reshape(-1)
    down, across = np.empty(planes.shape, np.float32), np.empty(planes.shape, np.float32)
    np.subtract(flat[2 * SIDE_PX :], flat[: -2 * SIDE_PX], out=down.reshape(-1)[SIDE_PX:-SIDE_PX])
    np.subtract(flat[2:], flat[:-2], out=across.reshape(-1)[1:-1])
    for border, after, before in ((0, 1, 0), (-1, -1, -2)):
        down[:, border] = 2 * (planes[:, after] - planes[:, before])
        across[:, :, border] = 2 * (planes[:, :, after] - planes[:, :, before])
    return down, across


def _texture(soft: Floats) -> Floats:
    """Difference-of-Gaussians energy per scale and annulus."""
    columns = []
    finer = soft
    for sigma in (1.0, 2.0, 4.0, 8.0):
        coarser = gaussian_blur(soft, sigma)
        energy = (finer - coarser) ** 2
        columns.append(np.log(row_products(energy.reshape(len(soft), -1), _annulus_masks().T) + FLUX_FLOOR))
        finer = coarser
    return np.concatenate(columns, axis=1)


@cache
def _colour_zones() -> NDArray[np.float32]:
    """(pixels, 3) masks of the inner, the middle and the outer zone."""
    radius = centre_distance().ravel()[:, None]
    return np.asarray((radius >= np.array([0, 6, 14])) & (radius < np.array([6, 14, 32])), np.float32)


def _colour_gradients(planes: Floats, light: Floats) -> Floats:
    """Flux-weighted mean and dispersion of both colours in the inner, middle and outer zone."""
    flat = light.reshape(len(light), -1)
    logs = np.log(planes + np.float32(0.02)).reshape(len(light), 3, -1)
    red, blue = logs[:, 0] - logs[:, 1], logs[:, 1] - logs[:, 2]
    sums = np.stack([flat, flat * red, flat * blue, flat * red**2, flat * blue**2], axis=1) @ _colour_zones()
    mean, square = sums[:, 1:3] / sums[:, :1], sums[:, 3:] / sums[:, :1]  # (n, colours, zones)
    dispersion = np.sqrt(np.maximum(square - mean**2, 0))
    return np.concatenate([mean, dispersion], axis=1).transpose(0, 2, 1).reshape(len(light), -1)
