"""Bytes to pixels, for training and service alike: sniff, bound, decode, turn upright, crop, resize.

The only file that decodes, so that what the network saw in training is what it sees in service.
"""

import contextlib
import io
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from astrodetect import atomic_files, fits
from astrodetect.errors import ImageEmpty, ImageError, ImageTooManyPixels, ImageTooSmall, ImageUnsupported
from astrodetect.records import ImageContract, Pixels, Thumbnail

MIN_SIDE_PX = 16
SPARE = 2  # a JPEG is decoded to at least this many times the size that it is scaled to
MAX_FILE_BYTES = 512 * 2**20  # larger files are no images, and would fill the memory
ORIENTATIONS = 8  # four rotations by 90°, and four of the mirror image
MAX_PIXELS = 4096 * 4096  # where the caller names no limit of its own
ORIENTATION, UPRIGHT = 0x0112, 1  # in EXIF
FITS = "FITS"
GAP = 2.0  # pixels are averaged in whole blocks down to so many times a thumbnail's size, which is fast
JPEG_QUALITY = 92
THUMBNAIL_QUALITY = 80
SMOOTH_MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr")  # whose values can be averaged as they are
WIDE_GREY_MODES = ("I", "I;16", "I;16B", "I;16L")  # 16-bit greys, which Pillow would clip and not scale

Image.MAX_IMAGE_PIXELS = None  # the bound below stands before anything is decoded, and raises our own error
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # odd metadata harms no pixel


@dataclass(frozen=True, slots=True)
class Probe:
    """What the first bytes of an image declare."""

    kind: str  # JPEG, PNG, WEBP or FITS
    width: int  # pixels, as stored: before EXIF turns it
    height: int


def probe(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Probe:
    """The format and the declared size, judged as `read` judges them, and no pixel decoded."""
    kind = detect_format(data)
    with _damaged(kind):
        image = _frame(data, max_pixels) if kind == FITS else _opened(data, kind, max_pixels)
        return Probe(kind, image.width, image.height)


def decode(data: bytes, contract: ImageContract, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The pixels that the network sees: (size, size, 3), RGB."""
    kind = detect_format(data)
    with _damaged(kind):
        return _seen(_decoded(data, kind, contract, max_pixels), contract)


def decode_with_frame(
    data: bytes, contract: ImageContract, side: int, *, max_pixels: int = MAX_PIXELS
) -> tuple[Pixels, Pixels]:
    """`read`, and from the same decoding the whole frame, upright: its longer side has at most `side` pixels."""
    kind = detect_format(data)
    with _damaged(kind):
        image = _decoded(data, kind, contract, max_pixels)
        return _seen(image, contract), _whole(image, side)


def decode_file(path: Path, contract: ImageContract, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """`read` for a file; one that cannot be opened is an ImageError too."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    return decode(data, contract, max_pixels=max_pixels)


def read_bytes(path: Path) -> bytes:
    """The file's contents; ImageError if it cannot be read or is larger than MAX_FILE_BYTES."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"more than {MAX_FILE_BYTES // 2**20} MiB")
    return data


def orient(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """An image (height, width, bands), or a batch, rotated and mirrored: the sky has no preferred orientation."""
    if orientation >= ORIENTATIONS // 2:
        pixels = pixels[..., ::-1, :]
    return np.ascontiguousarray(np.rot90(pixels, orientation % 4, axes=(-3, -2)))


def write_jpeg(path: Path, pixels: Pixels) -> None:
    """Writes the whole file or none of it; the same pixels give the same bytes."""
    with atomic_files.replacing(path, sync=False) as part:
        Image.fromarray(pixels).save(part, format="JPEG", quality=JPEG_QUALITY)


def encode_thumbnail(pixels: Pixels, side: int) -> bytes:
    """A small JPEG for a page: its longer side has at most `side` pixels; the same pixels give the same bytes."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=THUMBNAIL_QUALITY)
    return buffer.getvalue()


def make_thumbnail(image_sha256: str, pixels: Pixels) -> Thumbnail:
    """The small JPEG that is kept of an image, from the pixels that `read_whole` gave."""
    height, width = pixels.shape[:2]
    return Thumbnail(image_sha256, encode_thumbnail(pixels, max(height, width)), width, height)


def encode_png(pixels: Pixels) -> bytes:
    """A PNG, which loses nothing."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def detect_format(data: bytes) -> str:
    """The format by its first bytes, whatever the file is called."""
    if not data:
        raise ImageEmpty("the file is empty")
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((fits.MAGIC, fits.GZIP)):
        return FITS
    raise ImageUnsupported("not an image this service reads: send JPEG, PNG, WebP or FITS")


def _decoded(data: bytes, kind: str, contract: ImageContract, max_pixels: int) -> Image.Image:
    if kind == FITS:
        return _stretched(data, contract, max_pixels)
    image = _opened(data, kind, max_pixels)
    needed = math.ceil(SPARE * contract.size / contract.crop)
    image.draft(None, (needed, needed))  # of a large JPEG, no more detail than is needed is decoded
    image.load()
    return image


def _opened(data: bytes, kind: str, max_pixels: int) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=[kind])
    _bound(image.width, image.height, max_pixels)
    return image


def _frame(data: bytes, max_pixels: int) -> fits.Frame:
    frame = fits.read_frame(data, max_pixels=max_pixels)
    _bound(frame.width, frame.height, max_pixels)
    return frame


def _stretched(data: bytes, contract: ImageContract, max_pixels: int) -> Image.Image:
    if contract.stretch == "none":
        raise ImageUnsupported("FITS, which this model was not trained to see: train one with --stretch asinh")
    return Image.fromarray(_frame(data, max_pixels).pixels(contract))


@contextlib.contextmanager
def _damaged(kind: str) -> Iterator[None]:
    """Whatever a decoder makes of damaged bytes is an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"damaged {kind}: its header cannot be read") from error
    except Exception as error:  # damaged bytes make decoders raise almost anything
        raise ImageError(f"damaged {kind}: {_first_line(error)}") from error


def _bound(width: int, height: int, max_pixels: int) -> None:
    """Judges the size that the header declares, before any pixel is decoded."""
    size = f"{width} × {height} pixels"
    if width * height > max_pixels:
        raise ImageTooManyPixels(f"{size}: at most {max_pixels:,} pixels are read")
    if min(width, height) < MIN_SIDE_PX:
        raise ImageTooSmall(f"{size}: each side needs at least {MIN_SIDE_PX}")


def _seen(image: Image.Image, contract: ImageContract) -> Pixels:
    """The centred square."""
    side = min(image.size) * contract.crop
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return _scaled(image, (contract.size, contract.size), (left, top, left + side, top + side))


def _whole(image: Image.Image, side: int) -> Pixels:
    """All of it, never enlarged."""
    scale = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return _scaled(image, size, (0, 0, *image.size), reducing_gap=GAP)


def _scaled(
    image: Image.Image,
    size: tuple[int, int],
    box: tuple[float, float, float, float],
    *,
    reducing_gap: float | None = None,
) -> Pixels:
    """Upright RGB. All but the scaling is left for after it, when the image is small."""
    orientation = image.getexif().get(ORIENTATION, UPRIGHT)
    if image.mode in WIDE_GREY_MODES:
        image = Image.fromarray((np.asarray(image).clip(0, 0xFFFF) // 257).astype(np.uint8))
    elif image.mode not in SMOOTH_MODES:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if box != (0, 0, *size):
        image = image.resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=reducing_gap)
    return np.asarray(_to_rgb(_turned(image, orientation)), dtype=np.uint8)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    if orientation == UPRIGHT:
        return image
    image.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:  # the sky behind a transparent place is black
        upper = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", upper.size, (0, 0, 0, 255)), upper).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
