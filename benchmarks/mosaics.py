"""`python -m benchmarks.mosaics`: cutouts a second from a mosaic, and finding its sources.

The mosaic is noise with bright pixels, in one file of each band. Cutouts are read at random positions: cut alone, and
cut and decoded as a model reads them, by so many processes, each as a worker of `score`. Processor time disturbs
least where other programs run beside.
"""

import argparse
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from astrodetect import images
from astrodetect.records import ImageContract
from astrodetect.sky.cutouts import Cutout, CutoutSize, CutoutSource
from astrodetect.sky.mosaics import MosaicFiles
from astrodetect.sky.source_detection import DetectionOptions, detect_sources

CONTRACT = ImageContract(128, stretch="asinh")
MAX_PIXELS = 4096 * 4096
PIXEL_DEG = 0.25 / 3600
ROWS_AT_ONCE = 500


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mosaics", description=__doc__)
    parser.add_argument("--side", type=int, default=10_000, help="pixels of the mosaic (default: %(default)s)")
    parser.add_argument("--bands", type=int, default=3, choices=(1, 3), help="files (default: %(default)s)")
    parser.add_argument("--cutouts", type=int, default=10_000, help="(default: %(default)s)")
    parser.add_argument("--size", default="64px", help="of a cutout (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--shifted", action="store_true", help="other bands on a grid of their own: interpolated")
    parser.add_argument("--detect", action="store_true", help="find the sources too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = [
            make_mosaic(Path(folder) / f"{name}.fits", arguments.side, shift=0.37 * arguments.shifted * number)
            for number, name in enumerate("gri"[: arguments.bands])
        ]
        bands = tuple("gri") if arguments.bands > 1 else ()
        source = CutoutSource(MosaicFiles(tuple(map(str, files)), bands), CutoutSize.parse(arguments.size))
        cutouts = random_cutouts(source, arguments.cutouts)
        print(f"{arguments.side:,} × {arguments.side:,} pixels, {arguments.bands} bands, {arguments.size}")
        for title, work in (("cut", read), ("cut and decoded", decode)):
            print(measure(title, partial(work), cutouts, arguments.processes))
        if arguments.detect:
            began, used = time.monotonic(), time.process_time()
            rows = detect_sources(source.open(), DetectionOptions())
            print(
                f"{len(rows):,} sources in {time.monotonic() - began:.1f} s, {time.process_time() - used:.1f} s of "
                f"processor time; {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB"
            )


def make_mosaic(path: Path, side: int, shift: float) -> Path:
    """A file of noise, written in pieces."""
    from astropy.io.fits import Header, StreamingHDU  # noqa: PLC0415 - slow to import

    header = Header()
    header["SIMPLE"], header["BITPIX"], header["NAXIS"] = True, -32, 2
    header["NAXIS1"] = header["NAXIS2"] = side
    for axis, (kind, value, step) in enumerate((("RA---TAN", 150.0, -PIXEL_DEG), ("DEC--TAN", 2.0, PIXEL_DEG)), 1):
        header[f"CTYPE{axis}"], header[f"CRVAL{axis}"], header[f"CDELT{axis}"] = kind, value, step
        header[f"CRPIX{axis}"] = side / 2 + shift
    random = np.random.default_rng(0)
    with StreamingHDU(str(path), header) as stream:
        for row in range(0, side, ROWS_AT_ONCE):
            values = random.standard_normal((min(ROWS_AT_ONCE, side - row), side), np.float32)
            values[5::40, 5::40] += 50
            values[5::40, 6::40] += 40
            values[6::40, 5::40] += 40
            stream.write(values)
    return path


def random_cutouts(source: CutoutSource, count: int) -> list[Cutout]:
    """Cutouts all over the mosaic, in random order."""
    grid = source.open().reference_images[0].grid
    margin = source.size.pixels(grid.arcsec_per_pixel)
    random = np.random.default_rng(1)
    x, y = random.uniform(margin, grid.width - margin, (2, count))
    ra, dec = grid.positions(x, y)
    return [Cutout(str(number), source, at) for number, at in enumerate(zip(ra.tolist(), dec.tolist(), strict=True))]


def read(cutout: Cutout) -> None:
    """Cut it out."""
    cutout.read()


def decode(cutout: Cutout) -> None:
    """Cut it out, and prepare its pixels for a network."""
    images.decode(cutout.read(), CONTRACT, max_pixels=MAX_PIXELS)


def share(work: "partial[None]", cutouts: list[Cutout]) -> tuple[float, float]:
    """Processor time, and memory in MB, of this process for these cutouts."""
    work(cutouts[0])
    began = time.process_time()
    for cutout in cutouts:
        work(cutout)
    return time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(title: str, work: "partial[None]", cutouts: list[Cutout], processes: int) -> str:
    """Both kinds of time of so many processes together."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(share, work), [cutouts[:1]] * processes))  # start, and import
        began = time.monotonic()
        results = list(pool.map(partial(share, work), [cutouts[part::processes] for part in range(processes)]))
        took = time.monotonic() - began
    used = sum(seconds for seconds, _ in results)
    return (
        f"{title}: {len(cutouts) / took:,.0f} a second on {processes} processes, "
        f"{used / len(cutouts) * 1000:.2f} ms of processor time each; {max(mb for _, mb in results):.0f} MB"
    )


if __name__ == "__main__":
    main()
