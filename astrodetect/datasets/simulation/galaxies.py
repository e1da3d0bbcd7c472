"""The shapes of ordinary galaxies: ellipticals, barred and unbarred spirals, discs seen edge-on."""

import numpy as np

from astrodetect.datasets.simulation.observing import (
    FRAME,
    LightComponent,
    Plane,
    SimulatedField,
    elliptical_radius,
    rotate_axes,
)


def draw_size_and_flux(rng: np.random.Generator) -> tuple[float, float]:
    """Half-light radius and total light, drawn alike for every class, so that neither tells classes apart."""
    radius = float(rng.uniform(13.0, 25.0))
    return radius, 2 * np.pi * radius**2 * float(np.exp(rng.normal(0.4, 0.5)))


def draw_colour(rng: np.random.Generator) -> float:
    """The mean colour of a galaxy, drawn alike for every class: yellow and bluish ones."""
    return float(rng.normal(0.72, 0.17) if rng.random() < 0.6 else rng.normal(0.25, 0.17))


def centred_coordinates(rng: np.random.Generator, sky: SimulatedField, jitter: float = 1.5) -> tuple[Plane, Plane]:
    """Places seen from the galaxy, which the survey's cutout centres nearly."""
    dx, dy = rng.normal(0, jitter, 2)
    return sky.x - np.float32(dx), sky.y - np.float32(dy)


def sersic(r: Plane, radius: float, index: float) -> Plane:
    """Sérsic's profile with this half-light radius; its cusp is rounded off, as a pixel would."""
    steep = 2 * index - 1 / 3
    soft = np.sqrt(r * r + np.float32(0.8)) / np.float32(radius)
    return np.asarray(np.exp(-steep * soft ** np.float32(1 / index)), np.float32)


def elliptical(rng: np.random.Generator, sky: SimulatedField) -> None:
    """A smooth ellipse of old stars: E."""
    x, y = centred_coordinates(rng, sky)
    radius, light = draw_size_and_flux(rng)
    sky.add_body(elliptical_components(rng, x, y, radius * rng.uniform(0.78, 1.0)), 0.94 * light, draw_colour(rng))


def elliptical_components(rng: np.random.Generator, x: Plane, y: Plane, radius: float) -> list[LightComponent]:
    """An elliptical's light, reddest in the middle; its isophotes are a little twisted and boxy."""
    ratio, angle = rng.uniform(0.55, 1.0), rng.uniform(0, np.pi)
    twist = np.float32(rng.normal(0, 0.12)) * np.log((np.hypot(x, y) + 1) / np.float32(radius))
    r = elliptical_radius(x, y, angle + twist, ratio, boxiness=rng.uniform(1.8, 2.3))
    plane = _profile(rng, x, y, r, radius)
    core = np.exp(-r / np.float32(radius * rng.uniform(0.4, 1.5)))
    inner, outer = plane * core, plane * (1 - core)
    share = float(inner.sum() / plane.sum())
    knee = sersic(r, radius * rng.uniform(0.2, 0.4), rng.uniform(0.4, 1.5))
    return [
        LightComponent(inner, share, redder=rng.normal(0.28, 0.28)),
        LightComponent(outer, 1 - share),
        LightComponent(knee, rng.uniform(0.08, 0.3), redder=rng.normal(0.15, 0.25)),
    ]


def _profile(rng: np.random.Generator, x: Plane, y: Plane, r: Plane, radius: float) -> Plane:
    """Light that falls off with r as somewhere between Sérsic's profile and the histogram of a barred spiral.

    Were it Sérsic's alone, the share of bright and of dim pixels would tell E from SB, and no network need look at the
    shape. So the brightest pixel in the middle of a spiral lends its light to the innermost, and so on outwards.
    """
    coarse = (slice(None, None, 2), slice(None, None, 2))
    lights, _ = disc_components(rng, x[coarse], y[coarse], radius, barred=True)
    smooth_parts = [part for part in lights if part.plane.min() > 0]  # knots have no place in an elliptical
    spiral_light = sum(part.plane * np.float32(part.share / part.plane.sum()) for part in smooth_parts)
    inside = np.maximum(np.abs(x[coarse]), np.abs(y[coarse])) < FRAME / 6
    at = np.sort(r[coarse][inside]).astype(float)
    borrowed = np.log(np.sort(np.asarray(spiral_light)[inside])[::-1].astype(float))
    own = np.log(sersic(at, radius, rng.uniform(1.7, 4.2)))
    likeness = rng.uniform(0.2, 1.0)
    profile = likeness * borrowed + (1 - likeness) * own
    for _ in range(3):  # no two are alike: cores, envelopes, shoulders
        swing, often, phase = rng.normal(0, 0.23), rng.uniform(1, 4.5), rng.uniform(0, 2 * np.pi)
        profile += swing * np.cos(often * np.log(at + 2) + phase)
    profile = np.minimum.accumulate(profile)
    beyond = np.minimum(at[-1] - r, 0) / np.float32(0.7 * radius)
    return np.asarray(np.exp(np.interp(r, at, profile) - profile[0] + beyond), np.float32)


def spiral(rng: np.random.Generator, sky: SimulatedField) -> None:
    """A disc whose arms come out of the bulge: S."""
    _spiral(rng, sky, barred=False)


def barred_spiral(rng: np.random.Generator, sky: SimulatedField) -> None:
    """A disc whose arms are joined by a bar through the middle: SB."""
    _spiral(rng, sky, barred=True)


def _spiral(rng: np.random.Generator, sky: SimulatedField, *, barred: bool) -> None:
    x, y = centred_coordinates(rng, sky)
    radius, light = draw_size_and_flux(rng)
    lights, dust = disc_components(rng, x, y, radius, barred=barred)
    sky.add_body(lights, light, draw_colour(rng), dust)


def disc_components(
    rng: np.random.Generator, x: Plane, y: Plane, radius: float, *, barred: bool
) -> tuple[list[LightComponent], Plane | None]:
    """A spiral's light: bulge, bar, disc, arms from the bar's ends, knots, sometimes a ring and dust."""
    tilt, angle = rng.uniform(0.55, 1.0), rng.uniform(0, np.pi)
    u, v = rotate_axes(x, y, angle)
    scale = radius / 1.45 / tilt**0.25
    u, v = rotate_axes(u, v / np.float32(tilt), rng.uniform(0, np.pi))  # in the disc's own plane, along the bar
    r, azimuth = np.hypot(u, v) + np.float32(1e-3), np.arctan2(v, u)
    contrast = rng.uniform(0.35, 1.0)

    bulge_ratio = 1 - 0.4 * (1 - tilt)
    bulge = sersic(elliptical_radius(x, y, angle, bulge_ratio), radius * rng.uniform(0.14, 0.34), rng.uniform(1.0, 3.5))
    lights = [LightComponent(bulge, rng.uniform(0.06, 0.3), redder=rng.uniform(0.0, 0.35))]
    start = scale * rng.uniform(0.2, 0.5)
    if barred:
        start = scale * rng.uniform(1.05, 1.7)
        lights.append(LightComponent(_bar(rng, u, v, start), rng.uniform(0.2, 0.32), redder=rng.uniform(0.05, 0.25)))
    plain = np.exp(-r / np.float32(scale * 1.05))
    if barred:  # a bar sweeps its surroundings
        plain *= 1 - np.float32(0.6 * contrast) * np.exp(-((r / np.float32(0.75 * start)) ** 4))
    lights.append(LightComponent(plain, rng.uniform(0.25, 0.4), redder=0.0))

    arms, inner = _arms(rng, r, azimuth, start, scale)
    lights.append(LightComponent(arms, rng.uniform(0.3, 0.45) * contrast, redder=-rng.uniform(0.0, 0.25)))
    lights.append(LightComponent(_knots(rng, arms), rng.uniform(0.0, 0.035), redder=-rng.uniform(0.2, 0.5)))
    if rng.random() < 0.25:
        ring = np.exp(-(((r - np.float32(start)) / np.float32(0.16 * start + 1)) ** 2))
        lights.append(LightComponent(ring, rng.uniform(0.05, 0.15), redder=-0.05))
    dust = inner * np.float32(rng.uniform(0.2, 0.7)) if rng.random() < 0.5 else None
    return lights, dust


def _bar(rng: np.random.Generator, u: Plane, v: Plane, length: float) -> Plane:
    """A rod of light with a flat top and sharp ends."""
    thick = length * rng.uniform(0.2, 0.32)
    m = (np.abs(u / np.float32(length)) ** np.float32(2.8) + np.abs(v / np.float32(thick)) ** np.float32(2.0)) ** 0.4
    return np.asarray(np.exp(-1.5 * m**3) * (1 + 0.7 * np.exp(-2 * m)), np.float32)


def _arms(rng: np.random.Generator, r: Plane, azimuth: Plane, start: float, scale: float) -> tuple[Plane, Plane]:
    """Logarithmic spirals that leave the ends of the bar, and where the dust lies along their inner side."""
    many = int(rng.choice([2, 2, 2, 2, 3]))
    pitch = np.radians(rng.uniform(13, 28))
    hand = rng.choice([-1, 1])
    turn = np.log(r / np.float32(start)) / np.float32(np.tan(pitch))
    sharp = np.float32(rng.uniform(0.9, 2.8))
    reach = scale * rng.uniform(1.1, 1.5)
    phase = azimuth - hand * turn
    wave = np.cos(many * phase)
    uneven = 1 + np.float32(rng.uniform(0, 0.35)) * np.cos(phase + np.float32(rng.uniform(0, 6.28)))
    envelope = np.exp(-r / np.float32(reach)) / (1 + np.exp((np.float32(start * 0.9) - r) / np.float32(0.09 * start)))
    patches = np.zeros_like(r)
    for _ in range(5):
        k, wind, at = rng.integers(2, 9), rng.normal(0, 7), rng.uniform(0, 6.28)
        patches += np.cos(k * (azimuth - 0.5 * hand * turn) + np.float32(wind) * np.log(r) + np.float32(at))
    arms = envelope * uneven * np.exp(sharp * (wave - 1) + np.float32(rng.uniform(0.05, 0.3)) * patches)
    lane = np.exp(4 * (np.cos(many * phase + np.float32(hand * 0.9)) - 1)) * np.exp(-r / np.float32(2 * scale))
    return np.asarray(arms, np.float32), np.asarray(lane * (r > start * 0.8), np.float32)


def _knots(rng: np.random.Generator, arms: Plane) -> Plane:
    """Star-forming knots, where the arms are bright."""
    ladder = np.cumsum(arms, dtype=np.float64)
    places = np.searchsorted(ladder, rng.uniform(0, ladder[-1], rng.integers(6, 40)))
    knots = np.zeros_like(arms)
    np.add.at(knots.ravel(), np.minimum(places, arms.size - 1), rng.exponential(1.0, places.size).astype(np.float32))
    return knots


def edge_on(rng: np.random.Generator, sky: SimulatedField) -> None:
    """A disc seen from its side: a thin streak, often with a bulge, sometimes with a dust lane: edge."""
    x, y = centred_coordinates(rng, sky)
    radius, light = draw_size_and_flux(rng)
    u, v = rotate_axes(x, y, rng.uniform(0, np.pi))
    length = radius * rng.uniform(0.75, 1.05)
    thick = length * rng.uniform(0.14, 0.28)
    bend = np.float32(rng.normal(0, 0.02) / length) * u * np.abs(u) / 2
    v = np.asarray(v - bend, np.float32)
    height = np.minimum(np.abs(v) / np.float32(thick), 30)
    thin = np.exp(-np.sqrt(u * u + 9) / np.float32(length)) / np.cosh(height) ** 2
    lights = [LightComponent(thin, 1.0, redder=-0.05)]
    if rng.random() < 0.75:
        bulge = sersic(elliptical_radius(u, v, 0.0, rng.uniform(0.6, 0.9)), radius * rng.uniform(0.18, 0.35), 2.0)
        lights.append(LightComponent(bulge, rng.uniform(0.1, 0.45), redder=0.12))
    dust = None
    if rng.random() < 0.4:
        offset = rng.normal(0, 0.35) * thick
        lane = np.exp(-(((v - np.float32(offset)) / np.float32(0.35 * thick + 0.6)) ** 2))
        dust = lane * np.exp(-((u / np.float32(2 * length)) ** 2)) * np.float32(rng.uniform(0.8, 2.2))
    sky.add_body(lights, light * 0.6, draw_colour(rng), dust)
