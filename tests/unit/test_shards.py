"""Images in shards: tar archives, read one member after the other."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from astrodetect import images
from astrodetect.datasets import listing
from astrodetect.errors import DataError, ImageError
from astrodetect.storage import objects

IMAGE = images.encode_png(np.zeros((20, 20, 3), np.uint8))


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    """A tar archive of these members, in this order."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def read_shard(path: Path) -> list[tuple[str, bytes | str]]:
    """Name and contents, or error, of each image."""

    def contents(file: listing.ImageFile) -> bytes | str:
        try:
            return file.read()
        except ImageError as error:
            return str(error)

    return [(file.name, contents(file)) for file in listing.open_images([str(path)])]


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz")])
def test_the_images_of_a_tar_shard_are_read_in_order_and_other_members_are_skipped(
    tmp_path: Path, name: str, mode: str
) -> None:
    members = {
        "b.png": b"1",
        "b.json": b"{}",
        "a/c.JPG": b"2",
        ".hidden.png": b"3",
        "._b.png": b"4",
        "./d.fits": b"5",
        "../e.png": b"6",
    }
    shard = write_tar(tmp_path / name, members, mode)
    listed = ("b.png", b"1"), ("a/c.JPG", b"2"), ("./d.fits", b"5"), ("../e.png", b"6")  # which are extracted nowhere
    assert read_shard(shard) == [(f"{shard}#{member}", data) for member, data in listed]


@pytest.mark.parametrize("long_name", ["x.png", f"{'long/' * 60}é.png"])
def test_one_member_can_be_read_by_its_reference(tmp_path: Path, long_name: str) -> None:
    shard = write_tar(tmp_path / "a.tar", {"a.png": b"1", long_name: IMAGE, ".hidden.png": b"2", "a.txt": b"3"})
    assert images.read_bytes(f"{shard}#{long_name}") == IMAGE
    with pytest.raises(ImageError, match=r"has no member b\.png"):
        images.read_bytes(f"{shard}#b.png")
    assert [item.path for item in listing.list_images([shard])] == [f"{shard}#a.png", f"{shard}#{long_name}"]


@pytest.mark.parametrize("member", ["x.png", "./a//x.png", f"{'n' * 300}.png"])
def test_the_reference_of_a_member_names_an_image_wherever_a_path_does(tmp_path: Path, member: str) -> None:
    reference = f"{write_tar(tmp_path / 'a.tar', {member: IMAGE})}#{member}"
    listing.check_paths([reference])
    assert [(file.name, file.read()) for file in listing.open_images(listing.list_references([reference]))] == [
        (reference, IMAGE)
    ]
    assert [str(item.path) for item in listing.list_images([reference])] == [reference]
    with pytest.raises(DataError, match=r"no such folder or file: b\.tar"):
        listing.check_paths(["b.tar#x.png"])


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz")])
def test_archives_that_were_joined_are_an_error_and_no_shorter_table(tmp_path: Path, name: str, mode: str) -> None:
    shard = write_tar(tmp_path / name, {"a.png": b"1"}, mode)
    shard.write_bytes(shard.read_bytes() * 2)
    error = f"damaged tar archive {shard}: data follow its end: archives that were joined by cat are read apart"
    assert read_shard(shard) == [(f"{shard}#a.png", b"1"), (str(shard), error)]


def test_a_shard_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    for members in ({"a.png": b"1", "b.png": b"2"}, {"b.png": b"33", "a.png": b"44"}):
        objects.forget_listed()  # as each call of the Python API does
        tar = write_tar(tmp_path / "a.tar", members)
        parquet.write_table(pa.table({"image": list(members.values())}), tmp_path / "a.parquet")
        assert {name: images.read_bytes(f"{tar}#{name}") for name in members} == members
        rows = [images.read_bytes(f"{tmp_path / 'a.parquet'}#{row}") for row in range(2)]
        assert rows == list(members.values())


def test_a_shard_at_a_url_that_is_replaced_is_read_anew(tmp_path: Path, bucket: str) -> None:
    """Its members may have the sizes that they had, as cutouts in FITS have, and then other places."""
    for names in ("ab", "ba", "cab"):
        objects.forget_listed()
        images_of = {f"{name}.png": name.encode() * 9 for name in names}
        for name, path in (
            ("a.tar", write_tar(tmp_path / "a.tar", images_of)),
            ("a.parquet", tmp_path / "a.parquet"),
        ):
            if name == "a.parquet":
                parquet.write_table(pa.table({"image": list(images_of.values())}), path)
            objects.write_bytes(f"{bucket}/{name}", path.read_bytes())
        assert {name: images.read_bytes(f"{bucket}/a.tar#{name}") for name in images_of} == images_of
        rows = [images.read_bytes(f"{bucket}/a.parquet#{row}") for row in range(len(names))]
        assert rows == list(images_of.values())


def test_single_images_of_compressed_shards_are_refused(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar.gz", {"a.png": b"1"}, "w:gz")
    with pytest.raises(DataError, match="is compressed, so that its images cannot be read one by one: decompress it"):
        listing.list_images([shard])


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_truncated_shard_gives_its_whole_images_and_one_error(tmp_path: Path, name: str, kept: float) -> None:
    rng = np.random.default_rng(0)
    members = {f"{i}.png": rng.bytes(5000) for i in range(10)}
    shard = write_tar(tmp_path / name, members, "w:gz" if name.endswith("gz") else "w")
    shard.write_bytes(shard.read_bytes()[: int(kept * shard.stat().st_size)])
    *whole, (error_name, error) = read_shard(shard)
    assert whole == [(f"{shard}#{i}.png", members[f"{i}.png"]) for i in range(len(whole))]
    assert error_name == str(shard)
    assert str(error).startswith(f"damaged tar archive {error_name}: ")


def test_images_of_shards_in_class_folders_are_images_of_the_class(tmp_path: Path) -> None:
    (tmp_path / "E").mkdir()
    (tmp_path / "S").mkdir()
    shard = write_tar(tmp_path / "E" / "a.tar", {"1.png": IMAGE, "2.png": IMAGE})
    rows, table = tmp_path / "S" / "b.parquet", tmp_path / "S" / "c.parquet"
    parquet.write_table(pa.table({"image": [IMAGE, IMAGE]}), rows)
    parquet.write_table(pa.table({"count": [1]}), table)
    items = [(item.path, item.label) for item in listing.list_images([tmp_path])]
    assert items == [(f"{shard}#1.png", "E"), (f"{shard}#2.png", "E"), (f"{rows}#0", "S"), (f"{rows}#1", "S")]


def test_a_damaged_header_is_an_error_and_not_the_end(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", {"1.png": b"1", "2.png": b"2", "3.png": b"3"})
    data = bytearray(shard.read_bytes())
    data[1024] ^= 0xFF
    shard.write_bytes(data)
    assert [name for name, _ in read_shard(shard)] == [f"{shard}#1.png", str(shard)]


def test_a_shard_cut_between_members_is_an_error(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", {"1.png": b"1", "2.png": b"2"})
    shard.write_bytes(shard.read_bytes()[:1024])
    assert [name for name, _ in read_shard(shard)] == [f"{shard}#1.png", str(shard)]


@pytest.mark.parametrize("contents", [b"", b"no archive", b"\x1f\x8bno archive"])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_what_is_no_archive_is_one_error(tmp_path: Path, name: str, contents: bytes) -> None:
    (tmp_path / name).write_bytes(contents)
    ((error_name, error),) = read_shard(tmp_path / name)
    assert error_name == str(tmp_path / name)
    assert str(error).startswith(f"damaged tar archive {error_name}: ")


def test_members_above_the_limit_are_errors_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 2**20)
    shard = write_tar(tmp_path / "a.tar", {"big.png": bytes(2**20 + 1), "small.png": b"1"})
    assert read_shard(shard) == [(f"{shard}#big.png", "more than 1 MiB"), (f"{shard}#small.png", b"1")]


def test_a_header_of_any_size_takes_neither_memory_nor_time(tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 40_960
    (tmp_path / "a.tar").write_bytes(info.tobuf() + bytes(info.size))
    ((_, error),) = read_shard(tmp_path / "a.tar")
    assert error == f"damaged tar archive {tmp_path / 'a.tar'}: a header of 40,960 bytes: at most 32,768 are read"


def test_links_are_not_followed_but_errors(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            info = tarfile.TarInfo(f"{kind.decode()}.png")
            info.type, info.linkname = kind, str(secret)
            archive.addfile(info)
    names = [f"{tmp_path}/a.tar#{kind.decode()}.png" for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE)]
    assert read_shard(tmp_path / "a.tar") == [
        (name, f"a link to {secret}: make the archive by tar --dereference --hard-dereference") for name in names
    ]
    assert [item.path for item in listing.list_images([tmp_path / "a.tar"])] == names
    with pytest.raises(ImageError, match=f"a link to {secret}"):
        images.read_bytes(names[0])


def test_references_are_images_and_whole_shards_sorted_by_path(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("c.png", "b/2.png", ".hidden.tar", "notes.txt"):
        (tmp_path / name).write_bytes(b"1")
    write_tar(tmp_path / "b" / "1.tar", {"x.png": IMAGE})
    names = [f"{tmp_path}/{name}" for name in ("b/1.tar", "b/2.png", "c.png")]
    assert list(listing.list_references([str(tmp_path)])) == names
