"""Models of ordinary galaxies: ellipticals, barred and unbarred spirals, edge-on discs."""

import numpy as np

from astrodetect.datasets.simulation.observing import (
    FRAME,
    LightComponent,
    Plane,
    SimulatedField,
    elliptical_radius,
    log_uniform,
    rotate_axes,
)

RED_ELLIPTICALS, RED_SPIRALS = 0.8, 0.3  # fractions on the red sequence
ELLIPTICAL_FLUX, SPIRAL_FLUX = 1.05, 0.6  # relative to the common distribution: ellipticals have brighter centres
CENTRE_JITTER_PX = 1.5
FAINTEST = 1e-12  # keeps logarithms of profiles finite far outside


def draw_size_and_flux(rng: np.random.Generator) -> tuple[float, float]:
    """Half-light radius and total flux, from the same distribution for every class."""
    radius = log_uniform(rng, 8.0, 16.0)
    return radius, 2 * np.pi * radius**2 * float(np.exp(rng.normal(0.5, 0.4)))


def draw_colour(rng: np.random.Generator, red_fraction: float = 0.5) -> float:
    """Mean colour index: of the red sequence for this fraction of the galaxies, else of the blue cloud."""
    return float(rng.normal(0.6, 0.17) if rng.random() < red_fraction else rng.normal(0.16, 0.18))


def centred_coordinates(rng: np.random.Generator, field: SimulatedField) -> tuple[Plane, Plane]:
    """Coordinates relative to the galaxy, which lies near the centre of the cutout."""
    dx, dy = rng.normal(0, CENTRE_JITTER_PX, 2)
    return field.x - np.float32(dx), field.y - np.float32(dy)


def sersic(r: Plane, radius: float, index: float) -> Plane:
    """Sérsic profile with this half-light radius; the central cusp is softened on the scale of a pixel."""
    b_n = 2 * index - 1 / 3
    softened = np.sqrt(r * r + np.float32(0.8)) / np.float32(radius)
    return np.asarray(np.exp(-b_n * softened ** np.float32(1 / index)), np.float32)


def elliptical(rng: np.random.Generator, field: SimulatedField) -> None:
    """Class E: a smooth elliptical galaxy."""
    x, y = centred_coordinates(rng, field)
    radius, flux = draw_size_and_flux(rng)
    components = elliptical_components(rng, x, y, radius * rng.uniform(0.78, 1.0))
    field.add_object(components, ELLIPTICAL_FLUX * flux, draw_colour(rng, RED_ELLIPTICALS))


def elliptical_components(rng: np.random.Generator, x: Plane, y: Plane, radius: float) -> list[LightComponent]:
    """Components of an elliptical: redder centre, isophote twist and boxiness."""
    ratio, angle = rng.uniform(0.35, 1.0), rng.uniform(0, np.pi)
    twist = np.float32(rng.normal(0, 0.12)) * np.log((np.hypot(x, y) + 1) / np.float32(radius))
    r = elliptical_radius(x, y, angle + twist, ratio, boxiness=rng.uniform(1.8, 2.3))
    profile = _elliptical_profile(rng, x, y, r, radius)
    core = np.exp(-r / np.float32(radius * rng.uniform(0.4, 1.5)))
    inner, outer = profile * core, profile * (1 - core)
    inner_fraction = float(inner.sum() / profile.sum())
    cusp = sersic(r, radius * rng.uniform(0.2, 0.4), rng.uniform(0.4, 1.5))
    return [
        LightComponent(inner, inner_fraction, redder=rng.normal(0.28, 0.28)),
        LightComponent(outer, 1 - inner_fraction),
        LightComponent(cusp, rng.uniform(0.0, 0.15), redder=rng.normal(0.15, 0.25)),
    ]


def _elliptical_profile(rng: np.random.Generator, x: Plane, y: Plane, r: Plane, radius: float) -> Plane:
    """Radial profile interpolated between a Sérsic profile and the pixel histogram of a barred spiral.

    The pixels of a random spiral, sorted by brightness, are matched to the radii sorted outwards, so that brightness
    histograms of the classes overlap.
    """
    coarse = (slice(None, None, 2), slice(None, None, 2))
    components, _ = disc_components(rng, x[coarse], y[coarse], radius, barred=True)
    smooth_parts = [part for part in components if (part.profile > 0).mean() > 0.5]  # without star-forming knots
    spiral_light = sum(part.profile * np.float32(part.fraction / part.profile.sum()) for part in smooth_parts)
    inside = np.maximum(np.abs(x[coarse]), np.abs(y[coarse])) < FRAME / 6
    sorted_r = np.sort(r[coarse][inside]).astype(float)
    spiral_profile = np.log(np.sort(np.asarray(spiral_light)[inside])[::-1].astype(float) + FAINTEST)
    sersic_profile = np.log(sersic(sorted_r, radius, rng.uniform(1.5, 4.2)) + FAINTEST)
    weight = rng.uniform(0.0, 0.35)
    profile = weight * spiral_profile + (1 - weight) * sersic_profile
    for _ in range(3):  # random deviations: cores, envelopes, shoulders
        amplitude, frequency, phase = rng.normal(0, 0.23), rng.uniform(1, 4.5), rng.uniform(0, 2 * np.pi)
        profile += amplitude * np.cos(frequency * np.log(sorted_r + 2) + phase)
    profile = np.minimum.accumulate(profile)
    beyond = np.minimum(sorted_r[-1] - r, 0) / np.float32(0.7 * radius)
    return np.asarray(np.exp(np.interp(r, sorted_r, profile) - profile[0] + beyond), np.float32)


def spiral(rng: np.random.Generator, field: SimulatedField) -> None:
    """Class S: a disc galaxy with spiral arms that start at the bulge."""
    _spiral(rng, field, barred=False)


def barred_spiral(rng: np.random.Generator, field: SimulatedField) -> None:
    """Class SB: a disc galaxy with spiral arms that start at the ends of a central bar."""
    _spiral(rng, field, barred=True)


def _spiral(rng: np.random.Generator, field: SimulatedField, *, barred: bool) -> None:
    x, y = centred_coordinates(rng, field)
    radius, flux = draw_size_and_flux(rng)
    components, dust = disc_components(rng, x, y, radius * rng.uniform(0.75, 1.0), barred=barred)
    field.add_object(components, SPIRAL_FLUX * flux, draw_colour(rng, RED_SPIRALS), dust)


def disc_components(
    rng: np.random.Generator, x: Plane, y: Plane, radius: float, *, barred: bool
) -> tuple[list[LightComponent], Plane | None]:
    """Components of a spiral galaxy (bulge, bar, exponential disc, arms, knots, sometimes a ring), and its dust."""
    axis_ratio, angle = rng.uniform(0.4, 1.0), rng.uniform(0, np.pi)
    u, v = rotate_axes(x, y, angle)
    scale_length = radius / 1.65 / axis_ratio**0.25
    u, v = rotate_axes(u, v / np.float32(axis_ratio), rng.uniform(0, np.pi))  # in the plane of the disc, along the bar
    r, azimuth = np.hypot(u, v) + np.float32(1e-3), np.arctan2(v, u)
    contrast = rng.uniform(0.35, 1.0)

    bulge_ratio = 1 - 0.4 * (1 - axis_ratio)
    bulge = sersic(elliptical_radius(x, y, angle, bulge_ratio), radius * rng.uniform(0.1, 0.3), rng.uniform(1.0, 3.5))
    components = [LightComponent(bulge, rng.uniform(0.02, 0.25), redder=rng.uniform(0.3, 0.9))]
    arm_start = scale_length * rng.uniform(0.2, 0.5)
    if barred:
        arm_start = scale_length * rng.uniform(1.05, 1.7)
        bar = _bar(rng, u, v, arm_start)
        components.append(LightComponent(bar, rng.uniform(0.08, 0.25), redder=rng.uniform(0.05, 0.25)))
    disc = np.exp(-r / np.float32(scale_length * 1.05))
    if barred:  # the bar depletes the disc within its radius
        disc *= 1 - np.float32(0.6 * contrast) * np.exp(-((r / np.float32(0.75 * arm_start)) ** 4))
    components.append(LightComponent(disc, rng.uniform(0.25, 0.4), redder=0.0))

    arms, dust_lanes = _spiral_arms(rng, r, azimuth, arm_start, scale_length)
    components.append(LightComponent(arms, rng.uniform(0.3, 0.45) * contrast, redder=-rng.uniform(0.0, 0.25)))
    components.append(
        LightComponent(_star_forming_knots(rng, arms), rng.uniform(0.0, 0.035), redder=-rng.uniform(0.2, 0.5))
    )
    if rng.random() < 0.25:
        ring = np.exp(-(((r - np.float32(arm_start)) / np.float32(0.16 * arm_start + 1)) ** 2))
        components.append(LightComponent(ring, rng.uniform(0.05, 0.15), redder=-0.05))
    dust = dust_lanes * np.float32(rng.uniform(0.2, 0.7)) if rng.random() < 0.5 else None
    return components, dust


def _bar(rng: np.random.Generator, u: Plane, v: Plane, length: float) -> Plane:
    """Bar with a flat profile and sharp ends (superellipse)."""
    width = length * rng.uniform(0.2, 0.32)
    m = (np.abs(u / np.float32(length)) ** np.float32(2.8) + np.abs(v / np.float32(width)) ** np.float32(2.0)) ** 0.4
    return np.asarray(np.exp(-1.5 * m**3) * (1 + 0.7 * np.exp(-2 * m)), np.float32)


def _spiral_arms(
    rng: np.random.Generator, r: Plane, azimuth: Plane, start: float, scale_length: float
) -> tuple[Plane, Plane]:
    """Logarithmic spiral arms that begin at radius `start`, and the dust lanes along their inner edges."""
    arm_count = int(rng.choice([2, 2, 2, 2, 3]))
    pitch = np.radians(rng.uniform(13, 28))
    handedness = rng.choice([-1, 1])
    winding = np.log(r / np.float32(start)) / np.float32(np.tan(pitch))
    sharpness = np.float32(rng.uniform(0.9, 2.8))
    arm_length = scale_length * rng.uniform(1.1, 1.5)
    phase = azimuth - handedness * winding
    wave = np.cos(arm_count * phase)
    asymmetry = 1 + np.float32(rng.uniform(0, 0.35)) * np.cos(phase + np.float32(rng.uniform(0, 6.28)))
    envelope = np.exp(-r / np.float32(arm_length)) / (
        1 + np.exp((np.float32(start * 0.9) - r) / np.float32(0.09 * start))
    )
    patches = np.zeros_like(r)
    for _ in range(5):
        k, shear, offset = rng.integers(2, 9), rng.normal(0, 7), rng.uniform(0, 6.28)
        patches += np.cos(
            k * (azimuth - 0.5 * handedness * winding) + np.float32(shear) * np.log(r) + np.float32(offset)
        )
    arms = envelope * asymmetry * np.exp(sharpness * (wave - 1) + np.float32(rng.uniform(0.05, 0.3)) * patches)
    lane = np.exp(4 * (np.cos(arm_count * phase + np.float32(handedness * 0.9)) - 1))
    lane = lane * np.exp(-r / np.float32(2 * scale_length))
    return np.asarray(arms, np.float32), np.asarray(lane * (r > start * 0.8), np.float32)


def _star_forming_knots(rng: np.random.Generator, arms: Plane) -> Plane:
    """Point-like star-forming regions, drawn with a probability proportional to the arms' brightness."""
    cumulative = np.cumsum(arms, dtype=np.float64)
    indices = np.searchsorted(cumulative, rng.uniform(0, cumulative[-1], rng.integers(6, 40)))
    knots = np.zeros_like(arms)
    np.add.at(knots.ravel(), np.minimum(indices, arms.size - 1), rng.exponential(1.0, indices.size).astype(np.float32))
    return knots


def edge_on(rng: np.random.Generator, field: SimulatedField) -> None:
    """Class edge: an edge-on disc, often with a bulge, sometimes warped or with a dust lane."""
    x, y = centred_coordinates(rng, field)
    radius, flux = draw_size_and_flux(rng)
    u, v = rotate_axes(x, y, rng.uniform(0, np.pi))
    length = radius * rng.uniform(0.75, 1.05)
    thickness = length * rng.uniform(0.14, 0.28)
    warp = np.float32(rng.normal(0, 0.02) / length) * u * np.abs(u) / 2
    v = np.asarray(v - warp, np.float32)
    height = np.minimum(np.abs(v) / np.float32(thickness), 30)
    disc = np.exp(-np.sqrt(u * u + 9) / np.float32(length)) / np.cosh(height) ** 2
    components = [LightComponent(disc, 1.0, redder=-0.05)]
    if rng.random() < 0.75:
        bulge = sersic(elliptical_radius(u, v, 0.0, rng.uniform(0.6, 0.9)), radius * rng.uniform(0.18, 0.35), 2.0)
        components.append(LightComponent(bulge, rng.uniform(0.1, 0.45), redder=0.12))
    dust = None
    if rng.random() < 0.4:
        offset = rng.normal(0, 0.35) * thickness
        lane = np.exp(-(((v - np.float32(offset)) / np.float32(0.35 * thickness + 0.6)) ** 2))
        dust = lane * np.exp(-((u / np.float32(2 * length)) ** 2)) * np.float32(rng.uniform(0.8, 2.2))
    field.add_object(components, flux * 0.6, draw_colour(rng), dust)
