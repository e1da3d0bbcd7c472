"""JPEGs that are their own thumbnails: kept as they are but for metadata and what follows the image.

Their pixels are not compressed a second time, which would take longer than decoding them did.
"""

from astrodetect.records import Thumbnail

MIN_LIMIT_BYTES = 24 * 1024
BYTES_PER_PIXEL = 0.5  # of the largest thumbnail; a larger file is worth compressing
SIGNATURE, END_OF_IMAGE = b"\xff\xd8", b"\xff\xd9"
FRAMES = {0xC0, 0xC1}  # sequential, Huffman-coded: one scan follows, which a search for the end can skip
START_OF_SCAN, EXIF = 0xDA, b"Exif"
JFIF, APPLICATION, COMMENT, ADOBE = 0xE0, range(0xE0, 0xF0), 0xFE, 0xEE
JFIF_BYTES = 14  # without a thumbnail in it
TABLES = {0xC4, 0xDB, 0xDD}  # of Huffman codes, quantisation and restart intervals
BITS = b"\x08"  # of a sample
COLOURS = {b"\1", b"\3"}  # components: grey or YCbCr, which every browser shows as the decoder here does


def max_bytes(side: int) -> int:
    """The largest file that is stored as it is, where thumbnails have sides of at most `side` pixels."""
    return max(MIN_LIMIT_BYTES, int(BYTES_PER_PIXEL * side * side))


def reuse_as_thumbnail(image_sha256: str, data: bytes, side: int) -> Thumbnail | None:
    """A decodable JPEG with sides of at most `side` pixels, without its metadata; None where it has to be made anew.

    That is so for files with EXIF data, which may turn the image, and for unusual ones.
    """
    kept, at, size, components = [SIGNATURE], len(SIGNATURE), (0, 0), 0
    if len(data) > max_bytes(side) or not data.startswith(SIGNATURE):
        return None
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4])
        content = data[at + 4 : end]
        if marker == START_OF_SCAN:
            stop = data.find(END_OF_IMAGE, end)
            if stop > 0 and content[:1] == bytes([components]) and 0 < max(size) <= side:
                return Thumbnail(image_sha256, b"".join((*kept, data[at:stop], END_OF_IMAGE)), *size)
            break
        if marker in FRAMES and content[:1] == BITS and content[5:6] in COLOURS:
            height, width, components = int.from_bytes(content[1:3]), int.from_bytes(content[3:5]), content[5]
            size = (width, height)
        elif content.startswith(EXIF) or not (marker in APPLICATION or marker in TABLES or marker == COMMENT):
            break
        if marker in TABLES or marker in FRAMES or marker == ADOBE or (marker == JFIF and len(content) == JFIF_BYTES):
            kept.append(data[at:end])
        at = end
    return None
