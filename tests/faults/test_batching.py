"""Images of many clients are scored in batches, which changes no result."""

import random

import pytest

from faults.clients import Response, send_at_once, send_in_turn, sha256, small_image, upload_request
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, read_metric

BAD = {
    "empty": (b"", 422),
    "text": (b"<html>", 415),
    "torn": (small_image(1)[:300], 422),
    "tiny": (small_image(1, 8), 422),
}


def is_of(response: Response, number: int, data: bytes) -> bool:
    """Whether this is the response to this image."""
    return (response.json["image_name"], response.json["image_sha256"]) == (f"{number}.jpg", sha256(data))


def test_batch_composition_does_not_change_scores(log: PredictionsDatabase, start: Start, full: bool) -> None:
    images, client_counts = (1000, (2, 3, 5, 8, 13, 21, 32)) if full else (100, (2, 32))
    image_files = [small_image(seed) for seed in range(images)]
    requests = [upload_request(f"{number}.jpg", data) for number, data in enumerate(image_files)]
    service = start()
    alone = send_in_turn(service.port, requests)
    assert read_metric(service, 'astrodetect_batch_images_bucket{le="1.0"}') == images
    scores = [response.json["score"] for response in alone]
    assert max(scores) - min(scores) > 1e-3  # the scores differ
    for client_count in client_counts:
        order = random.Random(client_count).sample(range(images), images)
        for number, response in zip(
            order, send_in_turn(service.port, [requests[n] for n in order], client_count), strict=True
        ):
            assert response.status == 200
            assert is_of(response, number, image_files[number])
            assert response.json["score"] == pytest.approx(scores[number], abs=1e-5)
    assert read_metric(service, "astrodetect_batch_images_sum") == images * (1 + len(client_counts))
    assert read_metric(service, "astrodetect_batch_images_count") < images * (
        1 + len(client_counts)
    )  # there were batches
    assert len(log.requests()) == images * (1 + len(client_counts))


def test_a_bad_image_in_a_batch_fails_alone(log: PredictionsDatabase, start: Start, full: bool) -> None:
    service, rounds = start(), 100 if full else 3
    image_files = [small_image(seed) for seed in range(32)]
    for number in range(rounds):
        for place, (data, status) in enumerate(BAD.values()):
            bad = (7 * number + place) % 32
            files = [data if number == bad else good for number, good in enumerate(image_files)]
            responses = send_at_once(
                service.port, [upload_request(f"{number}.jpg", file) for number, file in enumerate(files)]
            )
            assert [response.status for response in responses] == [status if n == bad else 200 for n in range(32)]
            assert all(is_of(response, n, files[n]) for n, response in enumerate(responses) if n != bad)
    assert len(log.requests()) == rounds * len(BAD) * 31
