"""What glibc keeps of the memory that is freed. Other C libraries need no such calls."""

import ctypes
from contextlib import suppress

LARGE_BYTES = 4 * 2**20  # smaller blocks are reused, larger ones hold the pixels of one image
REUSED_BYTES = 8 * 2**20  # free memory that a thread keeps: the arrays of a batch, which the next one needs again
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def return_large_blocks() -> None:
    """Has glibc return the memory of large images to the system.

    By default its threshold grows with what is freed, and the process keeps a hundred megabytes after a few large
    images. A fixed threshold alone has it return the arrays of every batch, and fault them in again for the next.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library, or Windows, where CDLL takes no None
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, REUSED_BYTES)


def return_free_memory() -> None:
    """Has glibc return to the system what the start has freed."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
