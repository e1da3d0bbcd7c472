"""What a survey makes of the light of the sky: seeing, noise, the asinh composite of three bands, the cutout."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrodetect.records import Pixels

Plane = NDArray[np.float32]  # one band or one component: (n, n)
Bands = NDArray[np.float32]  # red, green, blue as the composite shows them: i, r, g (3, n, n)

FRAME = 227.0  # lengths are in pixels of a cutout this wide, whatever size it is rendered at
SOFTENING = 8.0  # Lupton's Q: how soon the asinh turns from linear to logarithmic
FULL_WELL = 80.0  # brightness that the camera cannot exceed: cores of bright stars are white
SKY_LIGHT = 1.2  # brightness at which an object's photons add as much variance as the sky's
WIDE_WINGS = 0.12  # share of the light that the seeing throws into its outer Gaussian
MARGIN = 16  # survey pixels rendered beyond the frame, so that light does not wrap around


@dataclass(frozen=True, slots=True)
class LightComponent:
    """A component of a body: its shape, its share of the body's light, and how much redder than the body it is."""

    plane: Plane
    share: float
    redder: float = 0.0


class SimulatedField:
    """One field as the survey's camera saw it: a grid of survey pixels to paint light on, then to develop."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.step = float(rng.uniform(1.05, 2.1))  # frame pixels in one survey pixel
        self._inner = round(FRAME / self.step)
        width = self._inner + 2 * MARGIN
        self.y, self.x = (
            ((axis - (width - 1) / 2) * self.step).astype(np.float32)
            for axis in np.meshgrid(np.arange(width), np.arange(width), indexing="ij")
        )
        self.bands: Bands = np.zeros((3, width, width), np.float32)

    def add_star(self, x: float, y: float, peak: float, redness: float) -> None:
        """A point of light; the seeing gives it its size."""
        flux = peak * 14.0 * band_ratios(redness)  # 14 survey pixels: the area of the seeing disc
        column, row = (at / self.step + (self.x.shape[1] - 1) / 2 for at in (x, y))
        c, r = int(column), int(row)
        right, down = column - c, row - r
        for dr, dc, part in (
            (0, 0, (1 - right) * (1 - down)),
            (0, 1, right * (1 - down)),
            (1, 0, (1 - right) * down),
            (1, 1, right * down),
        ):
            self.bands[:, r + dr, c + dc] += flux * part

    def add_body(
        self, lights: Sequence[LightComponent], light: float, redness: float, dust: Plane | None = None
    ) -> None:
        """A body of so much light and of so red a mean colour; dust dims blue more than red."""
        total = sum(part.share for part in lights)
        mean = sum(part.share * part.redder for part in lights) / total
        body = np.zeros_like(self.bands)
        for part in lights:
            weight = light * part.share / total / (float(part.plane.sum()) * self.step**2 + 1e-9)
            body += band_ratios(redness + part.redder - mean)[:, None, None] * np.float32(weight) * part.plane
        if dust is not None:
            body *= np.exp(-dust * np.array([0.7, 1.0, 1.4], np.float32)[:, None, None])
        self.bands += body

    def add_neighbours(self) -> None:
        """Faint stars and small galaxies, as many and as bright whatever stands in the middle."""
        rng, half = self._rng, FRAME / 2
        for _ in range(rng.poisson(rng.choice([4, 9, 16]))):
            x, y = rng.uniform(-half, half, 2)
            peak = min(0.15 * rng.uniform(0.004, 1.0) ** -1.1, 30.0)
            self.add_star(x, y, peak, redness=rng.uniform(-0.5, 1.9))
        for _ in range(rng.poisson(3.0)):
            x, y = rng.uniform(-half, half, 2)
            if np.hypot(x, y) < 30:
                continue
            radius = rng.uniform(1.2, 4.5)
            r = elliptical_radius(self.x - x, self.y - y, angle=rng.uniform(0, np.pi), ratio=rng.uniform(0.4, 1.0))
            light = 2 * np.pi * radius**2 * rng.uniform(0.05, 0.7)
            self.add_body([LightComponent(np.exp(-1.7 * r / radius), 1.0)], light, redness=rng.uniform(0.0, 1.0))

    def develop(self, size: int) -> Pixels:
        """The cutout that the survey would serve, `size` pixels wide."""
        rng, inner = self._rng, slice(MARGIN, MARGIN + self._inner)
        seen = np.minimum(self._blur(self.bands)[:, inner, inner], np.float32(FULL_WELL))
        shared = rng.standard_normal(seen.shape[1:], np.float32)
        own = rng.standard_normal(seen.shape, np.float32)
        grain = np.float32(rng.uniform(0.02, 0.05)) * np.array([1.15, 0.9, 1.0], np.float32)[:, None, None]
        noise = (0.9 * own + 0.4 * shared) * np.sqrt(1 + np.maximum(seen, 0) / SKY_LIGHT)
        return resample(asinh_composite(seen + self._background() + grain * noise), size)

    def _blur(self, bands: Bands) -> Bands:
        """Seeing: two Gaussians a band, a little different in each, and bands that do not quite lie on each other."""
        width = bands.shape[1]
        rng, sigma = self._rng, self._rng.uniform(1.15, 1.55)
        fy, fx = np.fft.fftfreq(width)[:, None], np.fft.rfftfreq(width)[None, :]
        falloff = -2 * np.pi**2 * (fx**2 + fy**2)
        seen = np.empty_like(bands)
        for band in range(3):
            spread = falloff * (sigma * rng.uniform(0.93, 1.12)) ** 2
            shift = np.exp(-2j * np.pi * (fx * rng.normal(0, 0.12) + fy * rng.normal(0, 0.12)))
            seeing = (1 - WIDE_WINGS) * np.exp(spread) + WIDE_WINGS * np.exp(spread * 7)
            seen[band] = np.fft.irfft2(np.fft.rfft2(bands[band]) * (seeing * shift), s=(width, width))
        return seen

    def _background(self) -> Bands:
        """What is left of the night sky: nearly black, faintly tinted, now and then with a cast."""
        rng = self._rng
        level = np.abs(rng.normal([0.008, 0.008, 0.004], [0.006, 0.004, 0.004]))
        if rng.random() < 0.05:
            level += np.array([0.08, 0.05, 0.02]) * rng.uniform(0, 1, 3)
        slope = np.linspace(-1, 1, self._inner)
        tilt = 1 + rng.normal(0, 0.12) * slope[:, None] + rng.normal(0, 0.12) * slope[None, :]
        sky: Bands = (level[:, None, None] * tilt).astype(np.float32)
        return sky


def band_ratios(redness: float) -> NDArray[np.float32]:
    """Brightness in the composite's red, green and blue: 0 is a young blue disc, 0.6 an old yellow elliptical."""
    return np.array([0.95 + 0.45 * redness, min(1.0, 1.5 - 0.5 * redness), max(1.1 - 0.6 * redness, 0.15)], np.float32)


def elliptical_radius(x: Plane, y: Plane, angle: float | Plane, ratio: float, boxiness: float = 2.0) -> Plane:
    """The distance from the middle along ellipses of this axis ratio, as the radius of a circle of equal area."""
    u, v = rotate_axes(x, y, angle)
    if boxiness == 2.0:
        return np.sqrt(u * u * np.float32(ratio) + v * v / np.float32(ratio))
    r = (np.abs(u) ** boxiness + np.abs(v / ratio) ** boxiness) ** (1 / boxiness) * ratio**0.5
    return np.asarray(r, np.float32)


def rotate_axes(x: Plane, y: Plane, angle: float | Plane) -> tuple[Plane, Plane]:
    """The same places along axes turned by this angle."""
    cos, sin = np.cos(angle, dtype=np.float32), np.sin(angle, dtype=np.float32)
    return x * cos + y * sin, y * cos - x * sin


def asinh_composite(bands: Bands) -> Bands:
    """Lupton's asinh composite: brightness is compressed, colour is kept; 0 to 1."""
    brightness = bands.mean(axis=0)
    scaled = np.where(np.abs(brightness) < 1e-6, np.float32(1e-6), brightness) * np.float32(SOFTENING)
    shown = bands * (np.arcsinh(scaled) / scaled)
    return np.asarray(np.clip(shown / np.maximum(shown.max(axis=0), 1), 0, 1), np.float32)


def resample(bands: Bands, size: int) -> Pixels:
    """The survey's pixels on the cutout's: cubic interpolation, widened where the cutout is the coarser one.

    Taps are gathered and added one by one rather than by matrix products, whose last bit varies with the threads.
    """
    width = bands.shape[1]
    coarser = max(1.0, width / size)
    at = (np.arange(size) + 0.5) * width / size - 0.5
    reach = int(np.ceil(2 * coarser))
    taps = np.floor(at).astype(int)[:, None] + np.arange(1 - reach, reach + 1)
    weights = _cubic((at[:, None] - taps) / coarser)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    taps = taps.clip(0, width - 1)
    rows = sum(weights[:, k, None] * bands[:, taps[:, k], :] for k in range(taps.shape[1]))
    both = sum(weights[:, k] * np.asarray(rows)[:, :, taps[:, k]] for k in range(taps.shape[1]))
    pixels = np.rint(np.clip(np.asarray(both), 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _cubic(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Catmull and Rom's kernel."""
    t = np.abs(t)
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))
