"""Numbers for the shape and the colours of what stands in the middle of an image; turns and mirrors change little."""

import math
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from astrodetect.records import Floats

STRUCTURE = 306  # numbers for each stamp, by `structure`
SIDE_PX = 64  # of what is measured
RINGS = 16
ANGLES = 64  # round each ring
WAVES = 8  # of the light round a ring
CELLS = 4  # each way, of the places where edges are counted
DIRECTIONS = 8
SHARES = (0.2, 0.5, 0.8, 0.9)  # of the light, inside radii
FULL = np.float32(255)
FAINTEST = 1e-3  # of the full brightness


def describe(pixels: NDArray[np.uint8], crop: float) -> Floats:
    """A row of numbers for the centre of each square image (n, side, side, 3)."""
    return measure(stamps(pixels, crop))


def stamps(pixels: NDArray[np.uint8], crop: float) -> Floats:
    """The central share of each square image, (n, SIDE_PX, SIDE_PX, 3) of 0 to 1.

    What is between pixels is taken in proportion.
    """
    begin, end, share = _shares(pixels.shape[1], crop)
    planes = np.moveaxis(pixels[:, begin:end, begin:end], 3, 1).astype(np.float32)
    found: Floats = np.moveaxis(share.T @ planes @ (share / FULL), 1, 3)
    return found


def measure(bands: Floats) -> Floats:
    """A row of numbers for each stamp."""
    light = _light(bands)
    soft = np.sqrt(light)
    columns = [
        _profiles(bands),
        _waves(soft),
        _asymmetry(light),
        _asymmetry(soft),
        _concentration(light),
        _moments(light),
        _edges(soft),
        _texture(soft),
        _colours(bands, light),
    ]
    return np.nan_to_num(np.concatenate(columns, axis=1)).astype(np.float32)


def structure(bands: Floats) -> Floats:
    """Those of them that tell the unusual from the usual: the others cost more than they find."""
    soft = np.sqrt(_light(bands))
    columns = [_profiles(bands), _waves(soft), _edges(soft)]
    return np.nan_to_num(np.concatenate(columns, axis=1)).astype(np.float32)


def _light(bands: Floats) -> Floats:
    grey = bands.mean(axis=-1)
    return np.asarray(np.maximum(grey - sky(grey)[:, None, None], 0) + FAINTEST)


@lru_cache(16)
def _shares(side: int, crop: float) -> tuple[int, int, Floats]:
    """Which pixels are in the centre, and how much of each is in each pixel of the stamp."""
    edges = (side - side * crop) / 2 + np.linspace(0, side * crop, SIDE_PX + 1)
    begin, end = math.floor(edges[0] + 1e-6), math.ceil(edges[-1] - 1e-6)
    share = np.diff(np.clip(np.arange(begin, end)[:, None] + 1 - edges, 0, 1), axis=1) * -1
    return begin, end, (share / share.sum(axis=0)).astype(np.float32)


def sky(grey: Floats) -> Floats:
    """How bright the border is."""
    return np.asarray(np.median(border(grey), axis=1))


def smoothed(planes: Floats, width: float) -> Floats:
    """Blurred by a Gaussian of this width in pixels: products of matrices, as the planes are small."""
    blur = _blur(width)
    return np.asarray(blur @ planes @ blur.T)


@lru_cache(16)
def _blur(width: float) -> Floats:
    return np.asarray(ndimage.gaussian_filter1d(np.eye(SIDE_PX), width, axis=0), np.float32)


def border(grey: Floats) -> Floats:
    """The outermost pixels at the top and at the bottom."""
    return np.concatenate([grey[:, :2].reshape(len(grey), -1), grey[:, -2:].reshape(len(grey), -1)], axis=1)


@cache
def _radius() -> Floats:
    at = np.arange(SIDE_PX) - (SIDE_PX - 1) / 2
    return np.asarray(np.hypot(at[:, None], at), np.float32)


@cache
def _rings() -> NDArray[np.float32]:
    """(pixels, RINGS) weights that take the mean over each ring."""
    number = np.minimum(_radius() / (SIDE_PX / 2) * RINGS, RINGS + 0.5).astype(int).ravel()
    masks = (number[:, None] == np.arange(RINGS)).astype(np.float32)
    return np.asarray(masks / masks.sum(axis=0))


def _profiles(bands: Floats) -> Floats:
    """Mean and spread of each band round each ring."""
    flat = bands.reshape(len(bands), -1, 3)
    mean = np.einsum("npb,pr->nbr", flat, _rings(), optimize=True)
    square = np.einsum("npb,pr->nbr", flat * flat, _rings(), optimize=True)
    spread = np.sqrt(np.maximum(square - mean * mean, 0))
    return np.asarray(np.concatenate([mean.reshape(len(bands), -1), spread.reshape(len(bands), -1)], axis=1))


@cache
def _polar() -> NDArray[np.int64]:
    """Which pixel stands at each (ring, angle)."""
    turn = np.arange(ANGLES) / ANGLES * 2 * np.pi
    far = (np.arange(RINGS) + 0.5) / RINGS * (SIDE_PX / 2 - 1)
    middle = (SIDE_PX - 1) / 2
    down = np.rint(middle + far[:, None] * np.sin(turn)).astype(np.int64)
    return np.asarray(down * SIDE_PX + np.rint(middle + far[:, None] * np.cos(turn)).astype(np.int64))


def _waves(soft: Floats) -> Floats:
    """How the light goes up and down round each ring: two waves for a bar, as many as arms for arms."""
    smooth = smoothed(soft, 0.8)
    round_rings = smooth.reshape(len(soft), -1)[:, _polar()]
    found = fft.rfft(round_rings, axis=2)
    strength = np.abs(found[:, :, 1 : WAVES + 1]) / (np.abs(found[:, :, :1]) + FAINTEST)
    phase = found[:, :, 2] / (np.abs(found[:, :, 2]) + FAINTEST)
    winding = phase[:, 1:] * phase[:, :-1].conj()  # a bar stays where it is from ring to ring, an arm moves on
    pairs = strength.reshape(len(soft), RINGS // 2, 2, WAVES).mean(axis=2)
    return np.concatenate(
        [pairs.reshape(len(soft), -1), strength.mean(axis=1), winding.real, np.abs(winding.imag)], axis=1
    )


def _asymmetry(light: Floats) -> Floats:
    """What a turn by 90 or 180 degrees, or a mirror, leaves different: in the inner half and in the whole."""
    columns = []
    for inside in (SIDE_PX / 4, SIDE_PX / 2):
        mask = (_radius() < inside).astype(np.float32)
        total = (light * mask).sum(axis=(1, 2))
        turns = [np.rot90(light, 2, (1, 2)), np.rot90(light, 1, (1, 2)), light[:, ::-1], light.transpose(0, 2, 1)]
        left = [(np.abs(light - other) * mask).sum(axis=(1, 2)) / total for other in turns]
        columns += [*left[:2], np.minimum(left[2], left[3]), np.maximum(left[2], left[3])]
    return np.stack(columns, axis=1)


def _concentration(light: Floats) -> Floats:
    """Radii that hold shares of the light, how unevenly it lies (Gini), and where the brightest fifth is (M20)."""
    order = np.argsort(_radius().ravel(), kind="stable")
    grown = np.cumsum(light.reshape(len(light), -1)[:, order], axis=1)
    grown /= grown[:, -1:]
    far = _radius().ravel()[order]
    radii = np.stack([far[(grown < share).sum(axis=1)] for share in SHARES], axis=1) / SIDE_PX
    flat = light.reshape(len(light), -1)
    ranked = np.sort(flat, axis=1)
    count = ranked.shape[1]
    rank = (2 * np.arange(1, count + 1) - count - 1).astype(np.float32)
    total = ranked.sum(axis=1)
    gini = (ranked @ rank) / (total * (count - 1))
    brightest = (np.cumsum(ranked[:, ::-1], axis=1) < 0.2 * total[:, None]).sum(axis=1)
    faintest = np.take_along_axis(ranked, count - np.maximum(brightest, 1)[:, None], axis=1)
    square = (_radius() ** 2).ravel()
    m20 = np.log(((flat * (flat >= faintest)) @ square) / (flat @ square) + FAINTEST)
    return np.concatenate([radii, np.log(radii[:, 2:3] / (radii[:, :1] + 1 / SIDE_PX)), gini[:, None], m20[:, None]], 1)


def _moments(light: Floats) -> Floats:
    """How long and how thick the light lies, near the middle and in all, and how far off the centre."""
    at = ((np.arange(SIDE_PX) - (SIDE_PX - 1) / 2) / SIDE_PX).astype(np.float32)
    columns = []
    for reach in (0.12, 0.25, 0.5):
        weight = light * np.exp(-((_radius() / (reach * SIDE_PX)) ** 2))
        total = weight.sum(axis=(1, 2))
        x, y = np.einsum("nyx,x->n", weight, at) / total, np.einsum("nyx,y->n", weight, at) / total
        xx = np.einsum("nyx,x->n", weight, at**2) / total - x**2
        yy = np.einsum("nyx,y->n", weight, at**2) / total - y**2
        xy = np.einsum("nyx,y,x->n", weight, at, at, optimize=True) / total - x * y
        middle, apart = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
        columns += [middle, apart / (middle + FAINTEST**2), np.hypot(x, y)]
    return np.stack(columns, axis=1)


@cache
def _cells() -> NDArray[np.float32]:
    """(CELLS rings, pixels): places by how far they are from the middle."""
    number = np.minimum(_radius() / (SIDE_PX / 2) * CELLS, CELLS + 0.5).astype(int).ravel()
    return np.asarray(number == np.arange(CELLS)[:, None], np.float32)


@cache
def _outwards() -> tuple[Floats, Floats]:
    """The sine and the cosine of the way from the middle to each pixel."""
    at = np.arange(SIDE_PX) - (SIDE_PX - 1) / 2
    angle = np.arctan2(at[:, None], at)
    return np.sin(angle).astype(np.float32), np.cos(angle).astype(np.float32)


@cache
def _cell() -> NDArray[np.int64]:
    """The number of each pixel's cell, CELLS of those beyond all cells."""
    number = np.minimum(_radius() / (SIDE_PX / 2) * CELLS, CELLS + 0.5).astype(np.int64)
    return np.asarray(np.minimum(number, CELLS))


def _edges(soft: Floats) -> Floats:
    """How strong edges are and which way they lie, seen from the middle: along the radius, across it, or slanted."""
    columns = []
    sine, cosine = _outwards()
    slopes = np.tan(np.arange(1, DIRECTIONS) / DIRECTIONS * np.pi / 2).astype(np.float32)
    bins = DIRECTIONS * (CELLS + 1)
    own = (np.arange(len(soft)) * bins)[:, None, None] + _cell() * DIRECTIONS
    for width in (0.8, 1.6, 3.0):
        down, across = np.gradient(smoothed(soft, width), axis=(1, 2))
        along = np.abs(down * sine + across * cosine)
        athwart = np.abs(across * sine - down * cosine)
        place = np.zeros(along.shape, np.uint8)
        for slope in slopes:
            place += (athwart >= slope * along).view(np.uint8)
        strength = np.sqrt(down * down + across * across)
        counted = np.bincount((own + place).ravel(), strength.ravel(), minlength=len(soft) * bins)
        cells = counted.reshape(len(soft), CELLS + 1, DIRECTIONS)[:, :CELLS]
        total = cells.sum(axis=2)
        columns += [(cells / (total[..., None] + FAINTEST)).reshape(len(soft), -1), np.log(total + FAINTEST)]
    return np.concatenate(columns, axis=1)


def _texture(soft: Floats) -> Floats:
    """How much detail there is of each size, in each ring of cells: arms and knots, or none."""
    columns = []
    before = soft
    for width in (1.0, 2.0, 4.0, 8.0):
        smooth = smoothed(soft, width)
        details = (before - smooth) ** 2
        columns.append(np.log(details.reshape(len(soft), -1) @ _cells().T + FAINTEST))
        before = smooth
    return np.concatenate(columns, axis=1)


@cache
def _zones() -> NDArray[np.float32]:
    """(pixels, 3): the inner, the middle and the outer part."""
    far = _radius().ravel()[:, None]
    return np.asarray((far >= np.array([0, 6, 14])) & (far < np.array([6, 14, 32])), np.float32)


def _colours(bands: Floats, light: Floats) -> Floats:
    """The colour of the inner, the middle and the outer light, and how it varies."""
    flat = light.reshape(len(light), -1)
    logs = np.log(np.maximum(bands, 0) + np.float32(0.02)).reshape(len(light), -1, 3)
    red, blue = logs[..., 0] - logs[..., 1], logs[..., 1] - logs[..., 2]
    sums = np.stack([flat, flat * red, flat * blue, flat * red**2, flat * blue**2], axis=1) @ _zones()
    mean, square = sums[:, 1:3] / sums[:, :1], sums[:, 3:] / sums[:, :1]  # (n, colours, zones)
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    return np.concatenate([mean, spread], axis=1).transpose(0, 2, 1).reshape(len(light), -1)
