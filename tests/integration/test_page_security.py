"""What all pages have in common: what browsers are told, errors for people, and signing in."""

import html
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import colour_models
import pytest
from malicious_server import png
from starlette.routing import BaseRoute, Mount
from starlette.testclient import TestClient

from astrodetect.errors import Overloaded
from astrodetect.service.middleware.security_headers import CONTENT_SECURITY_POLICY, HEADERS
from astrodetect.service.web import static_files
from astrodetect.settings import settings

KEY = "correct horse"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
Start = Callable[..., TestClient]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model."""
    colour_models.publish(tmp_path, "resnet50_model", colour_models.TWO_CLASSES)
    return tmp_path


def test_every_answer_keeps_browsers_to_this_host(start: Start) -> None:
    client = start()
    for path in ("/key", "/predictions", "/nowhere", f"{static_files.PLACE}/page.css", "/health/live", "/models"):
        headers = client.get(path, headers=BROWSER).headers
        assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "frame-ancestors 'none'" in CONTENT_SECURITY_POLICY


def test_a_browser_asks_for_a_file_once_until_it_changes(start: Start) -> None:
    client = start()
    page = client.get("/", headers=BROWSER).text
    assert f'href="{static_files.PLACE}/page.css"' in page
    for name, said in static_files.FILES.items():
        here, elsewhere = client.get(f"{static_files.PLACE}/{name}"), client.get(f"/static/earlier/{name}")
        assert here.content == elsewhere.content == said
        assert here.headers["content-type"].partition(";")[0] in ("text/css", "text/javascript", "image/svg+xml")
        assert here.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert elsewhere.headers["cache-control"] == "no-cache"
    assert client.get(f"{static_files.PLACE}/page.py").status_code == 404


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


def test_a_page_of_an_error_says_what_its_json_says_in_headers_too(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise Overloaded("too much")

    client = start()
    app: Any = client.app
    monkeypatch.setattr(app.state.database, "prediction", refused)
    for method, path, status, header in (
        ("PUT", "/trained", 405, "allow"),
        ("GET", "/predictions/1", 503, "retry-after"),
    ):
        page, program = client.request(method, path, headers=BROWSER), client.request(method, path)
        assert page.status_code == program.status_code == status
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers[header] == program.headers[header]


def test_the_answer_to_a_fault_keeps_browsers_to_this_host_too(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    app: Any = start().app
    monkeypatch.setattr(app.state.database, "prediction", broken)
    client = TestClient(app, raise_server_exceptions=False)
    for headers in (BROWSER, {}):
        answer = client.get("/predictions/1", headers=headers)
        assert answer.status_code == 500
        assert {name: answer.headers.get_list(name) for name in HEADERS} == {name: [HEADERS[name]] for name in HEADERS}
    assert 'route="/predictions/{id}",status="500"} 2.0' in client.get("/metrics").text


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


@pytest.mark.parametrize("key", ["schlüssel", "ключ 100%", 'a;b=c"d'])
def test_a_browser_signs_in_with_whatever_signs_a_key_has(start: Start, key: str) -> None:
    client = start(api_key=key)
    assert client.post("/key", data={"key": f" {key} "}).status_code == 303
    assert client.post("/detect", files={"file": ("m51.png", png())}).status_code == 200
    client.cookies.clear()
    sent = {b"Authorization": b"Bearer " + key.encode()}
    assert client.post("/detect", files={"file": ("m51.png", png())}, headers=sent).status_code == 200


def addresses(routes: Iterable[BaseRoute]) -> set[tuple[str, str]]:
    """Every method and path of the service, of a mounted folder a path within it."""
    found = set()
    for route in routes:
        if inner := getattr(getattr(route, "original_router", None), "routes", None):
            found |= addresses(inner)
        path = re.sub(r"{[^}]+}", "1", getattr(route, "path", "")) + "/x" * isinstance(route, Mount)
        found |= {(method, path) for method in getattr(route, "methods", None) or {"GET"} if path}
    return found


def test_a_private_service_shows_nothing_without_a_key(start: Start) -> None:
    client = start(api_key=KEY, private=True)
    app: Any = client.app
    asked = addresses(app.routes)
    paths = {path for _, path in asked}
    assert paths >= {"/", "/docs", "/openapi.json", "/live/events", "/metrics", "/models", "/predictions", "/swagger/x"}
    for method, path in asked | {("GET", "/nowhere"), ("GET", "//key"), ("GET", "/keys"), ("HEAD", "/static")}:
        program = client.request(method, path)
        person = client.request(method, path, headers=BROWSER)
        if path == "/key" or path.startswith(("/static/", "/health/")):
            assert "www-authenticate" not in program.headers
            assert "location" not in person.headers
        else:
            assert (program.status_code, person.status_code) == (401, 303), (method, path)
            assert program.headers["www-authenticate"] == "Bearer"
            assert method == "HEAD" or program.json()["error"]["code"] == "key_refused"
            assert program.headers.get("connection") != "close"  # nothing is left unread
            assert person.headers["location"].startswith("/key")
    bearer = {"Authorization": f"Bearer {KEY}"}
    assert client.get("/predictions", headers=bearer).status_code == 200
    document = client.get("/openapi.json", headers=bearer).json()["paths"]
    for path, at in document.items():
        for operation in at.values():
            assert ("security" in operation) == ("401" in operation["responses"]) == (not path.startswith("/health"))


def test_signing_in_leads_back_to_where_one_was_going(start: Start) -> None:
    client = start(api_key=KEY, private=True)
    where = "/history?result=Anomaly+Detected&name=%C3%A9"
    asked = client.get(where, headers=BROWSER)
    form = client.get(asked.headers["location"], headers=BROWSER).text
    for key, status in (("another one", 401), (KEY, 303)):
        [to] = re.findall(r'name="to" value="([^"]+)"', form)
        answer = client.post("/key", data={"key": key, "to": html.unescape(to)})
        assert answer.status_code == status
        form = answer.text or form
    assert answer.headers["location"] == where
    assert "samesite=lax" in answer.headers["set-cookie"].lower()
    assert client.get(where, headers=BROWSER).status_code == 200


@pytest.mark.parametrize(
    "to",
    ["//elsewhere.example", "/\\elsewhere.example", "https://elsewhere.example", "/\t/elsewhere.example", "history", "",
     "/" + "x" * 1000],
)  # fmt: skip
def test_signing_in_leads_nowhere_else(start: Start, to: str) -> None:
    client = start(api_key=KEY)
    assert 'name="to" value="/"' in client.get("/key", params={"to": to}).text
    answer = client.post("/key", data={"key": KEY, "to": to})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


@pytest.mark.parametrize("keys", [None, "", " , "])
def test_a_private_service_needs_a_key_to_ask_for(monkeypatch: pytest.MonkeyPatch, keys: str | None) -> None:
    monkeypatch.setenv("ASTRODETECT_PRIVATE", "true")
    if keys is not None:
        monkeypatch.setenv("ASTRODETECT_API_KEY", keys)
    with pytest.raises(SystemExit, match=r"^a setting cannot be used: ASTRODETECT_PRIVATE: .*ASTRODETECT_API_KEY$"):
        settings()
