"""`python -m benchmarks.thumbnails FOLDER`: what storing pictures of several sizes costs an upload.

The images of the folder as they are, and resized to sides of a survey's cutouts, as JPEG and PNG: bytes stored for an
image, and processor time for decoding it with its picture, and for compressing that beside the request. Then the same
of simulated FITS images of three bands, and of their values.
"""

import argparse
import io
import time
from pathlib import Path

import numpy as np
from astropy.io import fits as fits_io
from PIL import Image

from astrodetect import fits, images
from astrodetect.fits_values import MAX_BANDS, compress_values, stretch_bands
from astrodetect.jpeg_thumbnails import reuse_as_thumbnail
from astrodetect.records import ImageContract

CONTRACT = ImageContract(size=224)
SIDES = (424, 512, 1024)  # pixels
FORMATS: dict[str, dict[str, int]] = {"JPEG": {"quality": 90}, "PNG": {}}
THUMBNAILS = (256, 512, 1024)  # pixels
FILES, ROUNDS = 40, 3
FITS_CONTRACT, FITS_SIDES, FITS_ROUNDS = ImageContract(size=224, stretch="asinh"), (64, 128, 256, 512, 1024), 9
VALUES_PX = 512  # the default of the settings


def main() -> None:
    """Measure; print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.thumbnails", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    files = [path.read_bytes() for path in sorted(folder.rglob("*")) if path.suffix in images.SUFFIXES][:FILES]
    sets = {"as they are": files}
    for image_format, options in FORMATS.items():
        for side in SIDES:
            sets[f"{image_format}, {side} px"] = [resized(data, side, image_format, options) for data in files]
    print_fits()
    print("| images | kB | pictures to, px | stored kB | decoded, ms | compressed, ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, encoded in sets.items():
        for side in THUMBNAILS:
            figures = [[measure(data, side) for data in encoded] for _ in range(ROUNDS)]
            stored, decoded, compressed = np.median(np.array(figures), axis=0).mean(axis=0)
            size = np.mean([len(data) for data in encoded])
            print(
                f"| {name} | {size / 1e3:.0f} | {side} | {stored / 1e3:.1f} | {1e3 * decoded:.2f} |"
                f" {1e3 * compressed:.2f} |"
            )


def print_fits() -> None:
    """The table of FITS images."""
    print("| FITS, px | kB | values stored, kB | decoded, ms | picture, ms | values, ms | PNG of a band, ms |")
    print("|" + " --- |" * 7)
    for side in FITS_SIDES:
        data = fits_cube(side)
        figures = np.median([measure_values(data) for _ in range(FITS_ROUNDS)], axis=0)
        cells = [f"{figures[0] / 1e3:.0f}", *(f"{1e3 * seconds:.1f}" for seconds in figures[1:])]
        print(f"| {side} | {len(data) / 1e3:.0f} | {' | '.join(cells)} |")


def fits_cube(side: int) -> bytes:
    """Three bands of float32: noise around a sky level, and bright squares."""
    cube = np.random.default_rng(0).normal(100, 3, (3, side, side)).astype(np.float32)
    cube[:, side // 3 : side // 2, side // 3 : side // 2] += 500
    file = io.BytesIO()
    fits_io.PrimaryHDU(cube).writeto(file)
    return file.getvalue()


def measure_values(data: bytes) -> tuple[float, ...]:
    """Bytes of the values; processor time to decode with the picture, to compress both, and to show a band."""
    times = [time.process_time()]
    _, frame = images.decode_with_frame(data, FITS_CONTRACT, VALUES_PX)
    times.append(time.process_time())
    images.make_thumbnail("", frame)
    times.append(time.process_time())
    planes = fits.read_planes(data, most=MAX_BANDS, max_pixels=images.MAX_PIXELS)
    values = compress_values("", planes, VALUES_PX)
    times.append(time.process_time())
    images.encode_png(stretch_bands(values, [0], "asinh", 0.5, 99.5))
    times.append(time.process_time())
    return len(values.content), *np.diff(times).tolist()


def resized(data: bytes, side: int, image_format: str, options: dict[str, int]) -> bytes:
    """The image as a square of this side."""
    file = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").resize((side, side)).save(file, image_format, **options)
    return file.getvalue()


def measure(data: bytes, side: int) -> tuple[int, float, float]:
    """Bytes stored, and seconds of processor time to decode with the picture, and to compress this."""
    started = time.process_time()
    if thumbnail := reuse_as_thumbnail("", data, side):
        images.decode(data, CONTRACT)
        return len(thumbnail.jpeg), time.process_time() - started, 0.0
    _, frame = images.decode_with_frame(data, CONTRACT, side)
    decoded = time.process_time()
    thumbnail = images.make_thumbnail("", frame)
    return len(thumbnail.jpeg), decoded - started, time.process_time() - decoded


if __name__ == "__main__":
    main()
