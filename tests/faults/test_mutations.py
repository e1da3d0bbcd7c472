"""Fuzzing: whatever bytes are sent, the status is 2xx or 4xx, and the service keeps running."""

import itertools
import random
from collections.abc import Iterator

from faults.clients import BOUNDARY, END, FORM, form_part, post_request, send_at_once, small_image, upload_request
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, send

KINDS = ("JPEG", "PNG", "WEBP")
REQUESTS_AT_ONCE = 16


def mutate(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """The data with bits flipped, parts cut, doubled or spliced."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, to = sorted(rng.randrange(len(changed) + 1) for _ in range(2))
        match rng.randrange(6):
            case 0:
                for _ in range(rng.randint(1, 10)):
                    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            case 1:
                del changed[to:]
            case 2:
                del changed[at:to]
            case 3:
                changed[at:at] = changed[at:to]
            case 4:
                changed[at:to] = rng.randbytes(min(to - at, 64))
            case _:
                changed[at:] = other[rng.randrange(len(other)) :]
        changed = changed or bytearray(b"\0")
    return bytes(changed)


def broken_forms(rng: random.Random, data: bytes) -> Iterator[bytes]:
    """An endless series of broken multipart requests, every fourth to /detect/batch."""
    whole = form_part("a.jpg", data) + END
    for path in itertools.cycle(["/detect", "/detect", "/detect", "/detect/batch"]):
        body = rng.choice(
            [
                mutate(whole, rng, data),
                mutate(whole[: whole.index(b"\r\n\r\n")], rng, whole) + whole,
                form_part(rng.randbytes(20).decode("latin-1"), data) + END,
                form_part("a" * rng.randrange(100_000), data) + END,
                form_part("a.jpg", data) * rng.randrange(40),
                whole.replace(b"\r\n", b"\n"),
                whole.replace(b'name="file"', rng.choice([b"", b'name="', b'name="f"', b"name*=utf-8''file"])),
                b"--" + BOUNDARY.encode() * 1000,
                b"\r\n" * rng.randrange(1000),
                rng.randbytes(rng.randrange(2000)),
            ]
        )
        kind = rng.choice([FORM, FORM, FORM, FORM[:-3], f"{FORM}; charset=x", "multipart/form-data", "text/plain", "x"])
        yield post_request(path, body, {"Content-Type": kind})


def test_mutated_images_and_broken_forms_are_answered_with_2xx_or_4xx(
    log: PredictionsDatabase, start: Start, full: bool
) -> None:
    count, rng = 20_000 if full else 400, random.Random(5)
    service = start()
    originals = [small_image(seed, kind=kind) for seed in range(5) for kind in KINDS]
    broken = broken_forms(rng, originals[0])
    statuses: set[int] = set()
    for _ in range(count // REQUESTS_AT_ONCE):
        requests = [
            upload_request("a", mutate(rng.choice(originals), rng, rng.choice(originals)))
            for _ in range(REQUESTS_AT_ONCE - 4)
        ]
        requests += [next(broken) for _ in range(4)]
        for request, response in zip(requests, send_at_once(service.port, requests), strict=True):
            assert response.status // 100 in (2, 4), (request, response)
            statuses.add(response.status)
    assert {200, 400, 415, 422} <= statuses
    assert send(service, upload_request("a.jpg", originals[0])).status == 200
    assert service.process.poll() is None
    assert "Traceback" not in service.output
