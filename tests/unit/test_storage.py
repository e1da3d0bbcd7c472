"""Object stores and web servers: reading, writing and listing, with the faults that they have."""

import http.client
import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import (
    Fault,
    FaultProxy,
    S3Server,
    cut_body,
    cut_connection,
    forbidden,
    reset_connection,
    slow_down,
    stall,
)

from astrodetect import images
from astrodetect.datasets import class_folders, listing
from astrodetect.errors import DataError, ImageError, StorageError, StorageMissing, StorageUnavailable
from astrodetect.storage import clients, objects

MIB = 2**20


def test_bytes_are_read_and_written_and_never_overwritten_where_that_is_forbidden(bucket: str) -> None:
    url = f"{bucket}/folder/ä b#c%20.bin"
    assert not objects.exists(url)
    assert objects.write_bytes(url, b"1", if_absent=True)
    assert not objects.write_bytes(url, b"2", if_absent=True)
    assert objects.read_bytes(url) == b"1"
    assert objects.write_bytes(url, b"2")
    assert objects.read_bytes(url) == b"2"
    assert list(objects.list_names(f"{bucket}/folder")) == ["ä b#c%20.bin"]
    objects.delete(url)
    objects.delete(url)
    assert not objects.exists(url)


def test_a_put_whose_answer_is_lost_counts_as_written(s3: S3Server, bucket: str) -> None:
    objects.exists(bucket + "/a")
    s3.faults.append(_lost)
    assert objects.write_bytes(f"{bucket}/a", b"1", if_absent=True)


def _lost(proxy: FaultProxy) -> bool:
    """The server does what it is asked; the client does not hear of it."""
    wfile = proxy.wfile
    proxy.wfile = io.BytesIO()
    proxy.forward()
    proxy.wfile = wfile
    return cut_connection(proxy)


@pytest.mark.parametrize("fault", [slow_down, cut_body, cut_connection, stall(1)])
def test_faults_of_the_server_are_repeated(
    s3: S3Server, bucket: str, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytes(range(256)) * 400
    objects.write_bytes(f"{bucket}/a", data)
    monkeypatch.setattr(clients, "READ_S", 0.3)
    clients.forget_servers()
    s3.faults += [fault, fault, fault]
    assert objects.read_bytes(f"{bucket}/a") == data
    assert len(s3.requests) >= 5


@pytest.mark.parametrize("fault", [cut_body, reset_connection])
def test_lists_deletions_and_conditional_writes_are_repeated_too(s3: S3Server, bucket: str, fault: Fault) -> None:
    s3.faults.append(fault)
    assert objects.write_bytes(f"{bucket}/a", b"1", if_absent=True)
    s3.faults.append(fault)
    assert list(objects.list_names(bucket)) == ["a"]
    s3.faults.append(fault)
    objects.delete(f"{bucket}/a")
    assert not objects.exists(f"{bucket}/a")


def test_a_large_object_is_read_by_ranges_across_faults(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytes(range(256)) * 8192
    objects.write_bytes(f"{bucket}/a", data)
    s3.faults += [lambda _: False, cut_body, slow_down, cut_body]
    with objects.open_reader(f"{bucket}/a", buffer_bytes=MIB) as file:
        assert file.read() == data
        file.seek(1000)
        assert file.read(10) == data[1000:1010]


def test_a_changed_object_is_not_read_as_one(bucket: str) -> None:
    objects.write_bytes(f"{bucket}/a", bytes(3 * MIB))
    with objects.open_reader(f"{bucket}/a", buffer_bytes=MIB) as file:
        file.read(10)
        objects.write_bytes(f"{bucket}/a", b"x" * 3 * MIB)
        with pytest.raises(StorageError, match="was changed meanwhile"):
            file.read()


def test_a_written_file_exists_after_its_block_and_not_after_an_error(bucket: str, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4096 * 20
    for folder in (bucket, str(tmp_path)):
        with objects.open_writer(f"{folder}/a") as file:
            for at in range(0, len(data), MIB):
                file.write(data[at : at + MIB])
            assert not objects.exists(f"{folder}/a")
        assert objects.read_bytes(f"{folder}/a") == data
        with pytest.raises(KeyError), objects.open_writer(f"{folder}/b") as file:  # noqa: PT012
            file.write(data)
            raise KeyError
        assert not objects.exists(f"{folder}/b")


def test_a_table_is_written_to_an_object_store_row_group_by_row_group(bucket: str) -> None:
    table = pa.table({"path": ["a.png", "b.png"], "score": [0.25, 0.5]})
    with objects.open_writer(f"{bucket}/t.parquet") as file, pq.ParquetWriter(file, table.schema) as writer:
        for _ in range(3):
            writer.write_table(table)
    with objects.open_reader(f"{bucket}/t.parquet") as file:
        assert pq.read_table(file).to_pylist() == table.to_pylist() * 3


def test_a_writer_names_the_object_that_it_cannot_write(s3: S3Server, bucket: str) -> None:
    s3.faults += [forbidden]
    with (
        pytest.raises(StorageError, match=f"^{bucket}/a: access denied .403 AccessDenied.: check the credentials"),
        objects.open_writer(f"{bucket}/a") as file,
    ):
        file.write(b"1")
    assert not objects.exists(f"{bucket}/a")


def test_a_server_that_is_too_busy_for_long_is_unavailable(s3: S3Server, bucket: str) -> None:
    s3.faults += [slow_down] * 100
    with pytest.raises(StorageUnavailable, match=f"^{bucket}/a: answered 503 SlowDown$"):
        objects.read_bytes(f"{bucket}/a")


def test_what_is_wrong_is_one_line(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageMissing, match=f"^{bucket}/none: no such file$"):
        objects.read_bytes(f"{bucket}/none")
    with pytest.raises(StorageMissing, match=r"^s3://no-such-bucket/a: there is no such bucket$"):
        objects.read_bytes("s3://no-such-bucket/a")
    with pytest.raises(StorageMissing, match=r"^s3://no-such-bucket/: there is no such bucket$"):
        list(objects.list_names("s3://no-such-bucket/"))
    s3.faults.append(forbidden)
    with pytest.raises(StorageError, match=f"^{bucket}/a: access denied .403 AccessDenied.: check the credentials"):
        objects.read_bytes(f"{bucket}/a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    clients.forget_servers()
    with pytest.raises(StorageUnavailable, match=r"^s3://b/a: no connection to its server$"):
        objects.read_bytes("s3://b/a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://no-such-host.invalid")
    clients.forget_servers()
    with pytest.raises(StorageUnavailable, match=r"^s3://b/a: its host name cannot be resolved$"):
        objects.read_bytes("s3://b/a")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("HOME", "/nonexistent")
    clients.forget_servers()
    with pytest.raises(StorageUnavailable, match=r"^no credentials for s3://b/a: set AWS_ACCESS_KEY_ID and"):
        objects.read_bytes("s3://b/a")


def test_keys_of_the_aws_command_line_are_used(
    s3: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects.write_bytes(f"{bucket}/a", b"1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[sky]\naws_access_key_id = k\naws_secret_access_key = s\n")
    (tmp_path / ".aws" / "config").write_text(f"[profile sky]\nregion = us-east-1\nendpoint_url = {s3.proxy}\n")
    monkeypatch.setenv("AWS_PROFILE", "sky")
    clients.forget_servers()
    assert objects.read_bytes(f"{bucket}/a") == b"1"
    monkeypatch.setenv("AWS_PROFILE", "other")
    clients.forget_servers()
    with pytest.raises(StorageError, match="the AWS profile other has no access key here: eval"):
        objects.read_bytes(f"{bucket}/a")


def test_folders_of_object_stores_are_listed_as_local_ones(bucket: str, tmp_path: Path) -> None:
    names = ["b.png", "a/1.JPG", "a/0.fits.gz", "a.txt", ".hidden/x.png", "a/.y.png", "a-b/z.png", "ab.tar", "é/1.png"]
    for name in names:
        for root in (bucket, str(tmp_path)):
            objects.write_bytes(f"{root}/sky/{name}", b"1")
    remote = list(listing.list_references([f"{bucket}/sky"]))
    assert [name.removeprefix(f"{bucket}/sky/") for name in remote] == [
        name.removeprefix(f"{tmp_path}/sky/") for name in listing.list_references([f"{tmp_path}/sky"])
    ]
    assert len(remote) == 6
    assert list(listing.list_references([f"{bucket}/sky/"])) == remote
    assert list(listing.list_references([bucket])) == remote
    assert list(listing.list_references([f"{bucket}/sky/a.txt"])) == [f"{bucket}/sky/a.txt"]


def test_a_name_of_an_object_that_is_no_path_is_named(s3: S3Server, bucket: str) -> None:
    connection = http.client.HTTPConnection(s3.direct.removeprefix("http://"), timeout=10)
    connection.request("PUT", f"/{bucket.removeprefix('s3://')}/sky//a.png", b"1")
    assert connection.getresponse().status == 200
    connection.close()
    with pytest.raises(StorageError, match=f'^{bucket} has the name "sky//a.png", which is no path: rename it, or'):
        list(listing.list_references([bucket]))


def test_names_that_do_not_exist_or_overlap_are_refused(bucket: str) -> None:
    objects.write_bytes(f"{bucket}/sky/a.png", b"1")
    with pytest.raises(DataError, match=f"^no such folder or file: {bucket}/none$"):
        listing.check_paths([f"{bucket}/none"])
    with pytest.raises(DataError, match="is inside"):
        listing.check_paths([f"{bucket}/sky/a.png", f"{bucket}/sky"])
    listing.check_paths([f"{bucket}/sky/a.png"])


@pytest.mark.parametrize("remote", [True, False])
def test_two_folders_of_one_part_are_refused(bucket: str, tmp_path: Path, remote: bool) -> None:
    root = bucket if remote else str(tmp_path)
    for name in ("train/E/1.png", "train_2/E/2.png", "test/E/3.png"):
        objects.write_bytes(f"{root}/sky/{name}", b"1")
    folder = f"{root}/sky" if remote else tmp_path / "sky"
    with pytest.raises(DataError, match=f"^both {root}/sky/train and {root}/sky/train_2 are the part train: keep only"):
        class_folders.list_dataset(folder)


def test_images_are_downloaded_ahead_in_order_and_each_failure_is_its_own(
    s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", MIB)
    urls = [f"{bucket}/{index}.png" for index in range(100)]
    for index, url in enumerate(urls):
        if index != 50:
            objects.write_bytes(url, b"%d" % index if index != 60 else bytes(MIB + 1))
    s3.faults += [slow_down, cut_body] * 10
    files = list(listing.open_images(urls))
    assert [file.name for file in files] == urls
    for index, file in enumerate(files):
        if index in {50, 60}:
            reason = f"{urls[50]}: no such file" if index == 50 else f"{urls[60]} has more than 1 MiB"
            with pytest.raises(ImageError, match=f"^{reason}$"):
                file.read()
        else:
            assert file.read() == b"%d" % index


def test_a_store_that_fails_for_long_is_not_the_fault_of_an_image(s3: S3Server, bucket: str) -> None:
    objects.write_bytes(f"{bucket}/a.png", b"1")
    [file] = listing.open_images([f"{bucket}/a.png"])
    assert file.read() == b"1"
    s3.faults += [slow_down] * 100
    [file] = listing.open_images([f"{bucket}/a.png"])
    with pytest.raises(StorageUnavailable):
        file.read()


def test_a_remote_tar_shard_is_read_across_faults_and_never_in_part(s3: S3Server, bucket: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for index in range(50):
            info = tarfile.TarInfo(f"{index}.png")
            info.size = 10_000
            archive.addfile(info, io.BytesIO(bytes([index]) * 10_000))
    objects.write_bytes(f"{bucket}/a.tar", buffer.getvalue())
    s3.faults += [lambda _: False, cut_body, slow_down]
    files = list(listing.open_images([f"{bucket}/a.tar"]))
    assert [(file.name, file.read()) for file in files] == [
        (f"{bucket}/a.tar#{index}.png", bytes([index]) * 10_000) for index in range(50)
    ]
    assert images.read_bytes(f"{bucket}/a.tar#7.png") == bytes([7]) * 10_000
    s3.faults += [slow_down] * 100
    with pytest.raises(StorageUnavailable):
        list(listing.open_images([f"{bucket}/a.tar"]))
