"""/detect/batch: a line for each image, in order; a bad image fails alone, in a form or in a zip."""

import io
import json
import time
import zipfile
from typing import Any

import numpy as np
import pytest
from PIL import Image
from programs import query
from starlette.testclient import TestClient


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def make_zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def service_settings() -> dict[str, Any]:
    return {
        "max_body_bytes": 100_000,
        "max_batch_bytes": 1_000_000,
        "max_batch_images": 100,
    }


def upload(client: TestClient, files: list[tuple[str, bytes]]) -> Any:
    return client.post("/detect/batch", files=[("file", file) for file in files])


def read_lines(response: Any) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def test_each_image_of_a_batch_has_a_line_a_row_and_the_score_that_it_has_alone(
    client: TestClient, database_url: str
) -> None:
    files = [(f"{seed}.png", png(seed)) for seed in range(70)]
    results = read_lines(upload(client, files))
    assert [line["image_name"] for line in results] == [name for name, _ in files]
    rows = dict(query(database_url, "SELECT id, score FROM predictions"))
    assert {line["id"]: line["score"] for line in results} == rows
    for line, (name, data) in list(zip(results, files, strict=True))[::10]:
        alone = client.post("/detect", files={"file": (name, data)}).json()
        assert alone["image_sha256"] == line["image_sha256"]
        assert alone["score"] == pytest.approx(line["score"], abs=1e-5)


def test_bad_files_have_an_error_in_their_place(client: TestClient, database_url: str) -> None:
    files = [("a", png(1)), ("b", b"<html>"), ("c", b""), ("d", png(2)[:500]), ("e", png(3)), ("f", b"\0" * 200_000)]
    results = read_lines(upload(client, files))
    assert [line["image_name"] for line in results] == list("abcdef")
    codes = [line.get("error", {}).get("code") for line in results]
    assert codes == [None, "image_unsupported", "image_empty", "image_corrupt", None, "body_too_large"]
    assert query(database_url, "SELECT image_name FROM predictions ORDER BY image_name") == [("a",), ("e",)]


def test_the_images_in_a_zip_are_scored(client: TestClient) -> None:
    inside = {"E/1.png": png(1), "E/.hidden.png": b"x", "__MACOSX/E/1.png": b"x", "SB/2.txt": b"no", "3.png": png(3)}
    results = read_lines(
        upload(client, [("before.png", png(0)), ("many.zip", make_zip(inside)), ("after.png", png(4))])
    )
    names = ["before.png", "many.zip/E/1.png", "many.zip/SB/2.txt", "many.zip/3.png", "after.png"]
    assert [line["image_name"] for line in results] == names
    assert [line.get("error", {}).get("code") for line in results] == [None, None, "image_unsupported", None, None]


def test_a_zip_bomb_is_cut_short(client: TestClient) -> None:
    bomb = make_zip({f"{number}.png": b"\0" * 99_000 for number in range(150)} | {"large.png": b"\0" * 200_000})
    assert len(bomb) < 100_000
    results = read_lines(upload(client, [("bomb.zip", bomb), ("after.png", png(1))]))
    assert results[-1]["error"]["message"].startswith("more than 100 images")
    small = make_zip({f"{number}.png": b"\0" * 100_000 for number in range(99)} | {"large.png": b"\0" * 200_000})
    results = read_lines(upload(client, [("small.zip", small)]))
    assert results[-1]["error"]["code"] == "body_too_large"


@pytest.mark.parametrize("broken", [make_zip({"1.png": png(1)})[:200], b"PK\x03\x04" + b"\0" * 100])
def test_a_broken_zip_has_an_error_in_its_place(client: TestClient, broken: bytes) -> None:
    results = read_lines(upload(client, [("broken.zip", broken), ("after.png", png(1))]))
    assert [line.get("error", {}).get("code") for line in results] == ["archive_unusable", None]


def test_a_damaged_file_in_a_zip_fails_alone(client: TestClient) -> None:
    data = bytearray(make_zip({"1.png": png(1), "2.png": png(2)}))
    data[300] ^= 0xFF
    results = read_lines(upload(client, [("damaged.zip", bytes(data))]))
    assert [line.get("error", {}).get("code") for line in results] == ["archive_unusable", None]


def test_a_request_without_files_is_refused(client: TestClient) -> None:
    form = {"content-type": "multipart/form-data; boundary=x"}
    for response in (
        client.post("/detect/batch"),
        client.post("/detect/batch", content=b"{}", headers={"content-type": "application/json"}),
        client.post("/detect/batch", content=b"no form", headers=form),
        client.post("/detect/batch", data={"file": "text"}, files={}),
        client.post("/detect/batch", content=b"--x--\r\n", headers=form),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (400, "bad_request"), response.text
        assert "\n" not in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/detect", "/detect/batch"])
def test_a_boundary_of_a_megabyte_is_refused_at_once(client: TestClient, path: str) -> None:
    boundary = "x" * 1_000_000
    body = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'.encode() + png(1)
    started = time.process_time()
    response = client.post(
        path,
        content=body + f"\r\n--{boundary}--\r\n".encode(),
        headers={"content-type": f"multipart/form-data; boundary={boundary}"},
    )
    assert response.status_code in {400, 413}, response.text[:200]
    assert boundary not in response.text
    assert time.process_time() - started < 1


def test_a_truncated_form_gives_its_complete_images_and_an_error(client: TestClient) -> None:
    request = client.build_request("POST", "/detect/batch", files=[("file", (str(n), png(n))) for n in range(3)])
    body = request.read()
    headers = {"content-type": request.headers["content-type"]}
    results = read_lines(client.post("/detect/batch", content=body[: len(body) * 2 // 3 - 200], headers=headers))
    assert [line.get("image_name") for line in results] == ["0", None]
    assert results[-1]["error"]["code"] == "bad_request"


def test_a_batch_that_is_repeated_with_its_key_has_one_row_for_each_image(
    client: TestClient, database_url: str
) -> None:
    def send(*seeds: int) -> list[dict[str, Any]]:
        files = [
            ("file", ("z.zip", make_zip({"1": png(seeds[0]), "bad": b"", "2": png(seeds[1])}))),
            ("file", ("3", png(9))),
        ]
        return read_lines(client.post("/detect/batch", files=files, headers={"Idempotency-Key": "night 1"}))

    first = send(1, 2)
    assert send(1, 2) == first
    changed = send(1, 3)
    assert [changed[0], changed[3]] == [first[0], first[3]]
    assert changed[2]["error"]["code"] == "idempotency_key_conflict"
    assert query(database_url, "SELECT count(*) FROM predictions") == [(3,)]


def test_a_request_beyond_the_size_limit_is_refused(client: TestClient) -> None:
    response = upload(client, [("a", b"\0" * 1_100_000)])
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
