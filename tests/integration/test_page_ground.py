"""What all pages have in common: what browsers are told, errors for people, and signing in."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import colours
import pytest
from hostile import png
from starlette.testclient import TestClient

from astrodetect.service.page.guarded import CONTENT_SECURITY_POLICY
from astrodetect.settings import Settings
from main import create_app

KEY = "correct horse"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class Start(Protocol):
    def __call__(self, **chosen: str) -> TestClient: ...


@pytest.fixture
def start(database_url: str, tmp_path: Path) -> Iterator[Start]:
    colours.publish(tmp_path, "resnet50_model", colours.TWO)
    with ExitStack() as stack:

        def started(**chosen: str) -> TestClient:
            fields = {"database_url": database_url, "models_dir": tmp_path, "data_dir": tmp_path / "data", **chosen}
            app = create_app(Settings.model_validate(fields))
            return stack.enter_context(TestClient(app, follow_redirects=False))

        yield started


def test_every_answer_keeps_browsers_to_this_host(start: Start) -> None:
    client = start()
    for path in ("/key", "/predictions", "/nowhere", "/static/page.css", "/health/live", "/models"):
        headers = client.get(path, headers=BROWSER).headers
        assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "frame-ancestors 'none'" in CONTENT_SECURITY_POLICY


def test_people_get_errors_as_a_page_and_programs_as_json(start: Start) -> None:
    client = start()
    for path, status, words in (
        ("/nowhere", 404, "There is nothing here"),
        ("/predictions/999999", 404, "there is no prediction 999999"),
        ("/predictions?min_score=7", 422, "min_score"),
    ):
        page, program = client.get(path, headers=BROWSER), client.get(path)
        assert page.status_code == program.status_code == status
        assert words in page.text
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert program.json()["error"]["message"]


def test_what_was_asked_for_is_text_on_the_page_of_its_error(start: Start) -> None:
    page = start().get("/predictions?min_score=%3Cscript%3Ealert(1)%3C/script%3E", headers=BROWSER)
    assert page.status_code == 422
    assert "<script>alert" not in page.text


def test_no_page_has_scripts_or_styles_within_it(start: Start) -> None:
    page = start(api_key=KEY).get("/key").text
    assert re.findall(r"<script(?![^>]* src=)", page) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=", page) == []
    assert re.findall(r"""(?:src|href|action)="(?!/|#)""", page) == []


def test_a_browser_sends_with_the_key_that_it_was_given_once(start: Start) -> None:
    client = start(api_key=KEY)
    sent = {"file": ("m51.png", png())}
    assert client.post("/detect", files=sent).status_code == 401
    asked = client.post("/detect", files=sent, headers=BROWSER)
    assert (asked.status_code, asked.headers["location"]) == (303, "/key")

    wrong = client.post("/key", data={"key": "another one"})
    assert wrong.status_code == 401
    assert "not known here" in wrong.text
    assert not client.cookies

    answer = client.post("/key", data={"key": KEY})
    assert answer.status_code == 303
    said = answer.headers["set-cookie"].lower()
    assert "httponly" in said
    assert "samesite=strict" in said
    assert client.post("/detect", files=sent).status_code == 200
    assert KEY not in client.get("/key").text


def test_what_is_sent_as_a_key_is_small(start: Start) -> None:
    client = start(api_key=KEY)
    assert client.post("/key", content=b"key=" + b"x" * 5000).status_code == 413


def test_a_page_from_elsewhere_sends_nothing_even_where_the_browser_only_says_where_from(start: Start) -> None:
    client = start()
    sent = {"file": ("m51.png", png())}
    for origin, status in (
        ("http://testserver", 200),
        ("http://testserver:8000", 403),
        ("https://elsewhere.example", 403),
        ("null", 403),
    ):
        answer = client.post("/detect", files=sent, headers={"Origin": origin})
        assert answer.status_code == status, origin
    trusted = {"Origin": "https://public.example", "Sec-Fetch-Site": "same-origin"}  # a proxy calls us otherwise
    assert client.post("/detect", files=sent, headers=trusted).status_code == 200


def test_a_service_without_keys_says_so(start: Start) -> None:
    client = start()
    assert "asks for no key" in client.get("/key").text
    assert client.post("/key", data={"key": "x"}).status_code == 401
