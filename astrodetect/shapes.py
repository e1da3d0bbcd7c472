"""Numbers for the shape and the colours of what stands in the middle of an image; turns and mirrors change little."""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from astrodetect.records import Floats

SIDE_PX = 64  # of what is measured
RINGS = 16
ANGLES = 64  # round each ring
WAVES = 8  # of the light round a ring
CELLS = 4  # each way, of the places where edges are counted
DIRECTIONS = 8
SHARES = (0.2, 0.5, 0.8, 0.9)  # of the light, inside radii
FAINTEST = 1e-3  # of the full brightness


def describe(pixels: NDArray[np.uint8], crop: float) -> Floats:
    """A row of numbers for the centre of each square image (n, side, side, 3)."""
    bands = _centre(pixels.astype(np.float32) / np.float32(255), crop)
    grey = bands.mean(axis=-1)
    sky = np.median(_border(grey), axis=1)
    light = np.maximum(grey - sky[:, None, None], 0) + FAINTEST
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


def _centre(bands: Floats, crop: float) -> Floats:
    """The central share, scaled to SIDE_PX with what is between pixels taken in proportion."""
    side = bands.shape[1]
    edges = (side - side * crop) / 2 + np.linspace(0, side * crop, SIDE_PX + 1)
    share = np.diff(np.clip(np.arange(side)[:, None] + 1 - edges, 0, 1), axis=1) * -1  # (side, SIDE_PX) of each pixel
    share = (share / share.sum(axis=0)).astype(np.float32)
    return np.asarray(np.einsum("nyxb,yi,xj->nijb", bands, share, share, optimize=True), np.float32)


def _border(grey: Floats) -> Floats:
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
    smooth = ndimage.gaussian_filter(soft, (0, 0.8, 0.8))
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
    ranked = np.sort(light.reshape(len(light), -1), axis=1)
    count = ranked.shape[1]
    rank = 2 * np.arange(1, count + 1) - count - 1
    gini = (ranked * rank).sum(axis=1) / (ranked.sum(axis=1) * (count - 1))
    downwards = np.argsort(-light.reshape(len(light), -1), axis=1)
    moment = np.take_along_axis(light.reshape(len(light), -1) * _radius().ravel() ** 2, downwards, axis=1)
    bright = np.cumsum(np.take_along_axis(light.reshape(len(light), -1), downwards, axis=1), axis=1)
    m20 = np.log((moment * (bright < 0.2 * bright[:, -1:])).sum(axis=1) / moment.sum(axis=1) + FAINTEST)
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


def _edges(soft: Floats) -> Floats:
    """How strong edges are and which way they lie, seen from the middle: along the radius, across it, or slanted."""
    columns = []
    at = np.arange(SIDE_PX) - (SIDE_PX - 1) / 2
    outwards = np.arctan2(at[:, None], at)
    for width in (0.8, 1.6, 3.0):
        smooth = ndimage.gaussian_filter(soft, (0, width, width))
        down, across = np.gradient(smooth, axis=(1, 2))
        strength = np.hypot(down, across)
        slant = np.abs((np.arctan2(down, across) - outwards + np.pi / 2) % np.pi - np.pi / 2)  # 0 … π/2
        place = np.minimum(slant / (np.pi / 2) * DIRECTIONS, DIRECTIONS - 1).astype(int)
        counted = np.stack(
            [(strength * (place == number)).reshape(len(soft), -1) @ _cells().T for number in range(DIRECTIONS)], axis=2
        )
        total = counted.sum(axis=2, keepdims=True)
        columns += [(counted / (total + FAINTEST)).reshape(len(soft), -1), np.log(total[..., 0] + FAINTEST)]
    return np.concatenate(columns, axis=1)


def _texture(soft: Floats) -> Floats:
    """How much detail there is of each size, in each ring of cells: arms and knots, or none."""
    columns = []
    before = soft
    for width in (1.0, 2.0, 4.0, 8.0):
        smooth = ndimage.gaussian_filter(soft, (0, width, width))
        details = (before - smooth) ** 2
        columns.append(np.log(details.reshape(len(soft), -1) @ _cells().T + FAINTEST))
        before = smooth
    return np.concatenate(columns, axis=1)


def _colours(bands: Floats, light: Floats) -> Floats:
    """The colour of the inner, the middle and the outer light, and how it varies."""
    logs = np.log(np.maximum(bands, 0) + 0.02)
    tint = np.stack([logs[..., 0] - logs[..., 1], logs[..., 1] - logs[..., 2]], axis=-1)
    columns = []
    for inner, outer in ((0, 6), (6, 14), (14, 32)):
        weight = light * ((_radius() >= inner) & (_radius() < outer))
        weight = weight / weight.sum(axis=(1, 2), keepdims=True)
        mean = np.einsum("nyx,nyxc->nc", weight, tint)
        columns += [mean, np.sqrt(np.maximum(np.einsum("nyx,nyxc->nc", weight, tint**2) - mean**2, 0))]
    return np.concatenate(columns, axis=1)
