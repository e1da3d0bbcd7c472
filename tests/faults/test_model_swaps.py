"""Models published and rolled back under load: no request fails, and every row names the version that scored it."""

import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import colour_models
import httpx2
from programs import Service, query

from astrodetect import images
from astrodetect.inference.engine import Engine, load_verified
from faults.clients import Call, LoadClients, small_image, upload_request
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, outbox_is_empty

NAME = "swapped"
SCALES = (0.02, 0.05, 0.1)  # of versions, each with its own scores
IMAGES = [small_image(seed) for seed in range(8)]
CLIENTS = 8
TOLERANCE = 1e-4


def request(client: int, number: int) -> bytes:
    return upload_request(f"{(client + number) % len(IMAGES)}.jpg", IMAGES[(client + number) % len(IMAGES)])


def scores(folder: Path) -> list[float]:
    """The scores of the current version."""
    engine = Engine(load_verified(folder, NAME))
    return [float(engine.run(images.decode(data, engine.manifest.image)[None]).scores[0]) for data in IMAGES]


def test_swaps_under_load_fail_no_request_and_rows_name_their_version(
    log: PredictionsDatabase, start: Start, tmp_path: Path, full: bool
) -> None:
    swaps, folder = 20 if full else 4, tmp_path / "models"
    by_version = {
        colour_models.publish(folder, NAME, colour_models.TWO_CLASSES, scale=scale).version: (scale, scores(folder))
        for scale in SCALES
    }
    versions = list(by_version)
    service = start(models_dir=folder, model=NAME)
    published = [versions[-1]]
    with LoadClients(service.port, request, CLIENTS) as clients:
        for swap in range(swaps):
            if swap % 2:
                published.append(roll_back(service))
            else:  # as a training in another process does
                new = versions[(versions.index(published[-1]) + 1 + swap // 2 % 2) % len(versions)]
                published.append(
                    colour_models.publish(folder, NAME, colour_models.TWO_CLASSES, scale=by_version[new][0]).version
                )
            service.wait_until(lambda: clients.calls and version_of(clients.calls[-1]) == published[-1])
            done = time.monotonic()
            service.wait_until(lambda: len(clients.responses(since=done)) >= CLIENTS)  # noqa: B023 - called at once
            assert {response.json["model_version"] for response in clients.responses(since=done)} == {published[-1]}
    assert all(before != after for before, after in pairwise(published))
    assert set(published) == set(versions)
    assert clients.lost == []
    assert Counter(call.response.status for call in clients.calls) == {200: len(clients.calls)}

    service.wait_until(lambda: outbox_is_empty(service))
    rows = query(log.url, "SELECT request_id::text, image_name, score, model_version FROM predictions")
    answered = {call.response.json["request_id"]: version_of(call) for call in clients.calls}
    assert {request_id: version for request_id, *_, version in rows} == answered
    for _, name, score, row_version in rows:
        picture_number = int(name.removesuffix(".jpg"))
        matching = [
            version
            for version, (_, expected) in by_version.items()
            if abs(expected[picture_number] - score) <= TOLERANCE
        ]
        assert matching == [row_version]


def roll_back(service: Service) -> str:
    response = httpx2.post(f"{service.url}/models/{NAME}/rollback", timeout=60)
    assert response.status_code == 200, response.text
    return str(response.json()["version"])


def version_of(call: Call) -> str:
    """The version that scored the image."""
    return str(call.response.json["model_version"])
