"""Models of rare objects and artefacts: mergers, ring galaxies, lenses, satellite trails, stellar ghosts."""

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
    Bands,
    LightComponent,
    Plane,
    SimulatedField,
    band_ratios,
    elliptical_radius,
    rotate_axes,
)


def merger(rng: np.random.Generator, field: SimulatedField) -> None:
    """Class merger: two or three tidally distorted galaxies, some with tidal tails."""
    radius, flux = draw_size_and_flux(rng)
    colour, axis = draw_colour(rng), rng.uniform(0, 2 * np.pi)
    galaxy_count = 2 if rng.random() < 0.8 else 3
    for number in range(galaxy_count):
        size = radius * rng.uniform(0.45, 0.8)
        direction = axis + 2 * np.pi * number / galaxy_count + rng.normal(0, 0.3)
        components = disturbed_galaxy(rng, field.x, field.y, size, direction)
        field.add_object(components, flux * rng.uniform(0.35, 0.75), colour + rng.normal(0, 0.18))
    if rng.random() < 0.5:
        halo = elliptical_radius(*rotate_axes(field.x, field.y, axis), 0.0, rng.uniform(0.4, 0.9))
        field.add_object(
            [LightComponent(np.exp(-halo / np.float32(radius)), 1.0)], flux * rng.uniform(0.1, 0.35), colour
        )


def disturbed_galaxy(
    rng: np.random.Generator, x: Plane, y: Plane, size: float, direction: float
) -> list[LightComponent]:
    """Components of a tidally distorted galaxy in this direction from the centre, often with a tidal tail."""
    distance = size * rng.uniform(0.6, 1.5)
    x, y = x - np.float32(distance * np.cos(direction)), y - np.float32(distance * np.sin(direction))
    x, y = _tidally_distorted(rng, x, y, size)
    components = (
        elliptical_components(rng, x, y, size)
        if rng.random() < 0.5
        else disc_components(rng, x, y, size, barred=rng.random() < 0.3)[0]
    )
    if rng.random() < 0.6:
        tail = _tidal_tail(rng, x, y, size, direction)
        components.append(LightComponent(tail, rng.uniform(0.15, 0.6), redder=-rng.uniform(0, 0.3)))
    return components


def _tidally_distorted(rng: np.random.Generator, x: Plane, y: Plane, size: float) -> tuple[Plane, Plane]:
    """Coordinates displaced by a sinusoidal tidal distortion."""
    u, v = rotate_axes(x, y, rng.uniform(0, 2 * np.pi))
    wavenumber = np.float32(2 * np.pi / (size * rng.uniform(3.5, 7)))
    amplitude = np.float32(size * rng.uniform(0.15, 0.5))
    return u, v + amplitude * np.sin(wavenumber * u + np.float32(rng.uniform(0, 6.28)))


def _tidal_tail(rng: np.random.Generator, x: Plane, y: Plane, size: float, direction: float) -> Plane:
    """A curved tidal tail."""
    u, v = rotate_axes(x, y, direction + rng.normal(0, 0.5))
    curvature = rng.choice([-1, 1]) * rng.uniform(0.1, 0.5) / size
    length, width = size * rng.uniform(1.2, 2.6), size * rng.uniform(0.22, 0.55)
    across = (v - np.float32(curvature) * u * u) / (np.float32(width) * (1 + np.abs(u) / np.float32(2 * length)))
    along = np.exp(-((u / np.float32(length)) ** 2)) * (1 + np.tanh(u / np.float32(0.5 * size)))
    return np.asarray(np.exp(-across * across) * along, np.float32)


def ring(rng: np.random.Generator, field: SimulatedField) -> None:
    """Class ring: a ring galaxy with a nucleus that may be off-centre."""
    x, y = centred_coordinates(rng, field)
    radius, flux = draw_size_and_flux(rng)
    ratio, angle = rng.uniform(0.55, 1.0), rng.uniform(0, np.pi)
    r = elliptical_radius(x, y, angle, ratio)
    band = ring_light(rng, x, y, r, radius)
    offset = radius * rng.uniform(0, 0.45)
    offset_angle = rng.uniform(0, 2 * np.pi)
    core_r = elliptical_radius(
        x - np.float32(offset * np.cos(offset_angle)),
        y - np.float32(offset * np.sin(offset_angle)),
        angle,
        rng.uniform(0.6, 1.0),
    )
    components = [
        LightComponent(band, 1.0, redder=-rng.uniform(0.1, 0.4)),
        LightComponent(
            np.exp(-core_r / np.float32(radius * rng.uniform(0.13, 0.22))), rng.uniform(0.15, 0.6), redder=0.3
        ),
        LightComponent(np.exp(-r / np.float32(radius)), rng.uniform(0.05, 0.3)),
    ]
    field.add_object(components, flux * rng.uniform(0.7, 1.1), draw_colour(rng))


def ring_light(rng: np.random.Generator, x: Plane, y: Plane, r: Plane, radius: float) -> Plane:
    """An uneven ring around an object of this half-light radius; `r` is the elliptical radius."""
    azimuth = np.arctan2(y, x)
    ring_radius, ring_width = radius * rng.uniform(1.1, 1.7), radius * rng.uniform(0.14, 0.28)
    asymmetry = 1 + np.float32(rng.uniform(0.1, 0.6)) * np.cos(azimuth - np.float32(rng.uniform(0, 6.28)))
    for k in rng.integers(3, 9, 3):
        asymmetry = asymmetry * np.exp(np.float32(0.2) * np.cos(k * azimuth + np.float32(rng.uniform(0, 6.28))))
    return np.asarray(np.exp(-(((r - np.float32(ring_radius)) / np.float32(ring_width)) ** 2)) * asymmetry, np.float32)


def lens(rng: np.random.Generator, field: SimulatedField) -> None:
    """Class lens: a red elliptical that lenses a blue background galaxy into arcs or an Einstein ring."""
    x, y = centred_coordinates(rng, field)
    radius, flux = draw_size_and_flux(rng)
    field.add_object(elliptical_components(rng, x, y, radius * 0.5), flux * 0.45, float(rng.normal(0.95, 0.12)))
    arcs, area = lensed_arcs(rng, x, y, radius)
    field.add_object([LightComponent(arcs, 1.0)], area * rng.uniform(0.7, 1.6), float(rng.uniform(-0.7, 0.0)))


def lensed_arcs(rng: np.random.Generator, x: Plane, y: Plane, radius: float) -> tuple[Plane, float]:
    """The images of a source behind a lens of this half-light radius, and about the area that they cover."""
    einstein_radius = np.float32(radius * rng.uniform(1.1, 1.8))
    offset = np.float32(einstein_radius * rng.choice([0.06, 0.25, 0.45]) * rng.uniform(0.6, 1.2))
    size = np.float32(radius * rng.uniform(0.13, 0.22))
    u, v = rotate_axes(x, y, rng.uniform(0, 2 * np.pi))
    shear = np.float32(rng.normal(0, 0.06))
    r = np.hypot(u, v) + np.float32(0.1)
    source_u = u * (1 - einstein_radius / r) - shear * u - offset
    source_v = v * (1 - einstein_radius / r) + shear * v
    arcs = np.exp(-np.hypot(source_u, source_v) / size * 1.2)
    return np.asarray(arcs, np.float32), 2 * np.pi * float(einstein_radius) * float(size)


def trail(rng: np.random.Generator, field: SimulatedField) -> None:
    """Class trail: an ordinary galaxy crossed by a satellite trail in one band, or in several with an offset."""
    rng.choice(np.array([elliptical, spiral, barred_spiral]))(rng, field)
    field.bands += satellite_trail(rng, field.x, field.y, field.step)


def satellite_trail(rng: np.random.Generator, x: Plane, y: Plane, step: float) -> Bands:
    """A line in one band, or parallel ones in several; `step` is the size of a pixel."""
    u, v = rotate_axes(x, y, rng.uniform(0, np.pi))
    v = v - np.float32(rng.uniform(-45, 45))
    start, end = -FRAME, FRAME
    if rng.random() < 0.4:  # a flash, or the end of the exposure
        start, end = rng.uniform(-110, -30), rng.uniform(30, 110)
    visible = ((u > start) & (u < end)).astype(np.float32)
    width = np.float32(step * rng.uniform(0.6, 0.9))
    bands = [1] if rng.random() < 0.45 else list(rng.permutation(3)[: rng.integers(1, 4)])
    separation, peak = rng.uniform(5, 16), np.exp(rng.uniform(-1.5, 1.3))
    light = np.zeros((3, *x.shape), np.float32)
    for number, band in enumerate(bands):
        line = np.exp(-(((v - np.float32(separation * number)) / width) ** 2)) * visible
        light[band] += np.float32(peak * rng.uniform(0.6, 1.4)) * line
    return light


def ghost(rng: np.random.Generator, field: SimulatedField) -> None:
    """Class ghost: a saturated star with halo, diffraction spikes, internal reflections and scattered light."""
    if rng.random() < 0.6:
        elliptical(rng, field)
    distance, direction = rng.uniform(15, 85), rng.uniform(0, 2 * np.pi)
    star_x, star_y = distance * np.cos(direction), distance * np.sin(direction)
    x, y = field.x - np.float32(star_x), field.y - np.float32(star_y)
    r = np.hypot(x, y)
    colour = rng.uniform(-0.6, 1.3)
    peak = float(np.exp(rng.uniform(3.5, 6.0)))
    field.add_star(star_x, star_y, peak * 8, colour)
    halo = 0.02 * peak / (1 + (r / np.float32(5)) ** 2) ** np.float32(1.25)
    _add_plane(field, halo, colour)
    for band, angle in enumerate(
        rng.uniform(0, np.pi) + rng.normal(0, 0.03, 3)
    ):  # slightly different angles in each band
        for spike_angle in (angle, angle + np.pi / 2):
            u, v = rotate_axes(x, y, spike_angle)
            spike = np.exp(-((v / np.float32(1.3)) ** 2)) / (1 + (u / np.float32(9)) ** 2)
            field.bands[band] += np.float32(0.05 * peak) * spike
    for _ in range(rng.integers(0, 3)):  # out-of-focus pupil images with the central obstruction
        pupil_x, pupil_y = rng.uniform(-100, 100, 2)
        pupil_radius = rng.uniform(12, 45)
        r_pupil = np.hypot(field.x - np.float32(pupil_x), field.y - np.float32(pupil_y))
        pupil = np.tanh((pupil_radius - r_pupil) / 3) - 0.8 * np.tanh((pupil_radius * 0.4 - r_pupil) / 3) + 0.2
        band_flux = rng.uniform(0, 1, 3) ** 2
        field.bands += (rng.uniform(0.05, 0.25) * band_flux[:, None, None] * pupil).astype(np.float32)
    if rng.random() < 0.5:
        _add_plane(field, rng.uniform(0.05, 0.5) * np.exp(-r / np.float32(rng.uniform(60, 250))), rng.uniform(0.3, 1.6))


def _add_plane(field: SimulatedField, plane: Plane, colour: float) -> None:
    field.bands += band_ratios(colour)[:, None, None] * np.asarray(plane, np.float32)
