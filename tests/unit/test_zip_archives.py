"""Zip archives that declare less than they hold, or hold more than anybody sends, cost no memory."""

import io
import struct
import tracemalloc
import zipfile

import pytest

from astrodetect.errors import ArchiveError, AstrodetectError
from astrodetect.service.zip_archives import read_files

DECLARED = 1000
LARGE = 100_000_000  # bytes of zeros
MAX_GROWTH = 6_000_000  # bytes of memory
SIZE_IN_DIRECTORY, SIZE_IN_HEADER, FLAGS_IN_DIRECTORY = 24, 22, 8  # where a zip keeps them


def make_zip(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytearray:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return bytearray(buffer.getvalue())


def read(data: bytes, *, max_entries: int = 100) -> list[tuple[str, bytes | AstrodetectError]]:
    limits = {"max_file_bytes": 10_000, "max_bytes": 50_000}
    return list(read_files(io.BytesIO(data), max_entries=max_entries, **limits))


def declaring(data: bytearray, size: int) -> bytes:
    """The zip of one file, with another size of that in its directory and its header."""
    directory = data.index(b"PK\x01\x02")
    for at in (directory + SIZE_IN_DIRECTORY, SIZE_IN_HEADER):
        data[at : at + 4] = struct.pack("<I", size)
    return bytes(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_file_larger_than_it_declares_is_an_error_and_is_not_decompressed(method: int) -> None:
    data = declaring(make_zip({"a.png": bytes(LARGE)}, method), DECLARED)
    tracemalloc.start()
    try:
        [(name, result)] = read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert name == "a.png"
    assert isinstance(result, ArchiveError)
    assert peak < MAX_GROWTH


@pytest.mark.parametrize("name", ["", "\0.png"])
def test_a_file_without_a_name_is_read(name: str) -> None:
    data = bytes(make_zip({"aaaaa": b"x"})).replace(b"aaaaa", name.encode().ljust(5, b"\0"))
    assert read(data) == [("", b"x")]


def test_entries_are_bounded_before_the_directory_is_read() -> None:
    data = bytes(make_zip({f"{number}.png": b"" for number in range(20_000)}, zipfile.ZIP_STORED))
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match="more than 100 entries"):
            read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MAX_GROWTH
    assert len(read(data, max_entries=20_000)) == 20_000


def test_files_are_read_and_folders_and_hidden_files_are_not() -> None:
    files = {"a/1.png": b"1", "a/": b"", ".b/2.png": b"2", "__MACOSX/a/1.png": b"3", "c.png": b"4"}
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        assert read(bytes(make_zip(files, method))) == [("a/1.png", b"1"), ("c.png", b"4")]


def test_a_path_that_leads_out_of_the_zip_is_an_error_in_its_place() -> None:
    (path, error), *others = read(bytes(make_zip({"a/../../b.png": b"1", "./c.png": b"2", "a/..d/e.png": b"3"})))
    assert (path, others) == ("a/../../b.png", [("./c.png", b"2")])
    assert "leads out of the zip" in str(error)


def test_limits_of_each_file_and_of_all() -> None:
    large, *others = read(bytes(make_zip({"large": bytes(10_001)} | {str(number): bytes(9000) for number in range(9)})))
    assert "larger than 10,000 bytes" in str(large[1])
    assert [len(data) for _, data in others[:-1] if isinstance(data, bytes)] == [9000] * 4
    assert "unpacks to more than 50,000 bytes" in str(others[-1][1])


def test_encrypted_files_fail_alone() -> None:
    data = make_zip({"a.png": b"1", "b.png": b"2"})
    data[data.index(b"PK\x01\x02") + FLAGS_IN_DIRECTORY] |= 1
    (_, first), second = read(bytes(data))
    assert "without a password" in str(first)
    assert second == ("b.png", b"2")


@pytest.mark.parametrize("data", [b"PK\x03\x04", bytes(make_zip({"a": b"1"}))[:-1], b"PK\x05\x06" + b"\xff" * 18])
def test_no_archive_is_one_error(data: bytes) -> None:
    with pytest.raises(ArchiveError, match="the zip cannot be read"):
        read(data)


def test_the_form_for_huge_archives_is_refused() -> None:
    data = bytes(make_zip({"a": b"1"}))
    with pytest.raises(ArchiveError, match="4 GB"):
        read(data[:-22] + b"PK\x06\x07" + bytes(16) + data[-22:])
