"""`python -m benchmarks.thumbnails FOLDER`: what storing pictures of several sizes costs an upload.

The images of the folder as they are, and resized to sides of a survey's cutouts, as JPEG and PNG: bytes stored for an
image, and processor time for decoding it with its picture, and for compressing that beside the request.
"""

import argparse
import io
import time
from pathlib import Path

import numpy as np
from PIL import Image

from astrodetect import images
from astrodetect.jpeg_thumbnails import reuse_as_thumbnail
from astrodetect.records import ImageContract

CONTRACT = ImageContract(size=224)
SIDES = (424, 512, 1024)  # pixels
FORMATS: dict[str, dict[str, int]] = {"JPEG": {"quality": 90}, "PNG": {}}
THUMBNAILS = (256, 512, 1024)  # pixels
FILES, ROUNDS = 40, 3


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
