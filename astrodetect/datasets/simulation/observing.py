"""Simulated survey observation: PSF (seeing), sky background, noise, Lupton asinh stretch, resampling to a cutout."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from astrodetect import images
from astrodetect.records import Pixels

Plane = NDArray[np.float32]  # (n, n): coordinates, or one band or component
Bands = NDArray[np.float32]  # (3, n, n): red, green, blue of the composite, from i, r, g

FRAME = 227.0  # width of the field in length units; the rendered size is independent of it
NUCLEUS = 8.0  # within this radius of the object there is no other galaxy
FULL_WELL = 80.0  # saturation level: cores of bright stars are white
SKY_LEVEL = 1.2  # brightness at which the object's shot noise equals the sky's
WING_FRACTION = 0.12  # fraction of the flux in the outer Gaussian of the PSF
MARGIN = 16  # survey pixels rendered beyond the frame: the FFT convolution wraps around


@dataclass(frozen=True, slots=True)
class LightComponent:
    """A component of an object: surface brightness, fraction of the flux, colour relative to the object."""

    profile: Plane  # of arbitrary scale
    fraction: float  # relative to the other components
    redder: float = 0.0  # colour offset


@dataclass(frozen=True, slots=True)
class ObservingConditions:
    """What differs between surveys and exposures; drawn for each image from the same distribution for every class."""

    pixel_scale: float  # length units per survey pixel
    seeing: float  # standard deviation of the PSF's core, in survey pixels
    noise: float  # of the sky, relative to the stretch's linear range
    softening: float  # Q of Lupton et al. (2004): where the asinh turns from linear to logarithmic
    exposure: float  # factor on the brightness of everything
    gains: tuple[float, float, float]  # colour calibration: factors on red, green and blue
    crowding: float  # expected number of field stars
    jpeg_quality: int  # of the survey's picture, before it is resampled to the cutout

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "ObservingConditions":
        """Conditions from shallow surveys with poor seeing to deep ones with good seeing."""
        red, green, blue = np.exp(rng.normal(0, 0.04, 3))
        return cls(
            pixel_scale=log_uniform(rng, 1.3, 3.2),
            seeing=float(rng.uniform(1.0, 1.9)),
            noise=log_uniform(rng, 0.012, 0.06),
            softening=log_uniform(rng, 3.0, 12.0),
            exposure=float(np.exp(rng.normal(0, 0.25))),
            gains=(float(red), float(green), float(blue)),
            crowding=log_uniform(rng, 2.0, 25.0),
            jpeg_quality=int(rng.integers(70, 96)),
        )


class SimulatedField:
    """A simulated field: a grid of survey pixels to add light to, then to observe."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.conditions = ObservingConditions.draw(rng)
        self.step = self.conditions.pixel_scale
        self._inner = round(FRAME / self.step)
        width = self._inner + 2 * MARGIN
        self.y, self.x = (
            ((axis - (width - 1) / 2) * self.step).astype(np.float32)
            for axis in np.meshgrid(np.arange(width), np.arange(width), indexing="ij")
        )
        self.bands: Bands = np.zeros((3, width, width), np.float32)

    def add_star(self, x: float, y: float, peak: float, colour: float) -> None:
        """Add a point source; the PSF is applied later."""
        flux = peak * 14.0 * band_ratios(colour)  # 14 survey pixels: effective area of the PSF
        column, row = (coordinate / self.step + (self.x.shape[1] - 1) / 2 for coordinate in (x, y))
        c, r = int(column), int(row)
        right, down = column - c, row - r
        for dr, dc, weight in (
            (0, 0, (1 - right) * (1 - down)),
            (0, 1, right * (1 - down)),
            (1, 0, (1 - right) * down),
            (1, 1, right * down),
        ):
            self.bands[:, r + dr, c + dc] += flux * weight

    def add_object(
        self, components: Sequence[LightComponent], flux: float, colour: float, dust: Plane | None = None
    ) -> None:
        """Add an object of this total flux and mean colour; dust attenuates blue more than red."""
        light = object_light(components, flux / self.step**2, colour)
        if dust is not None:
            light *= np.exp(-dust * np.array([0.7, 1.0, 1.4], np.float32)[:, None, None])
        self.bands += light

    def add_field_objects(self) -> None:
        """Add stars and small galaxies, some of them near the object, with the same distribution for every class."""
        rng, half = self._rng, FRAME / 2
        for _ in range(rng.poisson(self.conditions.crowding)):
            x, y = rng.uniform(-half, half, 2)
            peak = min(0.15 * rng.uniform(0.004, 1.0) ** -1.1, 30.0)
            self.add_star(x, y, peak, colour=rng.uniform(-0.5, 1.9))
        for _ in range(rng.poisson(4.0)):
            x, y = rng.uniform(-half, half, 2)
            if np.hypot(x, y) < NUCLEUS:
                continue
            radius = log_uniform(rng, 1.2, 6.0)
            r = elliptical_radius(self.x - x, self.y - y, angle=rng.uniform(0, np.pi), ratio=rng.uniform(0.4, 1.0))
            flux = 2 * np.pi * radius**2 * rng.uniform(0.05, 0.7)
            self.add_object([LightComponent(np.exp(-1.7 * r / radius), 1.0)], flux, colour=rng.uniform(0.0, 1.0))

    def observe(self, size: int) -> Pixels:
        """The cutout, `size` pixels wide: PSF, saturation, background, noise, asinh stretch, resampling."""
        rng, conditions, inner = self._rng, self.conditions, slice(MARGIN, MARGIN + self._inner)
        received = self.bands * (
            np.float32(conditions.exposure) * np.array(conditions.gains, np.float32)[:, None, None]
        )
        blurred = np.minimum(self._convolve_psf(received)[:, inner, inner], np.float32(FULL_WELL))
        shared = rng.standard_normal(blurred.shape[1:], np.float32)
        own = rng.standard_normal(blurred.shape, np.float32)
        read_noise = np.float32(conditions.noise) * np.array([1.15, 0.9, 1.0], np.float32)[:, None, None]
        noise = (0.9 * own + 0.4 * shared) * np.sqrt(1 + np.maximum(blurred, 0) / SKY_LEVEL)
        bands = blurred + self._sky_background() + read_noise * noise
        picture = np.rint(asinh_composite(bands, conditions.softening) * 255).astype(np.uint8).transpose(1, 2, 0)
        picture = images.compress_jpeg(np.ascontiguousarray(picture), conditions.jpeg_quality)
        return resample(picture.transpose(2, 0, 1).astype(np.float32) / np.float32(255), size)

    def _convolve_psf(self, bands: Bands) -> Bands:
        """Double-Gaussian PSF with slightly different seeing and astrometric offset in each band."""
        width = bands.shape[1]
        rng, sigma = self._rng, self.conditions.seeing
        fy, fx = np.fft.fftfreq(width)[:, None], np.fft.rfftfreq(width)[None, :]
        exponent = -2 * np.pi**2 * (fx**2 + fy**2)
        blurred = np.empty_like(bands)
        for band in range(3):
            core = exponent * (sigma * rng.uniform(0.93, 1.12)) ** 2
            shift = np.exp(-2j * np.pi * (fx * rng.normal(0, 0.12) + fy * rng.normal(0, 0.12)))
            transfer = (1 - WING_FRACTION) * np.exp(core) + WING_FRACTION * np.exp(core * 7)
            blurred[band] = np.fft.irfft2(np.fft.rfft2(bands[band]) * (transfer * shift), s=(width, width))
        return blurred

    def _sky_background(self) -> Bands:
        """Residual sky background: faint, slightly tinted, with a gradient and rarely a strong cast."""
        rng = self._rng
        level = np.abs(rng.normal([0.008, 0.008, 0.004], [0.006, 0.004, 0.004]))
        if rng.random() < 0.05:
            level += np.array([0.08, 0.05, 0.02]) * rng.uniform(0, 1, 3)
        ramp = np.linspace(-1, 1, self._inner)
        gradient = 1 + rng.normal(0, 0.12) * ramp[:, None] + rng.normal(0, 0.12) * ramp[None, :]
        sky: Bands = (level[:, None, None] * gradient).astype(np.float32)
        return sky


def object_light(components: Sequence[LightComponent], flux: float, colour: float) -> Bands:
    """The light of an object in each band; `flux` is the sum over the pixels."""
    total = sum(part.fraction for part in components)
    mean = sum(part.fraction * part.redder for part in components) / total
    light = np.zeros((3, *components[0].profile.shape), np.float32)
    for part in components:
        weight = flux * part.fraction / total / (float(part.profile.sum()) + 1e-9)
        light += band_ratios(colour + part.redder - mean)[:, None, None] * np.float32(weight) * part.profile
    return light


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A random number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def band_ratios(colour: float) -> NDArray[np.float32]:
    """Relative flux in red, green and blue of a colour index: 0 for a blue disc, 0.6 for an old yellow elliptical."""
    return np.array([0.95 + 0.45 * colour, min(1.0, 1.5 - 0.5 * colour), max(1.1 - 0.6 * colour, 0.15)], np.float32)


def elliptical_radius(x: Plane, y: Plane, angle: float | Plane, ratio: float, boxiness: float = 2.0) -> Plane:
    """Elliptical radius (circularised: that of the circle of equal area), with boxy isophotes for boxiness > 2."""
    u, v = rotate_axes(x, y, angle)
    if boxiness == 2.0:
        return np.sqrt(u * u * np.float32(ratio) + v * v / np.float32(ratio))
    r = (np.abs(u) ** boxiness + np.abs(v / ratio) ** boxiness) ** (1 / boxiness) * ratio**0.5
    return np.asarray(r, np.float32)


def rotate_axes(x: Plane, y: Plane, angle: float | Plane) -> tuple[Plane, Plane]:
    """Coordinates in axes rotated by this angle."""
    cos, sin = np.cos(angle, dtype=np.float32), np.sin(angle, dtype=np.float32)
    return x * cos + y * sin, y * cos - x * sin


def asinh_composite(bands: Bands, softening: float) -> Bands:
    """Asinh stretch of Lupton et al. (2004): compresses brightness and keeps colour; 0 to 1."""
    brightness = bands.mean(axis=0)
    scaled = np.where(np.abs(brightness) < 1e-6, np.float32(1e-6), brightness) * np.float32(softening)
    stretched = bands * (np.arcsinh(scaled) / scaled)
    return np.asarray(np.clip(stretched / np.maximum(stretched.max(axis=0), 1), 0, 1), np.float32)


def resample(bands: Bands, size: int) -> Pixels:
    """Cubic resampling to `size` pixels, with a wider kernel when downsampling.

    Taps are summed one by one: the last bit of a matrix product depends on the number of threads.
    """
    width = bands.shape[1]
    scale = max(1.0, width / size)
    positions = (np.arange(size) + 0.5) * width / size - 0.5
    reach = int(np.ceil(2 * scale))
    taps = np.floor(positions).astype(int)[:, None] + np.arange(1 - reach, reach + 1)
    weights = _catmull_rom((positions[:, None] - taps) / scale)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    taps = taps.clip(0, width - 1)
    rows = sum(weights[:, k, None] * bands[:, taps[:, k], :] for k in range(taps.shape[1]))
    resampled = sum(weights[:, k] * np.asarray(rows)[:, :, taps[:, k]] for k in range(taps.shape[1]))
    pixels = np.rint(np.clip(np.asarray(resampled), 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _catmull_rom(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Catmull–Rom cubic kernel."""
    t = np.abs(t)
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))
