"""What an image took is given back to the system once it is done with."""

import ctypes

LARGE_BYTES = 4 * 2**20  # a block of this size belongs to one image alone
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def give_back() -> None:
    """glibc takes ever larger blocks for small ones and keeps them: a hundred megabytes after a few large images.

    So it is told where large begins; other C libraries need not be.
    """
    try:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
    except (AttributeError, OSError, TypeError):  # not of this C library, or none to speak to, as on Windows
        return
