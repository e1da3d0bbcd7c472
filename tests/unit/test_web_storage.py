"""Files on web servers, and tables of images there."""

import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from malicious_server import CERTIFICATE
from shard_files import parquet_of, tar_of

from astrodetect import images
from astrodetect.datasets import listing
from astrodetect.errors import DataError, ImageError, StorageError, StorageUnavailable
from astrodetect.storage import clients, objects

IMAGE = images.encode_png(np.zeros((20, 20, 3), np.uint8))


class WebServer(http.server.ThreadingHTTPServer):
    """Serves `files` by path and query.

    Of /chunked/ without a length, /whole/ without ranges, /dated/ badly dated, and ranges of /lossy/ a byte less.
    """

    files: dict[str, bytes]
    requests: list[str]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """A file, or a part of it."""
        self.server.requests.append(self.path)
        if self.command == "HEAD" and "?signed=" in self.path:
            self._send(403, b"signed for GET")
        elif self.command == "HEAD" and "?application=" in self.path:
            self._send(405, b"GET alone")
        elif self.path.startswith("/odd/"):
            self.wfile.write(b"HTTP/1.1 %s\r\n\r\n" % self.path.removeprefix("/odd/").replace("~", "\r\n").encode())
            self.close_connection = True
        elif self.path.startswith("/moved/"):
            self._send(302, b"", Location=self.path.removeprefix("/moved").removeprefix("/to/"))
        elif self.path not in self.server.files:
            self._send(404, "no such page: déplacée".encode("latin-1"))
        elif self.path.startswith("/chunked/"):
            data = self.server.files[self.path]
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
        elif self.path.startswith("/dated/"):
            self._send(200, self.server.files[self.path], **{"Last-Modified": "yesterday"})
        else:
            data, wanted = self.server.files[self.path], self.headers.get("Range")
            headers = {"ETag": f'W/"{data[:1].hex()}"'} if self.path.startswith("/tagged/") else {}
            if wanted and not self.path.startswith("/whole/"):
                start, _, end = wanted.removeprefix("bytes=").partition("-")
                part = data[int(start) : int(end) + 1]
                headers["Content-Range"] = f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"
                self._send(206, part[1:] if self.path.startswith("/lossy/") else part, **headers)
            else:
                self._send(200, data, **headers)

    do_HEAD = do_GET  # noqa: N815 - of the base class

    def _send(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """A web server, and short waits of its client."""
    monkeypatch.setattr(clients, "BACKOFF_S", 0.01)
    clients.forget_servers()
    server = WebServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads, server.files, server.requests = True, {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
    clients.forget_servers()


def url_of(server: WebServer, path: str) -> str:
    """The URL of a path."""
    return f"http://127.0.0.1:{server.server_port}{path}"


@pytest.mark.parametrize(
    "path",
    [
        "/a/b.png",
        "/a/b%20c%2Fd.png",
        "/a//b.png",
        "/cutout?ra=1.5&dec=%2B2&layer=x",
        "/moved/a.png",
        "/chunked/a.png",
        "/dated/a.png",
    ],
)
def test_files_of_web_servers_are_read_at_any_address(web: WebServer, path: str) -> None:
    web.files[path.removeprefix("/moved")] = IMAGE
    assert images.read_bytes(url_of(web, path)) == IMAGE
    assert list(listing.list_references([url_of(web, path)])) == [url_of(web, path)]


@pytest.mark.parametrize("path", ["/big.png", "/chunked/big.png"])
def test_files_of_web_servers_are_read_up_to_the_limit(
    web: WebServer, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 2**20)
    web.files[path] = bytes(2**20 + 1)
    with pytest.raises(ImageError, match="has more than 1 MiB"):
        images.read_bytes(url_of(web, path))


def test_no_message_contains_a_password_or_a_query(web: WebServer) -> None:
    with pytest.raises(ImageError) as error:
        images.read_bytes(f"http://user:secret@127.0.0.1:{web.server_port}/a.png?signature=secret")
    assert str(error.value) == f"{url_of(web, '/a.png')}: no such file"
    for name, data in (("a.tar", tar_of({"1.png": b"1"})), ("a.parquet", parquet_of({"image": [b"3"]}))):
        web.files[f"/{name}?signature=secret"] = data
        with pytest.raises(ImageError, match=rf"{name} has no (member|row) 7$"):
            images.read_bytes(url_of(web, f"/{name}?signature=secret#7"))


def test_a_host_that_does_not_answer_is_the_fault_of_its_images_only() -> None:
    clients.forget_servers()
    with pytest.raises(ImageError, match="no connection to its server"):
        images.read_bytes("http://127.0.0.1:9/a.png")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("302~Content-Length:0", "its redirect cannot be followed"),
        ("OK", "no valid HTTP"),
        ("200~Content-Length:3~Content-Length:4", "no valid HTTP"),
    ],
)
def test_an_answer_that_is_no_valid_http_is_the_fault_of_its_image(web: WebServer, answer: str, reason: str) -> None:
    web.files["/a.png"] = IMAGE
    assert images.read_bytes(url_of(web, "/a.png")) == IMAGE  # so that the server counts as one that answers
    with pytest.raises(ImageError, match=reason):
        images.read_bytes(url_of(web, f"/odd/{answer}"))


def test_a_certificate_that_is_not_valid_is_named(web: WebServer) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATE)
    web.socket = tls.wrap_socket(web.socket, server_side=True)
    with pytest.raises(ImageError, match="its server has no valid certificate"):
        images.read_bytes(url_of(web, "/a.png").replace("http:", "https:"))


def test_a_host_that_answered_before_is_unavailable(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    web.files["/a.png"] = IMAGE
    assert images.read_bytes(url_of(web, "/a.png")) == IMAGE
    monkeypatch.setattr(clients, "MAX_RETRIES", 1)
    web.shutdown()
    web.server_close()
    with pytest.raises(StorageUnavailable, match="no connection to its server"):
        images.read_bytes(url_of(web, "/a.png"))


@pytest.mark.parametrize("target", ["file:///a.png", "ftp://127.0.0.1/a.png", "https://"])
def test_a_redirect_that_leads_nowhere_is_the_fault_of_its_image(web: WebServer, target: str) -> None:
    web.files["/a.png"] = IMAGE
    assert images.read_bytes(url_of(web, "/a.png")) == IMAGE
    with pytest.raises(ImageError, match="its redirect cannot be followed"):
        images.read_bytes(url_of(web, f"/moved/to/{target}"))


def test_a_table_with_an_address_that_is_none_is_refused_with_its_row(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("path\na.png\nhttp://[::1/a.png\n")
    with pytest.raises(DataError, match=r"row 3 of .*a\.csv: an address is invalid \(Invalid IPv6 URL\)"):
        list(listing.list_references([str(table)]))


def test_a_part_of_another_length_than_it_declares_is_refused(web: WebServer) -> None:
    web.files["/lossy/a.tar"] = tar_of({"a.png": IMAGE})
    with pytest.raises(StorageError, match=r"sent [\d,]+ bytes of it instead of [\d,]+"):
        objects.open_reader(url_of(web, "/lossy/a.tar")).read()


def test_parts_of_versions_that_differ_in_their_tag_alone_are_not_mixed(web: WebServer) -> None:
    web.files["/tagged/a.tar"] = bytes(20)
    with objects.open_reader(url_of(web, "/tagged/a.tar"), 10) as reader:
        assert reader.read(10) == bytes(10)
        web.files["/tagged/a.tar"] = b"1" * 20
        with pytest.raises(StorageError, match="was changed meanwhile"):
            reader.read(10)


def test_folders_of_web_servers_and_writing_there_are_refused(web: WebServer) -> None:
    folder = url_of(web, "/images/")
    with pytest.raises(DataError, match="a folder of a web server cannot be listed: name files or a manifest"):
        listing.check_paths([folder])
    with pytest.raises(StorageError, match="nothing can be written to a web server"):
        objects.write_bytes(url_of(web, "/a.csv"), b"")


@pytest.mark.parametrize("query", ["", "?signed=a.b%2F", "?application=1"])
def test_shards_of_web_servers_are_read(web: WebServer, query: str) -> None:
    names = [url_of(web, f"/sky.tar{query}"), url_of(web, f"/sky.parquet{query}")]
    web.files[f"/sky.tar{query}"] = tar_of({"1.png": b"1", "2.png": b"2"})
    web.files[f"/sky.parquet{query}"] = parquet_of({"image": [b"3", b"4", b"5"]})
    files = list(listing.open_images(listing.list_references(names)))
    assert [file.name for file in files] == [
        *(f"{names[0]}#{name}" for name in ("1.png", "2.png")),
        *(f"{names[1]}#{row}" for row in range(3)),
    ]
    assert [file.read() for file in files] == [b"1", b"2", b"3", b"4", b"5"]
    again = list(listing.open_images(listing.list_references(file.name for file in files)))  # each by its name
    assert [(file.name, file.read()) for file in again] == [(file.name, file.read()) for file in files]


def test_a_web_server_without_ranges_is_named(web: WebServer) -> None:
    web.files["/whole/sky.tar"] = tar_of({"1.png": b"1"})
    [file] = listing.open_images([url_of(web, "/whole/sky.tar")])
    with pytest.raises(ImageError, match="does not send parts of files: download the file first"):
        file.read()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_rows_of_tables_are_urls_or_relative_to_the_table(web: WebServer, tmp_path: Path, kind: str) -> None:
    paths = ["a.png", "night 1/b.png", "http://elsewhere/c.png?x=1", "s3://sky/d.png", "e.tar"]
    data = ("path\n" + "\n".join(paths)).encode() if kind == "csv" else parquet_of({"path": paths, "label": ["E"] * 5})
    web.files[f"/lists/t.{kind}"] = data
    (tmp_path / f"t.{kind}").write_bytes(data)
    table = url_of(web, f"/lists/t.{kind}")
    folder = url_of(web, "/lists")
    assert list(listing.list_references([table])) == [f"{folder}/{path}" for path in paths[:2]] + [
        *paths[2:4],
        f"{folder}/e.tar",
    ]
    local = listing.list_references([str(tmp_path / f"t.{kind}")])
    assert list(local) == [*(f"{tmp_path}/{path}" for path in paths[:2]), *paths[2:4], f"{tmp_path}/e.tar"]


def test_a_table_at_a_url_cannot_name_local_files(web: WebServer) -> None:
    web.files["/t.csv"] = b"path\n/etc/passwd\n"
    with pytest.raises(DataError, match=r"row 2 of .*/t\.csv has the absolute path /etc/passwd"):
        list(listing.list_references([url_of(web, "/t.csv")]))


def test_a_file_that_changes_on_a_web_server_without_entity_tags_is_an_error(web: WebServer) -> None:
    web.files["/a.tar"] = bytes(200)
    with objects.open_reader(url_of(web, "/a.tar"), buffer_bytes=100) as file:
        assert file.read(10) == bytes(10)
        web.files["/a.tar"] = b"x" * 300
        with pytest.raises(StorageError, match="was changed meanwhile"):
            file.read()
