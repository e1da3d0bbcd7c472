"""Several service processes on one database: leases, maps, the review queue and the state of background work."""

import datetime as dt
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import colour_models
import numpy as np
import pytest
from programs import query
from starlette.testclient import TestClient

from astrodetect import images
from astrodetect.db import shared_state
from astrodetect.db.shared_state import Lease
from astrodetect.records import ScoredImage
from astrodetect.service import job_lease
from astrodetect.service.job_lease import JobLease
from astrodetect.service.projection_store import StoredProjection
from database import Database

REVIEWERS, IMAGES = 6, 8
EXPIRE = "UPDATE leases SET until = now() - interval '1 second'"


def test_a_lease_has_one_holder_until_it_ends_or_expires_by_the_clock_of_the_database(
    log: Database, database_url: str
) -> None:
    leases = log.leases
    assert leases.take("map", "a", seconds=60, state={"share": 0.5})
    assert not leases.take("map", "b", seconds=60)
    assert leases.take("map", "a", seconds=60, state={"share": 0.75})  # renewed
    assert leases.read("map") == Lease(running=True, state={"share": 0.75})
    leases.end("map", "b")  # not the holder
    assert not leases.take("map", "b", seconds=60)
    leases.end("map", "a", seconds=60, state={"error": "oh"})
    assert leases.read("map") == Lease(running=False, state={"error": "oh"})
    assert leases.take("map", "b", seconds=60)
    query(database_url, EXPIRE)
    assert leases.read("map") is None
    assert leases.take("map", "a", seconds=60)
    leases.end("map", "b", seconds=60)  # it was taken over
    assert leases.read("map") == Lease(running=True, state={})
    assert leases.held_by_others(["map"], "b") == {"map"}
    query(database_url, "UPDATE leases SET until = until + interval '400 days'")  # the clock has been set back since
    assert leases.read("map") is None
    assert leases.held_by_others(["map"], "b") == frozenset()
    assert leases.take("map", "b", seconds=60)


def test_many_at_once_get_one_lease(new_database: Callable[[], str]) -> None:
    database = Database(new_database(), connections=8, timeout_s=10)
    with ThreadPoolExecutor(8) as threads:
        for number in range(20):
            taken = threads.map(
                lambda holder, name=f"work {number}": database.leases.take(name, str(holder), seconds=60), range(8)
            )
            assert sum(taken) == 1
    database.close()


def test_the_lease_of_a_job_is_renewed_until_its_release_and_that_of_a_killed_process_expires(
    log: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_lease, "RENEW_S", 0.05)
    job, other = JobLease(log.leases, "map"), JobLease(log.leases, "map")
    assert job.acquire({"share": 0.0})
    query(database_url, EXPIRE)
    job.report({"share": 0.5})
    deadline = time.monotonic() + 20
    while log.leases.read("map") != Lease(running=True, state={"share": 0.5}):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not other.acquire({})
    job._released.set()  # as if the process were killed: nobody renews
    query(database_url, EXPIRE)
    assert other.acquire({"share": 0.25})
    job.release({"error": "late"}, shown_s=60)
    assert log.leases.read("map") == Lease(running=True, state={"share": 0.25})
    other.release()
    assert log.leases.read("map") is None


def test_maps_of_few_spaces_are_kept(log: Database) -> None:
    now = dt.datetime.now(dt.UTC)
    for number in range(shared_state.MAX_MAPS + 3):
        drawn = now + dt.timedelta(seconds=number)
        log.maps.save(f"{number:012}", b"preliminary", drawn, preliminary=True)
        log.maps.save(f"{number:012}", b"final", drawn, preliminary=False)
    spaces = [f"{number:012}" for number in range(shared_state.MAX_MAPS + 3)]
    kept = [space for space in spaces if log.maps.read(space, preliminary=False)]
    assert kept == spaces[3:]
    assert log.maps.drawn(spaces[-1], preliminary=False) == drawn
    log.maps.delete_preliminary(spaces[-1])
    assert log.maps.read(spaces[-1], preliminary=True) is None
    assert log.maps.read(spaces[-1], preliminary=False) == b"final"


@pytest.mark.parametrize("by", ["novelty", "interest"])
def test_reviewers_on_two_services_never_get_the_same_image(
    start: Callable[..., TestClient], log: Database, tmp_path: Path, by: str
) -> None:
    services = [start(data_dir=tmp_path / "data 0"), start(data_dir=tmp_path / "data 1")]
    space = services[0].app.state.services.models.space  # type: ignore[attr-defined]
    log.record_many([scored(number, space) for number in range(IMAGES)])
    browsers = [TestClient(services[number % 2].app) for number in range(REVIEWERS)]
    for browser in browsers:
        browser.get("/review")  # the first page has no lease: it sets the cookie
    begin = threading.Barrier(REVIEWERS)

    def review(browser: TestClient) -> str:
        begin.wait()
        return browser.get(f"/review?by={by}").text

    with ThreadPoolExecutor(REVIEWERS) as threads:
        shown = [candidate_id(page) for page in threads.map(review, browsers)]
    assert len(set(shown)) == REVIEWERS
    for browser, id_ in zip(browsers, shown, strict=True):
        assert candidate_id(browser.get(f"/review?by={by}").text) == id_  # it stays theirs
    first, last = browsers[0], browsers[-1]
    assert first.post("/review/turn", data={"id": shown[-1]}).headers["hx-refresh"] == "true"
    first.post("/review/label", data={"id": shown[0], "label": "interesting", "by": by})
    assert "1 interesting of 1 labelled" in last.get(f"/review?by={by}").text
    free = IMAGES - REVIEWERS
    for _ in range(free):
        page = first.get(f"/review?by={by}").text
        first.post("/review/skip", data={"id": candidate_id(page), "by": by})
    assert "Other reviewers have the remaining images" in first.get(f"/review?by={by}").text


def test_every_service_shows_the_map_that_one_has_drawn(start: Callable[..., TestClient], log: Database) -> None:
    drawing, other = start(), start()
    space = drawing.app.state.services.models.space  # type: ignore[attr-defined]
    log.record_many([scored(number, space) for number in range(IMAGES)])
    stored = StoredProjection.from_pca(log.embedded_images(space, newest=100))
    drawing.app.state.services.projections._save(space, stored, final=True)  # type: ignore[attr-defined]
    assert other.get("/map/points").content == drawing.get("/map/points").content != b""
    assert f"{IMAGES} images by" in other.get("/map", headers={"Accept": "text/html"}).text


def test_every_service_shows_an_adaptation_and_only_one_runs(
    start: Callable[..., TestClient], log: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, other = start(), start()
    may_end = threading.Event()
    adaptation = asked.app.state.services.adaptation  # type: ignore[attr-defined]
    adapt = adaptation._adapt

    def wait_and_adapt(*arguments: Any) -> Any:
        assert may_end.wait(60)
        return adapt(*arguments)

    monkeypatch.setattr(adaptation, "_adapt", wait_and_adapt)
    assert asked.post("/history/ordinary").status_code == 303
    try:
        assert "Detectors are being fitted" in other.get("/domain").text
        assert other.post("/history/ordinary").json()["error"]["code"] == "overloaded"
    finally:
        may_end.set()
    adaptation.close()
    assert "was not adapted: only 0 of these 0 images" in other.get("/domain").text


def test_a_service_waits_for_the_thumbnail_that_another_one_is_about_to_store(
    start: Callable[..., TestClient], tmp_path: Path
) -> None:
    scoring, other = start(), start(data_dir=tmp_path / "other")
    files = {"file": ("sky.png", images.encode_png(colour_models.image("lawn")))}
    row = scoring.post("/detect", files=files).json()
    assert other.get(f"/pictures/{row['image_sha256']}").status_code == 200  # a quarter of a second before its commit
    assert other.get(f"/pictures/{'0' * 64}").status_code == 404


def scored(number: int, space: str) -> ScoredImage:
    pixels = colour_models.image("nebula", number)
    return ScoredImage(
        f"{number}.png",
        uuid.uuid5(uuid.NAMESPACE_URL, images.encode_png(pixels).hex()).hex * 2,
        0.2,
        0.5,
        "resnet50_model",
        "1",
        label="nebula",
        novelty=number / IMAGES,
        vector=tuple(np.random.default_rng(number).normal(size=5).tolist()),
        space=space,
    )


def candidate_id(page: str) -> str:
    """The prediction whose image is to be labelled."""
    return page.partition('name="id" value="')[2].partition('"')[0]
