"""Non-parametric morphology and colours of the whole cutout: nearly invariant under rotation and reflection."""

import math
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from astrodetect.records import Floats

STRUCTURE_FEATURES = 306  # columns of `measure_structure`
PROFILE_COLUMNS = 48  # of these the first: the mean of each band in each ring
SIDE_PX = 64  # of a stamp
RINGS = 16
ANGLES = 64  # samples along each ring
MODES = 8  # azimuthal Fourier modes m = 1 … 8
ANNULI = 4  # for gradients and texture
ORIENTATION_BINS = 8
LIGHT_FRACTIONS = (0.2, 0.5, 0.8, 0.9)  # of the curve of growth
FULL_SCALE = np.float32(255)
FLUX_FLOOR = 1e-3  # of full scale


def measure_images(pixels: NDArray[np.uint8], crop: float) -> Floats:
    """All measurements of the central `crop` of square images (n, side, side, 3), one row each."""
    return measure_stamps(cut_stamps(pixels, crop))


def cut_stamps(pixels: NDArray[np.uint8], crop: float) -> Floats:
    """The central `crop` of each square image resampled by area to (n, SIDE_PX, SIDE_PX, 3), values 0 to 1.

    In memory the bands are planes.
    """
    begin, end, weights = _area_weights(pixels.shape[1], crop)
    inside = pixels[:, begin:end, begin:end]
    rows = sum(weight * inside[:, source] for source, weight in _row_taps(pixels.shape[1], crop))
    planes = np.ascontiguousarray(np.moveaxis(np.asarray(rows), 3, 1))  # strided, the product would not use BLAS
    stamps: Floats = np.moveaxis(planes @ (weights / FULL_SCALE), 1, 3)
    return stamps


def measure_stamps(bands: Floats) -> Floats:
    """All measurements, one row for each stamp."""
    light = _light(bands)
    soft = np.sqrt(light)
    columns = [
        _radial_profiles(bands),
        _polar_fourier_modes(soft),
        _asymmetry(light),
        _asymmetry(soft),
        _concentration_gini_m20(light),
        _weighted_moments(light),
        _gradient_orientations(soft),
        _texture(soft),
        _colour_gradients(bands, light),
    ]
    return np.nan_to_num(np.concatenate(columns, axis=1)).astype(np.float32)


def measure_structure(bands: Floats) -> Floats:
    """The subset for anomaly detection: profiles, Fourier modes, gradients; the rest costs more than it adds."""
    soft = np.sqrt(_light(bands))
    columns = [_radial_profiles(bands), _polar_fourier_modes(soft), _gradient_orientations(soft)]
    return np.nan_to_num(np.concatenate(columns, axis=1)).astype(np.float32)


def sky_level(grey: Floats) -> Floats:
    """The median of the border pixels."""
    return np.asarray(np.median(border_pixels(grey), axis=1))


def border_pixels(grey: Floats) -> Floats:
    """The two outermost rows at the top and at the bottom."""
    return np.concatenate([grey[:, :2].reshape(len(grey), -1), grey[:, -2:].reshape(len(grey), -1)], axis=1)


def gaussian_blur(planes: Floats, sigma: float) -> Floats:
    """Gaussian smoothing, `sigma` in pixels, as two matrix products: faster than a filter for small planes."""
    kernel = _blur_matrix(sigma)
    return np.asarray(kernel @ planes @ kernel.T)


@lru_cache(16)
def _blur_matrix(sigma: float) -> Floats:
    return np.asarray(ndimage.gaussian_filter1d(np.eye(SIDE_PX), sigma, axis=0), np.float32)


def _light(bands: Floats) -> Floats:
    """Sky-subtracted mean of the bands, with a positive floor."""
    grey = bands.mean(axis=-1)
    return np.asarray(np.maximum(grey - sky_level(grey)[:, None, None], 0) + FLUX_FLOOR)


@lru_cache(16)
def _area_weights(side: int, crop: float) -> tuple[int, int, Floats]:
    """First and last source pixel of the centre, and the (source, stamp) overlap of pixels along one axis."""
    edges = (side - side * crop) / 2 + np.linspace(0, side * crop, SIDE_PX + 1)
    begin, end = math.floor(edges[0] + 1e-6), math.ceil(edges[-1] - 1e-6)
    overlap = np.diff(np.clip(np.arange(begin, end)[:, None] + 1 - edges, 0, 1), axis=1) * -1
    return begin, end, (overlap / overlap.sum(axis=0)).astype(np.float32)


@lru_cache(16)
def _row_taps(side: int, crop: float) -> list[tuple[NDArray[np.int64], Floats]]:
    """Source rows of each stamp row with their weights, as few as overlap: cheaper than a product with all rows."""
    _, _, weights = _area_weights(side, crop)
    taps = int((weights > 0).sum(axis=0).max())
    source = np.minimum((weights > 0).argmax(axis=0) + np.arange(taps)[:, None], len(weights) - 1)
    overlap = np.take_along_axis(weights, source, axis=0)
    overlap[1:][source[1:] == source[:-1]] = 0  # past the last row
    return [(rows, np.asarray(weight[:, None, None])) for rows, weight in zip(source, overlap, strict=True)]


@cache
def _radius() -> Floats:
    at = np.arange(SIDE_PX) - (SIDE_PX - 1) / 2
    return np.asarray(np.hypot(at[:, None], at), np.float32)


@cache
def _ring_weights() -> NDArray[np.float32]:
    """(pixels, RINGS) weights of the azimuthal mean of each ring."""
    ring = np.minimum(_radius() / (SIDE_PX / 2) * RINGS, RINGS + 0.5).astype(int).ravel()
    masks = (ring[:, None] == np.arange(RINGS)).astype(np.float32)
    return np.asarray(masks / masks.sum(axis=0))


def _radial_profiles(bands: Floats) -> Floats:
    """Azimuthal mean and standard deviation of each band in each ring."""
    flat = bands.reshape(len(bands), -1, 3)
    mean = np.einsum("npb,pr->nbr", flat, _ring_weights(), optimize=True)
    square = np.einsum("npb,pr->nbr", flat * flat, _ring_weights(), optimize=True)
    deviation = np.sqrt(np.maximum(square - mean * mean, 0))
    return np.asarray(np.concatenate([mean.reshape(len(bands), -1), deviation.reshape(len(bands), -1)], axis=1))


@cache
def _polar_grid() -> NDArray[np.int64]:
    """(RINGS, ANGLES) flat index of the nearest pixel."""
    angle = np.arange(ANGLES) / ANGLES * 2 * np.pi
    radius = (np.arange(RINGS) + 0.5) / RINGS * (SIDE_PX / 2 - 1)
    centre = (SIDE_PX - 1) / 2
    row = np.rint(centre + radius[:, None] * np.sin(angle)).astype(np.int64)
    return np.asarray(row * SIDE_PX + np.rint(centre + radius[:, None] * np.cos(angle)).astype(np.int64))


def _polar_fourier_modes(soft: Floats) -> Floats:
    """Relative amplitudes of the azimuthal modes m = 1 … MODES, and the phase shift of m = 2 between rings."""
    polar = gaussian_blur(soft, 0.8).reshape(len(soft), -1)[:, _polar_grid()]
    modes = fft.rfft(polar, axis=2)
    amplitude = np.abs(modes[:, :, 1 : MODES + 1]) / (np.abs(modes[:, :, :1]) + FLUX_FLOOR)
    phase = modes[:, :, 2] / (np.abs(modes[:, :, 2]) + FLUX_FLOOR)
    winding = phase[:, 1:] * phase[:, :-1].conj()  # constant phase for a bar, drifting phase for spiral arms
    pairs = amplitude.reshape(len(soft), RINGS // 2, 2, MODES).mean(axis=2)
    return np.concatenate(
        [pairs.reshape(len(soft), -1), amplitude.mean(axis=1), winding.real, np.abs(winding.imag)], axis=1
    )


def _asymmetry(light: Floats) -> Floats:
    """Rotational (180°, 90°) and mirror asymmetry (smaller, larger), within half the radius and the full one."""
    columns = []
    for radius in (SIDE_PX / 4, SIDE_PX / 2):
        mask = (_radius() < radius).astype(np.float32)
        total = (light * mask).sum(axis=(1, 2))
        others = [np.rot90(light, 2, (1, 2)), np.rot90(light, 1, (1, 2)), light[:, ::-1], light.transpose(0, 2, 1)]
        residuals = [(np.abs(light - other) * mask).sum(axis=(1, 2)) / total for other in others]
        columns += [*residuals[:2], np.minimum(residuals[2], residuals[3]), np.maximum(residuals[2], residuals[3])]
    return np.stack(columns, axis=1)


def _concentration_gini_m20(light: Floats) -> Floats:
    """Curve-of-growth radii (r20, r50, r80, r90), concentration log(r80 / r20), Gini coefficient and M20."""
    order = np.argsort(_radius().ravel(), kind="stable")
    growth = np.cumsum(light.reshape(len(light), -1)[:, order], axis=1)
    growth /= growth[:, -1:]
    sorted_radius = _radius().ravel()[order]
    radii = np.stack([sorted_radius[(growth < share).sum(axis=1)] for share in LIGHT_FRACTIONS], axis=1) / SIDE_PX
    flat = light.reshape(len(light), -1)
    ranked = np.sort(flat, axis=1)
    count = ranked.shape[1]
    rank = (2 * np.arange(1, count + 1) - count - 1).astype(np.float32)
    total = ranked.sum(axis=1)
    gini = (ranked @ rank) / (total * (count - 1))
    brightest = (np.cumsum(ranked[:, ::-1], axis=1) < 0.2 * total[:, None]).sum(axis=1)
    threshold = np.take_along_axis(ranked, count - np.maximum(brightest, 1)[:, None], axis=1)
    squared_radius = (_radius() ** 2).ravel()
    m20 = np.log(((flat * (flat >= threshold)) @ squared_radius) / (flat @ squared_radius) + FLUX_FLOOR)
    concentration = np.log(radii[:, 2:3] / (radii[:, :1] + 1 / SIDE_PX))
    return np.concatenate([radii, concentration, gini[:, None], m20[:, None]], 1)


def _weighted_moments(light: Floats) -> Floats:
    """Size, ellipticity and centroid offset from moments under Gaussian weights of three widths."""
    at = ((np.arange(SIDE_PX) - (SIDE_PX - 1) / 2) / SIDE_PX).astype(np.float32)
    columns = []
    for width in (0.12, 0.25, 0.5):
        weight = light * np.exp(-((_radius() / (width * SIDE_PX)) ** 2))
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
    annulus = np.minimum(_radius() / (SIDE_PX / 2) * ANNULI, ANNULI + 0.5).astype(int).ravel()
    return np.asarray(annulus == np.arange(ANNULI)[:, None], np.float32)


@cache
def _annulus_index() -> NDArray[np.int64]:
    """The annulus of each pixel; ANNULI for those outside all."""
    annulus = np.minimum(_radius() / (SIDE_PX / 2) * ANNULI, ANNULI + 0.5).astype(np.int64)
    return np.asarray(np.minimum(annulus, ANNULI))


@cache
def _position_angle() -> tuple[Floats, Floats]:
    """Sine and cosine of the direction from the centre to each pixel."""
    at = np.arange(SIDE_PX) - (SIDE_PX - 1) / 2
    angle = np.arctan2(at[:, None], at)
    return np.sin(angle).astype(np.float32), np.cos(angle).astype(np.float32)


def _gradient_orientations(soft: Floats) -> Floats:
    """Histograms of gradient orientation relative to the radial direction, per annulus, at three scales."""
    columns = []
    sine, cosine = _position_angle()
    limits = np.tan(np.arange(1, ORIENTATION_BINS) / ORIENTATION_BINS * np.pi / 2).astype(np.float32)
    bins = ORIENTATION_BINS * (ANNULI + 1)
    first_bin = (np.arange(len(soft)) * bins)[:, None, None] + _annulus_index() * ORIENTATION_BINS
    for sigma in (0.8, 1.6, 3.0):
        down, across = np.gradient(gaussian_blur(soft, sigma), axis=(1, 2))
        radial, slope = down * sine, across * sine
        radial += across * cosine
        slope -= down * cosine
        with np.errstate(divide="ignore", invalid="ignore"):  # without a gradient the orientation has no weight
            slope /= radial
        np.abs(slope, out=slope)
        orientation = np.zeros(slope.shape, np.uint8)
        for limit in limits:
            orientation += (slope >= limit).view(np.uint8)
        magnitude = np.sqrt(down * down + across * across)
        counts = np.bincount((first_bin + orientation).ravel(), magnitude.ravel(), minlength=len(soft) * bins)
        histograms = counts.reshape(len(soft), ANNULI + 1, ORIENTATION_BINS)[:, :ANNULI]
        total = histograms.sum(axis=2)
        columns += [
            (histograms / (total[..., None] + FLUX_FLOOR)).reshape(len(soft), -1),
            np.log(total + FLUX_FLOOR),
        ]
    return np.concatenate(columns, axis=1)


def _texture(soft: Floats) -> Floats:
    """Difference-of-Gaussians energy per scale and annulus."""
    columns = []
    finer = soft
    for sigma in (1.0, 2.0, 4.0, 8.0):
        coarser = gaussian_blur(soft, sigma)
        energy = (finer - coarser) ** 2
        columns.append(np.log(energy.reshape(len(soft), -1) @ _annulus_masks().T + FLUX_FLOOR))
        finer = coarser
    return np.concatenate(columns, axis=1)


@cache
def _colour_zones() -> NDArray[np.float32]:
    """(pixels, 3) masks of the inner, the middle and the outer zone."""
    radius = _radius().ravel()[:, None]
    return np.asarray((radius >= np.array([0, 6, 14])) & (radius < np.array([6, 14, 32])), np.float32)


def _colour_gradients(bands: Floats, light: Floats) -> Floats:
    """Flux-weighted mean and dispersion of both colours in the inner, middle and outer zone."""
    flat = light.reshape(len(light), -1)
    logs = np.log(np.maximum(bands, 0) + np.float32(0.02)).reshape(len(light), -1, 3)
    red, blue = logs[..., 0] - logs[..., 1], logs[..., 1] - logs[..., 2]
    sums = np.stack([flat, flat * red, flat * blue, flat * red**2, flat * blue**2], axis=1) @ _colour_zones()
    mean, square = sums[:, 1:3] / sums[:, :1], sums[:, 3:] / sums[:, :1]  # (n, colours, zones)
    dispersion = np.sqrt(np.maximum(square - mean**2, 0))
    return np.concatenate([mean, dispersion], axis=1).transpose(0, 2, 1).reshape(len(light), -1)
