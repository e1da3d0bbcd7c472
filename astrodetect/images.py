"""The image decoder of training and service: detect the format, check the size, decode, crop, resize, turn upright.

The only module that decodes, so that training and inference see the same pixels.
"""

import contextlib
import io
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from astrodetect import atomic_files, fits, tiff
from astrodetect.errors import (
    ImageEmpty,
    ImageError,
    ImageTooManyPixels,
    ImageTooSmall,
    ImageUnsupported,
    StorageError,
    StorageUnavailable,
)
from astrodetect.records import ImageContract, ImagePath, Pixels, SkyObject, Thumbnail
from astrodetect.sky.cutouts import Cutout
from astrodetect.storage import shards

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom

MIN_SIDE_PX = 16
JPEG_DRAFT_FACTOR = 2  # a JPEG is decoded at no less than this many times its final size
MAX_FILE_BYTES = 512 * 2**20  # larger files are no images, and would fill the memory
ORIENTATIONS = 8  # four rotations by 90°, and four of the mirror image
MAX_PIXELS = 4096 * 4096  # default limit
ORIENTATION, UPRIGHT = 0x0112, 1  # in EXIF
FITS, TIFF = "FITS", "TIFF"
BILINEAR = Image.Resampling.BILINEAR
REDUCING_GAP = 2.0  # of Pillow: integer reduction to this many times a thumbnail's size before resampling
JPEG_QUALITY = 92
THUMBNAIL_QUALITY = 80
CONTINUOUS_MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr")  # whose values can be interpolated
PREMULTIPLIED = {"LA": "La", "RGBA": "RGBa"}  # by alpha, as transparent images are interpolated
LARGE_PIXELS, STRIP_PX = 1024 * 1024, 512  # those above are interpolated in strips of so many rows
MAX_SCANS = 200  # of a progressive JPEG, each of which takes a pass over all pixels; encoders make some ten
SCAN = b"\xff\xda"  # the marker, which compressed pixels do not contain; metadata may, by chance
MAX_READS = 200_000  # that Pillow makes of a file: some for each part of it, of a few µs each

Image.MAX_IMAGE_PIXELS = None  # _check_size rejects large images before they are decoded
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of unusual metadata


@dataclass(frozen=True, slots=True)
class FileFormat:
    """A format of image files that is read."""

    title: str
    suffixes: tuple[str, ...]  # in any case; the first is given to new files
    media_type: str


# What is read, by the names that `detect_format` returns. Pages, messages and documentation derive from it.
FILE_FORMATS = {
    "JPEG": FileFormat("JPEG", (".jpg", ".jpeg"), "image/jpeg"),
    "PNG": FileFormat("PNG", (".png",), "image/png"),
    "WEBP": FileFormat("WebP", (".webp",), "image/webp"),
    TIFF: FileFormat("TIFF", (".tif", ".tiff"), "image/tiff"),
    FITS: FileFormat("FITS", (".fits", ".fit", ".fts", ".fits.gz", ".fits.fz"), "image/fits"),
}
SUFFIXES = tuple(suffix for file_format in FILE_FORMATS.values() for suffix in file_format.suffixes)


def accepted_formats(contract: ImageContract | None = None) -> list[FileFormat]:
    """The formats that a model with this contract reads; without one, all of them."""
    no_fits = contract is not None and contract.stretch == "none"
    return [file_format for name, file_format in FILE_FORMATS.items() if not (no_fits and name == FITS)]


def accepted_text(contract: ImageContract | None = None) -> str:
    """The titles of those formats, as "JPEG, PNG or FITS"."""
    *others, last = (file_format.title for file_format in accepted_formats(contract))
    return f"{', '.join(others)} or {last}"


class _ImageFile(io.BytesIO):
    """The bytes of an image, which Pillow reads part by part: a JPEG by segments, and what is no segment by bytes."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        """Called by Pillow."""
        self.reads += 1
        if self.reads > MAX_READS:
            raise ImageError("damaged: its header or its pixels are in very many parts")
        return super().read(size)


@dataclass(frozen=True, slots=True)
class Probe:
    """What the header of an image declares."""

    format: str  # a key of FILE_FORMATS
    width: int  # pixels, as stored: before EXIF rotation
    height: int


def probe(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Probe:
    """Format and declared size, checked as by `decode`, without decoding pixels."""
    image_format = detect_format(data)
    with _translate_errors(image_format):
        image = _open_fits(data, max_pixels) if image_format == FITS else _open_picture(data, image_format, max_pixels)
        return Probe(image_format, image.width, image.height)


def sky_object(data: bytes, given: SkyObject | None = None, *, max_pixels: int = MAX_PIXELS) -> SkyObject | None:
    """What the image shows: as `given`; if that has no position, at the centre of a FITS by its WCS."""
    if (given and given.ra is not None) or not fits.may_have_wcs(data):
        return given
    try:
        centre = _open_fits(data, max_pixels).centre()
    except Exception:  # noqa: BLE001 - a header of any kind: what cannot be read says no position
        centre = None
    return SkyObject(*centre, given.object_id if given else None) if centre else given


def decode(data: bytes, contract: ImageContract, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The pixels for the network: (size, size, 3), RGB."""
    image_format = detect_format(data)
    with _translate_errors(image_format):
        return _crop(_decode_image(data, image_format, contract, max_pixels), contract)


def crop_array(pixels: NDArray[np.uint8], contract: ImageContract, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The pixels for the network from decoded ones: (height, width) of grey, or (height, width, 3 or 4)."""
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in {3, 4})):
        raise ImageUnsupported(
            f"an array of {pixels.dtype} {pixels.shape}: give uint8 of (height, width) or (height, width, 3)"
        )
    with _translate_errors("array"):
        _check_size(pixels.shape[1], pixels.shape[0], max_pixels)
        return _crop(Image.fromarray(pixels), contract)


def decode_with_frame(
    data: bytes, contract: ImageContract, side: int, *, max_pixels: int = MAX_PIXELS
) -> tuple[Pixels, Pixels]:
    """`decode`, and the whole frame, upright, with a longer side of at most `side` pixels."""
    image_format = detect_format(data)
    with _translate_errors(image_format):
        image = _decode_image(data, image_format, contract, max_pixels)
        return _crop(image, contract), _scale_frame(image, side)


def decode_file(path: ImagePath, contract: ImageContract, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """`decode` a file; ImageError also where it cannot be opened."""
    return decode(read_bytes(path), contract, max_pixels=max_pixels)


def read_bytes(path: ImagePath) -> bytes:
    """The contents; ImageError if they cannot be read or are too large, StorageUnavailable if a server is silent."""
    try:
        if isinstance(path, Cutout):
            return path.read()
        if isinstance(path, str):
            return shards.read_image(path, MAX_FILE_BYTES)
        if not path.is_file() and path.exists() and not path.is_dir():
            raise ImageError("cannot be read: it is a pipe or a device")  # which may have no end
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except StorageUnavailable:
        raise
    except StorageError as error:
        raise ImageError(str(error)) from error
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
    """Write a file atomically; the same pixels give the same bytes."""
    with atomic_files.replacing(path, sync=False) as part:
        Image.fromarray(pixels).save(part, format="JPEG", quality=JPEG_QUALITY)


def compress_jpeg(pixels: Pixels, quality: int) -> Pixels:
    """The pixels after JPEG compression: with its block artefacts, and its coarser colours."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def encode_thumbnail(pixels: Pixels, side: int) -> bytes:
    """A small JPEG with a longer side of at most `side` pixels; the same pixels give the same bytes."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=THUMBNAIL_QUALITY)
    return buffer.getvalue()


def make_thumbnail(image_sha256: str, pixels: Pixels) -> Thumbnail:
    """The thumbnail to store of an image, from the frame of `decode_with_frame`."""
    height, width = pixels.shape[:2]
    return Thumbnail(image_sha256, encode_thumbnail(pixels, max(height, width)), width, height)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def detect_format(data: bytes) -> str:
    """The format, from the first bytes."""
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
    if data.startswith(tiff.MAGIC):
        return TIFF
    raise ImageUnsupported(f"not a supported image: send {accepted_text()}")


def _decode_image(data: bytes, image_format: str, contract: ImageContract, max_pixels: int) -> Image.Image:
    if image_format == FITS:
        return _decode_fits(data, contract, max_pixels)
    image = _open_picture(data, image_format, max_pixels)
    needed = math.ceil(JPEG_DRAFT_FACTOR * contract.size / contract.crop)
    image.draft(None, (needed, needed))  # decode large JPEGs at reduced resolution
    image.load()
    return tiff.stretch_values(image, contract) if isinstance(image, TiffImageFile) else image


def _open_picture(data: bytes, image_format: str, max_pixels: int) -> Image.Image:
    if image_format == "JPEG" and data.count(SCAN) > MAX_SCANS:
        raise ImageError(f"damaged JPEG: more than {MAX_SCANS} scans")
    if image_format == TIFF:
        tiff.check_tags(data)
    image = Image.open(_ImageFile(data), formats=[image_format])
    _check_size(image.width, image.height, max_pixels)
    if isinstance(image, TiffImageFile):
        tiff.check_layout(image, max_pixels)
    return image


def _open_fits(data: bytes, max_pixels: int) -> fits.Frame:
    frame = fits.read_frame(data, max_pixels=max_pixels)
    _check_size(frame.width, frame.height, max_pixels)
    return frame


def _decode_fits(data: bytes, contract: ImageContract, max_pixels: int) -> Image.Image:
    if contract.stretch == "none":
        raise ImageUnsupported("this model was not trained on FITS: train one with --stretch asinh")
    return Image.fromarray(_open_fits(data, max_pixels).pixels(contract))


@contextlib.contextmanager
def _translate_errors(image_format: str) -> Iterator[None]:
    """Any exception of a decoder becomes an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        unusual = ", or its values are of an unusual kind" if image_format == TIFF else ""
        raise ImageError(f"damaged {image_format}: its header cannot be read{unusual}") from error
    except MemoryError as error:
        raise ImageError(f"not enough memory to decode this {image_format}, or it is damaged") from error
    except Exception as error:  # decoders may raise anything for damaged bytes
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise ImageError(f"damaged {image_format}: {first_line}") from error


def _check_size(width: int, height: int, max_pixels: int) -> None:
    """Check the size that the header declares, before pixels are decoded."""
    size = f"{width} × {height} pixels"
    if width * height > max_pixels:
        raise ImageTooManyPixels(f"{size}: the limit is {max_pixels:,} pixels")
    if min(width, height) < MIN_SIDE_PX:
        raise ImageTooSmall(f"{size}: each side needs at least {MIN_SIDE_PX}")


def _crop(image: Image.Image, contract: ImageContract) -> Pixels:
    """The centred square, scaled."""
    side = min(image.size) * contract.crop
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return _scale(image, (contract.size, contract.size), (left, top, left + side, top + side))


def _scale_frame(image: Image.Image, side: int) -> Pixels:
    """The whole frame, never enlarged."""
    scale = min(1.0, side / max(image.size))
    width, height = (max(1, round(length * scale)) for length in image.size)
    return _scale(image, (width, height), (0, 0, *image.size), reducing_gap=REDUCING_GAP)


def _scale(image: Image.Image, size: tuple[int, int], box: Box, *, reducing_gap: float | None = None) -> Pixels:
    """Scale first, then convert to RGB and rotate upright, which is cheaper on the small image."""
    orientation = image.getexif().get(ORIENTATION, UPRIGHT)
    transparent = image.info.get("transparency")
    if image.mode in tiff.WIDE_GREY_MODES:
        values = np.asarray(image)
        values = values if transparent is None else np.where(values == transparent, 0, values)
        image = Image.fromarray((values.clip(0, 0xFFFF) // 257).astype(np.uint8))
    elif image.mode not in CONTINUOUS_MODES or transparent is not None:  # of a colour, which interpolation would blend
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if box != (0, 0, *size):
        large = image.mode in PREMULTIPLIED and image.width * image.height > LARGE_PIXELS
        image = _resize_large(image, size, box) if large else image.resize(size, BILINEAR, box, reducing_gap)
    return np.asarray(_to_rgb(_rotate(image, orientation)), dtype=np.uint8)


def _resize_large(image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
    """In strips, a square box to the bit as by Pillow, which first copies all of a transparent image."""
    mode, width, (left, top, right, bottom) = PREMULTIPLIED[image.mode], size[0], box
    narrow = Image.new(mode, (width, image.height))
    for y in range(0, image.height, STRIP_PX):
        strip = image.crop((0, y, image.width, min(y + STRIP_PX, image.height))).convert(mode)
        narrow.paste(strip.resize((width, strip.height), BILINEAR, (left, 0, right, strip.height)), (0, y))
    return narrow.resize(size, BILINEAR, (0, top, width, bottom)).convert(image.mode)


def _rotate(image: Image.Image, orientation: int) -> Image.Image:
    if orientation != UPRIGHT:
        image.getexif()[ORIENTATION] = orientation
    return image if orientation == UPRIGHT else ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:  # transparent pixels become black
        upper = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", upper.size, (0, 0, 0, 255)), upper).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
