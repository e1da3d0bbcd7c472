"""Whatever bytes come: 2xx or 4xx, and the service goes on."""

import itertools
import random
from collections.abc import Iterator

from faults.clients import BOUNDARY, END, FORM, part, picture, post, together, upload
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, asked

KINDS = ("JPEG", "PNG", "WEBP")
AT_ONCE = 16


def mutated(data: bytes, dice: random.Random, other: bytes) -> bytes:
    """Flipped, cut, doubled, spliced; or several of these."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at, to = sorted(dice.randrange(len(changed) + 1) for _ in range(2))
        match dice.randrange(6):
            case 0:
                for _ in range(dice.randint(1, 10)):
                    changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
            case 1:
                del changed[to:]
            case 2:
                del changed[at:to]
            case 3:
                changed[at:at] = changed[at:to]
            case 4:
                changed[at:to] = dice.randbytes(min(to - at, 64))
            case _:
                changed[at:] = other[dice.randrange(len(other)) :]
        changed = changed or bytearray(b"\0")
    return bytes(changed)


def forms(dice: random.Random, data: bytes) -> Iterator[bytes]:
    """Multipart that is none, without end; each is a whole request all the same, every fourth for many images."""
    whole = part("a.jpg", data) + END
    for path in itertools.cycle(["/detect", "/detect", "/detect", "/detect/batch"]):
        body = dice.choice(
            [
                mutated(whole, dice, data),
                mutated(whole[: whole.index(b"\r\n\r\n")], dice, whole) + whole,
                part(dice.randbytes(20).decode("latin-1"), data) + END,
                part("a" * dice.randrange(100_000), data) + END,
                part("a.jpg", data) * dice.randrange(40),
                whole.replace(b"\r\n", b"\n"),
                whole.replace(b'name="file"', dice.choice([b"", b'name="', b'name="f"', b"name*=utf-8''file"])),
                b"--" + BOUNDARY.encode() * 1000,
                b"\r\n" * dice.randrange(1000),
                dice.randbytes(dice.randrange(2000)),
            ]
        )
        kind = dice.choice(
            [FORM, FORM, FORM, FORM[:-3], f"{FORM}; charset=x", "multipart/form-data", "text/plain", "x"]
        )
        yield post(path, body, {"Content-Type": kind})


def test_mutated_images_and_broken_forms_are_answered_with_2xx_or_4xx(
    log: PredictionsDatabase, start: Start, full: bool
) -> None:
    count, dice = 20_000 if full else 400, random.Random(5)
    service = start()
    originals = [picture(seed, kind=kind) for seed in range(5) for kind in KINDS]
    broken = forms(dice, originals[0])
    statuses: set[int] = set()
    for _ in range(count // AT_ONCE):
        requests = [
            upload("a", mutated(dice.choice(originals), dice, dice.choice(originals))) for _ in range(AT_ONCE - 4)
        ]
        requests += [next(broken) for _ in range(4)]
        for request, answer in zip(requests, together(service.port, requests), strict=True):
            assert answer.status // 100 in (2, 4), (request, answer)
            statuses.add(answer.status)
    assert {200, 400, 415, 422} <= statuses
    assert asked(service, upload("a.jpg", originals[0])).status == 200
    assert service.process.poll() is None
    assert "Traceback" not in service.output
