"""Images in shards: tar archives, read one member after the other, and row groups of Parquet files."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from shard_files import parquet_of, tar_of

from astrodetect import images
from astrodetect.api.models import as_paths
from astrodetect.datasets import listing
from astrodetect.datasets.tables import read_table
from astrodetect.errors import DataError, ImageError
from astrodetect.storage import objects, parquet_shards, shards

IMAGE = images.encode_png(np.zeros((20, 20, 3), np.uint8))


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    """A tar archive of these members, in this order."""
    path.write_bytes(tar_of(members, mode))
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


def test_the_holes_of_a_sparse_member_are_zeros_also_when_it_is_read_by_its_reference(tmp_path: Path) -> None:
    member = tarfile.TarInfo("a.png")
    member.size = 5
    member.pax_headers = {"GNU.sparse.map": "2,3,8,2", "GNU.sparse.size": "12"}  # as tar --sparse --posix writes it
    shard = tmp_path / "a.tar"
    with tarfile.open(shard, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(b"abcde"))
    contents = b"\0\0abc\0\0\0de\0\0"
    assert read_shard(shard) == [(f"{shard}#a.png", contents)]
    assert shards.read_image(f"{shard}#a.png", 100) == contents


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


def test_a_parquet_table_has_labels_parts_and_groups(tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    table.write_bytes(
        parquet_of({"file": ["a.png", "b.png"], "label": ["E", "SB"], "part": ["train", "val"], "group": [1, None]})
    )
    assert [(item.label, item.part, item.group) for item in read_table(table)] == [
        ("E", "train", "1"),
        ("SB", "validation", ""),
    ]
    table.write_bytes(parquet_of({"ra": [1.0]}))
    with pytest.raises(DataError, match=r"has no column path and no column label$"):
        list(read_table(table))


def test_parquet_files_hold_images_as_hugging_face_writes_them(tmp_path: Path) -> None:
    file = tmp_path / "sky.parquet"
    rows = [{"bytes": b"%d" % index, "path": f"{index}.png"} for index in range(5)]
    file.write_bytes(parquet_of({"label": [0] * 6, "picture": [*rows, None]}))
    references = list(listing.list_references([str(tmp_path)]))
    assert [*map(shards.shard_name, references)] == [f"{file}#row-group={group}" for group in range(3)]
    *files, last = listing.open_images(references)
    assert [file.read() for file in files] == [row["bytes"] for row in rows]
    with pytest.raises(ImageError, match="no image in this row"):
        last.read()
    assert images.read_bytes(f"{file}#3") == b"3"
    assert [item.path for item in listing.list_images([file])] == [f"{file}#{row}" for row in range(6)]


def test_other_parquet_files_in_a_folder_are_no_images_and_damaged_ones_are_errors(tmp_path: Path) -> None:
    (tmp_path / "scores.parquet").write_bytes(parquet_of({"path": ["a.png"], "score": [0.5]}))
    assert list(listing.list_references([str(tmp_path)])) == []
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1")
    [file] = listing.open_images(listing.list_references([str(tmp_path)]))
    assert file.name == f"{tmp_path}/damaged.parquet#row-group=0"
    with pytest.raises(ImageError, match="damaged Parquet file"):
        file.read()


def test_images_of_two_versions_of_a_shard_are_never_mixed(tmp_path: Path) -> None:
    for name, new in (
        ("sky.parquet", parquet_of({"bytes": [b"3", b"4", b"5"]}, 1)),
        ("sky.tar", tar_of({"1.png": b"4", "2.png": b"5"})),
    ):
        file = tmp_path / name
        old = (
            parquet_of({"bytes": [b"0", b"1"]}, 1) if name == "sky.parquet" else tar_of({"1.png": b"0", "2.png": b"1"})
        )
        file.write_bytes(old)
        references, items = list(listing.list_references([str(file)])), listing.list_images([file])
        opened = listing.open_images(references)
        assert [next(opened).read(), images.read_bytes(items[0].path)] == [b"0", b"0"]
        (tmp_path / "new").write_bytes(new)
        (tmp_path / "new").rename(file)
        with pytest.raises(ImageError, match="has changed since its images were listed"):
            images.read_bytes(items[1].path)
        if name == "sky.parquet":  # a tar archive is open, and read to its end
            with pytest.raises(ImageError, match="has changed since its images were listed"):
                next(opened).read()
        with pytest.raises(ImageError):
            images.read_bytes(items[1].path)  # until it is listed again, or named in another call of the Python API
        assert images.read_bytes(as_paths(str(items[1].path))[0]) in {b"4", b"5"}


def test_a_shard_that_is_written_over_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "sky.tar"
    file.write_bytes(tar_of({f"{name}.png": bytes(100_000) for name in range(3)}))
    opened = listing.open_images([str(file)])
    assert next(opened).read() == bytes(100_000)
    file.write_bytes(tar_of({f"{name}.png": b"1" * 100_000 for name in range(4)}))
    (changed,) = opened
    with pytest.raises(ImageError, match="was changed while it was read"):
        changed.read()


def test_versions_of_a_shard_are_told_apart_whatever_else_is_listed(tmp_path: Path) -> None:
    shard, other, table = tmp_path / "sky.tar", tmp_path / "other.tar", tmp_path / "table.csv"
    shard.write_bytes(tar_of({"1.png": b"0", "2.png": b"1"}))
    other.write_bytes(shard.read_bytes())
    table.write_text("path\nother.tar#1.png\nother.tar#2.png\n")
    paths = [item.path for item in [*listing.list_images([shard]), *read_table(table, labelled=False)]]
    assert images.read_bytes(paths[2]) == b"0"  # the first of the table, which notes the version
    for path in (shard, other):
        path.write_bytes(tar_of({"1.png": b"2", "2.png": b"3", "3.png": bytes(20_000)}))
    for file in (paths[0], paths[3]):
        with pytest.raises(ImageError, match="has changed since its images were listed"):
            images.read_bytes(file)
    again, _ = read_table(table, labelled=False)  # as a training lists each part anew
    with pytest.raises(ImageError, match="has changed since its images were listed"):
        images.read_bytes(again.path)


def test_shards_that_a_table_lists_are_read_as_those_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet_of({"bytes": [b"0", b"1", b"2"]}))
    (tmp_path / "b.tar").write_bytes(tar_of({"1.png": b"3", "2.png": b"4"}))
    (tmp_path / "c.parquet").write_bytes(parquet_of({"path": ["a.png"]}))
    (tmp_path / "list.csv").write_text("path\na.parquet\nb.tar\nc.parquet\n")
    table = tmp_path / "list.csv"
    *opened, other = listing.open_images(listing.list_references([str(table)]))
    assert [file.read() for file in opened] == [b"0", b"1", b"2", b"3", b"4"]
    assert other.name == str(tmp_path / "c.parquet")  # without images: a bad file, not left out
    *items, item = listing.list_images([table])
    assert [images.read_bytes(image.path) for image in items] == [b"0", b"1", b"2", b"3", b"4"]
    assert str(item.path) == other.name


def test_rows_of_parquet_above_the_limit_are_errors_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "sky.parquet"
    file.write_bytes(parquet_of({"bytes": [bytes(2**20 + 1), b"1"]}))
    large, small = parquet_shards.read_row_group(str(file), "row-group=0", 2**20)
    assert str(large[1]) == "more than 1 MiB"
    assert small == (1, b"1")
