"""Images of many callers share passes of the network, and no answer shows it."""

import random

import pytest

from faults.clients import Answer, in_turn, picture, sha256, together, upload
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, metric

BAD = {"empty": (b"", 422), "text": (b"<html>", 415), "torn": (picture(1)[:300], 422), "tiny": (picture(1, 8), 422)}


def is_of(answer: Answer, number: int, data: bytes) -> bool:
    """Whether it is the answer to this very image."""
    return (answer.said["image_name"], answer.said["image_sha256"]) == (f"{number}.jpg", sha256(data))


def test_an_image_has_the_same_score_alone_and_in_any_company(
    log: PredictionsDatabase, start: Start, full: bool
) -> None:
    images, crowds = (1000, (2, 3, 5, 8, 13, 21, 32)) if full else (150, (2, 7, 32))
    pictures = [picture(seed) for seed in range(images)]
    requests = [upload(f"{number}.jpg", data) for number, data in enumerate(pictures)]
    service = start()
    alone = in_turn(service.port, requests)
    assert metric(service, 'astrodetect_batch_images_bucket{le="1.0"}') == images
    scores = [answer.said["score"] for answer in alone]
    assert max(scores) - min(scores) > 1e-3  # they can be told apart
    for callers in crowds:
        order = random.Random(callers).sample(range(images), images)
        for number, answer in zip(order, in_turn(service.port, [requests[n] for n in order], callers), strict=True):
            assert answer.status == 200
            assert is_of(answer, number, pictures[number])
            assert answer.said["score"] == pytest.approx(scores[number], abs=1e-5)
    assert metric(service, "astrodetect_batch_images_sum") == images * (1 + len(crowds))
    assert metric(service, "astrodetect_batch_images_count") < images * (1 + len(crowds))  # they did share passes
    assert len(log.requests()) == images * (1 + len(crowds))


def test_a_bad_image_among_good_ones_fails_alone(log: PredictionsDatabase, start: Start, full: bool) -> None:
    service, rounds = start(), 100 if full else 3
    pictures = [picture(seed) for seed in range(32)]
    for number in range(rounds):
        for place, (data, status) in enumerate(BAD.values()):
            bad = (7 * number + place) % 32
            files = [data if number == bad else good for number, good in enumerate(pictures)]
            answers = together(service.port, [upload(f"{number}.jpg", file) for number, file in enumerate(files)])
            assert [answer.status for answer in answers] == [status if n == bad else 200 for n in range(32)]
            assert all(is_of(answer, n, files[n]) for n, answer in enumerate(answers) if n != bad)
    assert len(log.requests()) == rounds * len(BAD) * 31
