"""Models that change under load: nobody is refused, and every row names the version that scored it."""

import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import colour_models
import httpx2
from programs import Service, query

from astrodetect import images
from astrodetect.inference.engine import Engine, load_model
from faults.clients import Call, LoadClients, picture, upload
from faults.postgres_process import PredictionsDatabase
from faults.service_state import Start, drained

NAME = "swapped"
SURE = (0.02, 0.05, 0.1)  # of versions that score the same image each in its own way
PICTURES = [picture(seed) for seed in range(8)]
CALLERS = 8
SAME = 1e-4  # between a score in the log and the same version's here, at most


def request(caller: int, number: int) -> bytes:
    return upload(f"{(caller + number) % len(PICTURES)}.jpg", PICTURES[(caller + number) % len(PICTURES)])


def scores(folder: Path) -> list[float]:
    """What the version in place says of each picture."""
    engine = Engine(load_model(folder, NAME))
    return [float(engine.run(images.decode(data, engine.manifest.image)[None]).scores[0]) for data in PICTURES]


def test_swapped_under_load_it_refuses_nobody_and_every_row_names_the_version_that_scored_it(
    log: PredictionsDatabase, start: Start, tmp_path: Path, full: bool
) -> None:
    swaps, folder = 20 if full else 4, tmp_path / "models"
    sures = {
        colour_models.publish(folder, NAME, colour_models.TWO_CLASSES, scale=sure).version: (sure, scores(folder))
        for sure in SURE
    }
    versions = list(sures)
    service = start(models_dir=folder, model=NAME)
    placed = [versions[-1]]
    with LoadClients(service.port, request, CALLERS) as crowd:
        for swap in range(swaps):
            if swap % 2:
                placed.append(rolled_back(service))
            else:  # as a training does, from another process
                new = versions[(versions.index(placed[-1]) + 1 + swap // 2 % 2) % len(versions)]
                placed.append(
                    colour_models.publish(folder, NAME, colour_models.TWO_CLASSES, scale=sures[new][0]).version
                )
            service.wait_until(lambda: crowd.calls and said(crowd.calls[-1]) == placed[-1])
            done = time.monotonic()
            service.wait_until(lambda: len(crowd.answers(since=done)) >= CALLERS)  # noqa: B023 - called at once
            assert {answer.said["model_version"] for answer in crowd.answers(since=done)} == {placed[-1]}
    assert all(one != other for one, other in pairwise(placed))
    assert set(placed) == set(versions)
    assert crowd.lost == []
    assert Counter(call.answer.status for call in crowd.calls) == {200: len(crowd.calls)}

    service.wait_until(lambda: drained(service))
    rows = query(log.url, "SELECT request_id::text, image_name, score, model_version FROM predictions")
    answered = {call.answer.said["request_id"]: said(call) for call in crowd.calls}
    assert {request_id: version for request_id, *_, version in rows} == answered
    for _, name, score, version in rows:
        picture_number = int(name.removesuffix(".jpg"))
        near = [one for one, (_, known) in sures.items() if abs(known[picture_number] - score) <= SAME]
        assert near == [version]


def rolled_back(service: Service) -> str:
    answer = httpx2.post(f"{service.url}/models/{NAME}/rollback", timeout=60)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["version"])


def said(call: Call) -> str:
    """The version that answered."""
    return str(call.answer.said["model_version"])
