"""Numbers for the body in the middle of an image, apart from what stands around it: outline, halves, cores, colours.

Stars beside a galaxy make an image unusual to whoever measures all of it; here they count for nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from astrodetect.features.cutout import SIDE_PX, border, sky, smoothed
from astrodetect.records import Floats

LEVELS = ((0.08, 1.2), (0.4, 0.0))  # outlines: shares of the peak, but so many times the noise at least
PEAK_WITHIN_PX = 4  # of the middle
CORE_PX = 3  # around the middle: what lies here belongs to the body
LEAST_NOISE = 0.004  # of the full brightness: what rounding to 8 bits makes
CORES = 4  # brightest places that are compared
CORE_APART_PX = 2
FAINTEST_CORE = 0.1  # of the peak
DARK = 0.03  # added to brightness before its logarithm
TINY = 1e-6

_AT = (np.arange(SIDE_PX) - (SIDE_PX - 1) / 2).astype(np.float32)
_X, _Y = (plane.ravel() for plane in np.broadcast_arrays(_AT[None, :], _AT[:, None]))
_POWERS = np.stack([_X**i * _Y**j for i, j in ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))], axis=1)
_CUBES = np.stack([_X**3, _X**2 * _Y, _X * _Y**2, _Y**3], axis=1)
_SHADOWS = np.concatenate([_POWERS, _CUBES], axis=1)  # a product with it gives all moments up to the third
NORMAL = 1.4826  # standard deviations of Gaussian noise in its median absolute deviation
COUNT = 37  # numbers for each image


def measure(bands: Floats) -> Floats:
    """A row of COUNT numbers for each stamp of `shapes.stamps`."""
    grey = bands.mean(axis=-1)
    background = sky(grey)
    noise = NORMAL * np.median(np.abs(border(grey) - background[:, None]), axis=1) + LEAST_NOISE
    soft = smoothed(grey - background[:, None, None], 0.8)
    middle = slice(SIDE_PX // 2 - PEAK_WITHIN_PX, SIDE_PX // 2 + PEAK_WITHIN_PX)
    peak = soft[:, middle, middle].max(axis=(1, 2))
    bright = np.maximum(soft, 0).reshape(len(soft), -1)
    columns = []
    for share, sigmas in reversed(LEVELS):
        own = _own(soft, np.maximum(share * peak, sigmas * noise)).reshape(len(soft), -1)
        columns += _outline(own.astype(np.float32), bright)
    light = np.where(own, bright, 0)  # inside the widest outline
    total = light.sum(axis=1) + TINY
    columns += _cores(light.reshape(soft.shape), peak, np.sqrt(own.sum(axis=1) + 1))
    columns += _colours(bands, light / total[:, None])
    columns += [background, noise, peak, total / (bright.sum(axis=1) + TINY)]
    return np.nan_to_num(np.stack(columns, axis=1)).astype(np.float32)


def _own(soft: Floats, level: Floats) -> NDArray[np.bool_]:
    """The pixels above the level that hang together with the middle."""
    own = np.zeros(soft.shape, dtype=bool)
    core = slice(SIDE_PX // 2 - CORE_PX, SIDE_PX // 2 + CORE_PX)
    for image, above in enumerate(soft > level[:, None, None]):
        parts, _ = ndimage.label(above)
        found = parts[core, core][above[core, core]]
        if found.size:
            own[image] = parts == np.bincount(found).argmax()
        else:
            own[image, core, core] = True
    return own


@dataclass(frozen=True, slots=True)
class _Moments:
    """How something lies: how much of it, where its middle is, and central moments per unit."""

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
    total, *raw = (planes @ _SHADOWS).astype(np.float64).T
    total = total + TINY
    x, y, xx, xy, yy, xxx, xxy, xyy, yyy = (moment / total for moment in raw)
    return _Moments(
        total, x, y, xx - x * x, xy - x * y, yy - y * y,
        xxx - 3 * x * xx + 2 * x**3,
        xxy - 2 * x * xy - y * xx + 2 * x * x * y,
        xyy - 2 * y * xy - x * yy + 2 * x * y * y,
        yyy - 3 * y * yy + 2 * y**3,
    )  # fmt: skip


def _outline(own: Floats, bright: Floats) -> list[Floats]:
    """How large, long, whole and even the body is within an outline, its shape and its light."""
    light = own * bright
    shape, lit = _moments(own), _moments(light)
    xx, yy, xy = shape.xx + 1 / 12, shape.yy + 1 / 12, shape.xy
    mean, apart = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    long, short = np.sqrt(mean + apart), np.sqrt(np.maximum(mean - apart, 1e-2))
    side = np.sqrt(shape.total)
    return [
        np.log(shape.total),
        short / long,
        shape.total / (4 * np.pi * long * short),  # 1 of an ellipse, less where there are gaps and bays
        _beyond(own, shape, long, short),
        _differs(own),
        _differs(light),
        *_leans(shape, shape, long, short),
        np.hypot(*_leans(lit, shape, long, short)),
        np.hypot(lit.x - shape.x, lit.y - shape.y) / side,
        np.hypot(shape.x, shape.y) / side,
    ]


def _turn(shape: _Moments) -> tuple[Floats, Floats]:
    """The cosine and the sine of the way in which the body is longest."""
    angle = 0.5 * np.arctan2(2 * shape.xy, shape.xx - shape.yy)
    return np.cos(angle), np.sin(angle)


def _beyond(own: Floats, shape: _Moments, long: Floats, short: Floats) -> Floats:
    """The share of the body outside the ellipse that has its moments."""
    cosine, sine = _turn(shape)
    a, b, c = (
        (cosine / long) ** 2 + (sine / short) ** 2,
        2 * cosine * sine * (long**-2 - short**-2),
        (sine / long) ** 2 + (cosine / short) ** 2,
    )
    x, y = shape.x, shape.y
    form = np.stack(
        [a * x * x + b * x * y + c * y * y, -2 * a * x - b * y, -2 * c * y - b * x, a, b, c], axis=1
    )  # of 1, x, y, xx, xy, yy
    far = form.astype(np.float32) @ _POWERS.T
    return np.asarray(np.einsum("np,np->n", own, (far > 4).astype(np.float32)) / shape.total)


def _differs(planes: Floats) -> Floats:
    """How much of it half a turn about the middle of the image leaves somewhere else."""
    return np.asarray(np.abs(planes - planes[:, ::-1]).sum(axis=1) / (planes.sum(axis=1) + TINY))


def _leans(moments: _Moments, shape: _Moments, long: Floats, short: Floats) -> tuple[Floats, Floats]:
    """How far it leans to one side, along the body and across it."""
    cosine, sine = _turn(shape)
    m = moments
    along = cosine**3 * m.xxx + 3 * cosine**2 * sine * m.xxy + 3 * cosine * sine**2 * m.xyy + sine**3 * m.yyy
    across = -(sine**3) * m.xxx + 3 * sine**2 * cosine * m.xxy - 3 * sine * cosine**2 * m.xyy + cosine**3 * m.yyy
    return np.abs(along) / long**3, np.abs(across) / short**3


def _cores(light: Floats, peak: Floats, side: Floats) -> list[Floats]:
    """How many bright places the body has, how bright the next ones are, and how far the second is from the first."""
    wide = np.pad(light, ((0, 0), (CORE_APART_PX,) * 2, (CORE_APART_PX,) * 2))
    steps = range(2 * CORE_APART_PX + 1)
    rows = np.maximum.reduce([wide[:, :, step : step + SIDE_PX] for step in steps])
    highest = np.maximum.reduce([rows[:, step : step + SIDE_PX] for step in steps])
    places = ((light == highest) & (light > FAINTEST_CORE * peak[:, None, None])).reshape(len(light), -1)
    cores = np.where(places, light.reshape(len(light), -1), 0)
    order = np.argpartition(-cores, CORES, axis=1)[:, :CORES]
    found = np.take_along_axis(cores, order, axis=1)
    rank = np.argsort(-found, axis=1)
    order, found = np.take_along_axis(order, rank, axis=1), np.take_along_axis(found, rank, axis=1)
    (x, y), second = (np.asarray(plane[order]) for plane in (_X, _Y)), found[:, 1] > 0
    distance = np.where(second, np.hypot(x[:, 0] - x[:, 1], y[:, 0] - y[:, 1]), 0)
    return [
        *(found[:, 1:] / (found[:, :1] + TINY)).T,
        np.minimum(places.sum(axis=1), 2 * CORES),
        distance / side,
    ]


def _colours(bands: Floats, weight: Floats) -> list[Floats]:
    """The two colours of the body: their mean, how they vary, and how unlike its two halves are."""
    logs = np.log(np.maximum(bands, 0) + np.float32(DARK)).reshape(len(bands), -1, 3)
    columns = []
    for band in (0, 1):
        tint = logs[..., band] - logs[..., band + 1]
        mean = np.einsum("np,np->n", tint, weight)
        square = np.einsum("np,np,np->n", tint, tint, weight)
        halves = np.einsum("np,np->n", np.abs(tint - tint[:, ::-1]), weight)
        columns += [mean, np.sqrt(np.maximum(square - mean**2, 0)), halves]
    return columns
