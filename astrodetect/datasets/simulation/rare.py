"""What is not an ordinary galaxy: mergers, rings, lenses, and what sky and camera put in the way."""

import numpy as np

from astrodetect.datasets.simulation.galaxies import (
    barred_spiral,
    centred_coordinates,
    disc_components,
    draw_colour,
    draw_size_and_flux,
    elliptical,
    elliptical_components,
    spiral,
)
from astrodetect.datasets.simulation.observing import (
    FRAME,
    LightComponent,
    Plane,
    SimulatedField,
    band_ratios,
    elliptical_radius,
    rotate_axes,
)


def merger(rng: np.random.Generator, sky: SimulatedField) -> None:
    """Two bodies, sometimes three, that pull each other out of shape and throw out tails."""
    radius, light = draw_size_and_flux(rng)
    mean, axis = draw_colour(rng), rng.uniform(0, 2 * np.pi)
    many = 2 if rng.random() < 0.8 else 3
    for at in range(many):
        size = radius * rng.uniform(0.45, 0.8)
        direction = axis + 2 * np.pi * at / many + rng.normal(0, 0.3)
        away = size * rng.uniform(0.6, 1.5)
        x, y = sky.x - np.float32(away * np.cos(direction)), sky.y - np.float32(away * np.sin(direction))
        x, y = _disturbed(rng, x, y, size)
        lights = (
            elliptical_components(rng, x, y, size)
            if rng.random() < 0.5
            else disc_components(rng, x, y, size, barred=rng.random() < 0.3)[0]
        )
        if rng.random() < 0.6:
            lights.append(
                LightComponent(_tail(rng, x, y, size, direction), rng.uniform(0.15, 0.6), redder=-rng.uniform(0, 0.3))
            )
        sky.add_body(lights, light * rng.uniform(0.35, 0.75), mean + rng.normal(0, 0.18))
    if rng.random() < 0.5:
        haze = elliptical_radius(*rotate_axes(sky.x, sky.y, axis), 0.0, rng.uniform(0.4, 0.9))
        sky.add_body([LightComponent(np.exp(-haze / np.float32(radius)), 1.0)], light * rng.uniform(0.1, 0.35), mean)


def _disturbed(rng: np.random.Generator, x: Plane, y: Plane, size: float) -> tuple[Plane, Plane]:
    """Places bent as tides bend a body."""
    u, v = rotate_axes(x, y, rng.uniform(0, 2 * np.pi))
    wave = np.float32(2 * np.pi / (size * rng.uniform(3.5, 7)))
    push = np.float32(size * rng.uniform(0.15, 0.5))
    return u, v + push * np.sin(wave * u + np.float32(rng.uniform(0, 6.28)))


def _tail(rng: np.random.Generator, x: Plane, y: Plane, size: float, direction: float) -> Plane:
    """A stream thrown outwards and bent to one side."""
    u, v = rotate_axes(x, y, direction + rng.normal(0, 0.5))
    curve = rng.choice([-1, 1]) * rng.uniform(0.1, 0.5) / size
    length, width = size * rng.uniform(1.2, 2.6), size * rng.uniform(0.22, 0.55)
    across = (v - np.float32(curve) * u * u) / (np.float32(width) * (1 + np.abs(u) / np.float32(2 * length)))
    along = np.exp(-((u / np.float32(length)) ** 2)) * (1 + np.tanh(u / np.float32(0.5 * size)))
    return np.asarray(np.exp(-across * across) * along, np.float32)


def ring(rng: np.random.Generator, sky: SimulatedField) -> None:
    """A galaxy whose stars lie in a ring, with a nucleus that may have left the middle."""
    x, y = centred_coordinates(rng, sky)
    radius, light = draw_size_and_flux(rng)
    ratio, angle = rng.uniform(0.55, 1.0), rng.uniform(0, np.pi)
    r = elliptical_radius(x, y, angle, ratio)
    azimuth = np.arctan2(y, x)
    wide, thick = radius * rng.uniform(1.1, 1.7), radius * rng.uniform(0.14, 0.28)
    uneven = 1 + np.float32(rng.uniform(0.1, 0.6)) * np.cos(azimuth - np.float32(rng.uniform(0, 6.28)))
    for k in rng.integers(3, 9, 3):
        uneven = uneven * np.exp(np.float32(0.2) * np.cos(k * azimuth + np.float32(rng.uniform(0, 6.28))))
    band = np.exp(-(((r - np.float32(wide)) / np.float32(thick)) ** 2)) * uneven
    astray = radius * rng.uniform(0, 0.45)
    off = rng.uniform(0, 2 * np.pi)
    core = elliptical_radius(
        x - np.float32(astray * np.cos(off)), y - np.float32(astray * np.sin(off)), angle, rng.uniform(0.6, 1.0)
    )
    lights = [
        LightComponent(np.asarray(band, np.float32), 1.0, redder=-rng.uniform(0.1, 0.4)),
        LightComponent(
            np.exp(-core / np.float32(radius * rng.uniform(0.13, 0.22))), rng.uniform(0.15, 0.6), redder=0.3
        ),
        LightComponent(np.exp(-r / np.float32(radius)), rng.uniform(0.05, 0.3)),
    ]
    sky.add_body(lights, light * rng.uniform(0.7, 1.1), draw_colour(rng))


def lens(rng: np.random.Generator, sky: SimulatedField) -> None:
    """A red elliptical that bends the light of a blue galaxy behind it into arcs or a ring."""
    x, y = centred_coordinates(rng, sky)
    radius, light = draw_size_and_flux(rng)
    sky.add_body(elliptical_components(rng, x, y, radius * 0.5), light * 0.45, float(rng.normal(0.95, 0.12)))
    einstein = np.float32(radius * rng.uniform(1.1, 1.8))
    offset = np.float32(einstein * rng.choice([0.06, 0.25, 0.45]) * rng.uniform(0.6, 1.2))
    size = np.float32(radius * rng.uniform(0.13, 0.22))
    u, v = rotate_axes(x, y, rng.uniform(0, 2 * np.pi))
    stretch = np.float32(rng.normal(0, 0.06))  # the lens is not quite round
    r = np.hypot(u, v) + np.float32(0.1)
    behind_u = u * (1 - einstein / r) - stretch * u - offset
    behind_v = v * (1 - einstein / r) + stretch * v
    arcs = np.exp(-np.hypot(behind_u, behind_v) / size * 1.2)
    brightness = 2 * np.pi * float(einstein) * float(size) * rng.uniform(0.7, 1.6)
    sky.add_body([LightComponent(np.asarray(arcs, np.float32), 1.0)], brightness, float(rng.uniform(-0.7, 0.0)))


def trail(rng: np.random.Generator, sky: SimulatedField) -> None:
    """An ordinary field that a satellite crosses: a straight streak in one band, or one beside another in several."""
    rng.choice(np.array([elliptical, spiral, barred_spiral]))(rng, sky)
    u, v = rotate_axes(sky.x, sky.y, rng.uniform(0, np.pi))
    v = v - np.float32(rng.uniform(-45, 45))
    begins, ends = -FRAME, FRAME
    if rng.random() < 0.4:  # it flashed up, or the exposure ended
        begins, ends = rng.uniform(-110, -30), rng.uniform(30, 110)
    shown = ((u > begins) & (u < ends)).astype(np.float32)
    width = np.float32(sky.step * rng.uniform(0.6, 0.9))
    bands = [1] if rng.random() < 0.45 else list(rng.permutation(3)[: rng.integers(1, 4)])
    apart, peak = rng.uniform(5, 16), np.exp(rng.uniform(-1.5, 1.3))
    for place, band in enumerate(bands):
        line = np.exp(-(((v - np.float32(apart * place)) / width) ** 2)) * shown
        sky.bands[band] += np.float32(peak * rng.uniform(0.6, 1.4)) * line


def ghost(rng: np.random.Generator, sky: SimulatedField) -> None:
    """A star too bright for the camera: spikes, a halo, reflections inside the telescope, a glow over the field."""
    if rng.random() < 0.6:
        elliptical(rng, sky)
    away, direction = rng.uniform(15, 85), rng.uniform(0, 2 * np.pi)
    at_x, at_y = away * np.cos(direction), away * np.sin(direction)
    x, y = sky.x - np.float32(at_x), sky.y - np.float32(at_y)
    r = np.hypot(x, y)
    tint = rng.uniform(-0.6, 1.3)
    peak = float(np.exp(rng.uniform(3.5, 6.0)))
    sky.add_star(at_x, at_y, peak * 8, tint)
    glow = 0.02 * peak / (1 + (r / np.float32(5)) ** 2) ** np.float32(1.25)
    _add(sky, glow, tint)
    for band, angle in enumerate(rng.uniform(0, np.pi) + rng.normal(0, 0.03, 3)):  # spikes turn a little with the band
        for spike in (angle, angle + np.pi / 2):
            u, v = rotate_axes(x, y, spike)
            cross = np.exp(-((v / np.float32(1.3)) ** 2)) / (1 + (u / np.float32(9)) ** 2)
            sky.bands[band] += np.float32(0.05 * peak) * cross
    for _ in range(rng.integers(0, 3)):  # out-of-focus images of the mirror, dark where its middle is shaded
        gx, gy = rng.uniform(-100, 100, 2)
        wide = rng.uniform(12, 45)
        d = np.hypot(sky.x - np.float32(gx), sky.y - np.float32(gy))
        pupil = np.tanh((wide - d) / 3) - 0.8 * np.tanh((wide * 0.4 - d) / 3) + 0.2
        bands = rng.uniform(0, 1, 3) ** 2
        sky.bands += (rng.uniform(0.05, 0.25) * bands[:, None, None] * pupil).astype(np.float32)
    if rng.random() < 0.5:
        _add(sky, rng.uniform(0.05, 0.5) * np.exp(-r / np.float32(rng.uniform(60, 250))), rng.uniform(0.3, 1.6))


def _add(sky: SimulatedField, plane: Plane, tint: float) -> None:
    sky.bands += band_ratios(tint)[:, None, None] * np.asarray(plane, np.float32)
