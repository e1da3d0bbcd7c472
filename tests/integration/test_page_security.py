"""Shared by all pages: security headers, static files, error pages and sign-in."""

import html
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from malicious_server import png
from programs import query
from pydantic import ValidationError
from starlette.routing import BaseRoute
from starlette.testclient import TestClient

from astrodetect.errors import Overloaded
from astrodetect.service import key_guesses
from astrodetect.service.middleware.security import CONTENT_SECURITY_POLICY, SAMP_HUB, SECURITY_HEADERS
from astrodetect.service.served_hosts import ServedHosts
from astrodetect.service.web import rendering, sky_view
from astrodetect.settings import settings

KEY = "correct horse"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
Start = Callable[..., TestClient]


def test_every_response_has_the_security_headers(start: Start) -> None:
    client = start()
    for path in ("/key", "/predictions", "/nowhere", f"{rendering.STATIC_URL}/page.css", "/health/live", "/models"):
        headers = client.get(path, headers=BROWSER).headers
        assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "frame-ancestors 'none'" in CONTENT_SECURITY_POLICY


def test_static_files_are_cached_by_their_hash(start: Start) -> None:
    client = start()
    page = client.get("/", headers=BROWSER).text
    assert f'href="{rendering.STATIC_URL}/page.css"' in page
    for name, content in rendering.STATIC_FILES.items():
        current, outdated = client.get(f"{rendering.STATIC_URL}/{name}"), client.get(f"/static/earlier/{name}")
        assert current.content == outdated.content == content
        assert current.headers["content-type"].partition(";")[0] in ("text/css", "text/javascript", "image/svg+xml")
        assert current.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert outdated.headers["cache-control"] == "no-cache"
    assert client.get(f"{rendering.STATIC_URL}/page.py").status_code == 404


def test_errors_are_html_for_browsers_and_json_for_programs(start: Start) -> None:
    client = start()
    for path, status, words in (
        ("/nowhere", 404, "Not found"),
        ("/predictions/999999", 404, "there is no prediction 999999"),
        ("/predictions?min_score=7", 422, "min_score"),
    ):
        page, program = client.get(path, headers=BROWSER), client.get(path)
        assert page.status_code == program.status_code == status
        assert words in page.text
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert program.json()["error"]["message"]


def test_error_pages_have_the_headers_of_the_json_errors(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise Overloaded("too much")

    client = start()
    app: Any = client.app
    monkeypatch.setattr(app.state.services.database, "prediction", refuse)
    for method, path, status, header in (
        ("PUT", "/models-page", 405, "allow"),
        ("GET", "/predictions/1", 503, "retry-after"),
    ):
        page, program = client.request(method, path, headers=BROWSER), client.request(method, path)
        assert page.status_code == program.status_code == status
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers[header] == program.headers[header]


def test_responses_to_internal_errors_have_the_security_headers(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    app: Any = start().app
    monkeypatch.setattr(app.state.services.database, "prediction", fail)
    client = TestClient(app, raise_server_exceptions=False)
    for headers in (BROWSER, {}):
        response = client.get("/predictions/1", headers=headers)
        assert response.status_code == 500
        assert {name: response.headers.get_list(name) for name in SECURITY_HEADERS} == {
            name: [SECURITY_HEADERS[name]] for name in SECURITY_HEADERS
        }
    assert 'route="/predictions/{id}",status="500"} 2.0' in client.get("/metrics").text


def test_error_pages_escape_the_query_string(start: Start) -> None:
    page = start().get("/predictions?min_score=%3Cscript%3Ealert(1)%3C/script%3E", headers=BROWSER)
    assert page.status_code == 422
    assert "<script>alert" not in page.text


def test_the_sign_in_page_has_no_inline_scripts_or_styles(start: Start) -> None:
    page = start(api_key=KEY).get("/key").text
    assert re.findall(r"<script(?![^>]* src=)", page) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=", page) == []
    assert re.findall(r"""(?:src|href|action)="(?!/|#)""", page) == []


def test_a_browser_stays_signed_in_by_its_cookie(start: Start) -> None:
    client = start(api_key=KEY)
    upload = {"file": ("m51.png", png())}
    assert client.post("/detect", files=upload).status_code == 401
    refused = client.post("/detect", files=upload, headers=BROWSER)
    assert (refused.status_code, refused.headers["location"]) == (303, "/key")

    wrong = client.post("/key", data={"key": "another one"})
    assert wrong.status_code == 401
    assert "not valid here" in wrong.text
    assert not client.cookies

    response = client.post("/key", data={"key": KEY})
    assert response.status_code == 303
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.post("/detect", files=upload).status_code == 200
    assert KEY not in client.get("/key").text


def test_the_body_of_a_sign_in_is_limited(start: Start) -> None:
    client = start(api_key=KEY)
    assert client.post("/key", content=b"key=" + b"x" * 5000).status_code == 413


def test_cross_site_requests_are_refused_by_their_origin_header(start: Start) -> None:
    client = start()
    upload = {"file": ("m51.png", png())}
    for origin, status in (
        ("http://testserver", 200),
        ("http://testserver:8000", 403),
        ("https://elsewhere.example", 403),
        ("null", 403),
    ):
        response = client.post("/detect", files=upload, headers={"Origin": origin})
        assert response.status_code == status, origin
    trusted = {"Origin": "https://public.example", "Sec-Fetch-Site": "same-origin"}  # behind a proxy under another name
    assert client.post("/detect", files=upload, headers=trusted).status_code == 200


def test_the_sign_in_page_says_when_there_are_no_keys(start: Start) -> None:
    client = start()
    assert "has no keys" in client.get("/key").text
    assert client.post("/key", data={"key": "x"}).status_code == 401


@pytest.mark.parametrize("key", ["schlüssel", "ключ 100%", 'a;b=c"d'])
def test_a_key_may_contain_any_characters(start: Start, key: str) -> None:
    client = start(api_key=key)
    assert client.post("/key", data={"key": f" {key} "}).status_code == 303
    assert client.post("/detect", files={"file": ("m51.png", png())}).status_code == 200
    client.cookies.clear()
    headers = {b"Authorization": b"Bearer " + key.encode()}
    assert client.post("/detect", files={"file": ("m51.png", png())}, headers=headers).status_code == 200


def routes_of(routes: Iterable[BaseRoute]) -> set[tuple[str, str]]:
    """Every method and path of the service."""
    routes_found = set()
    for route in routes:
        if inner := getattr(getattr(route, "original_router", None), "routes", None):
            routes_found |= routes_of(inner)
        path = re.sub(r"{[^}]+}", "1", getattr(route, "path", ""))
        routes_found |= {(method, path) for method in getattr(route, "methods", None) or {"GET"} if path}
    return routes_found


def test_head_of_every_route_has_the_status_and_headers_of_its_get(start: Start) -> None:
    client = start()
    app: Any = client.app
    paths = {path for method, path in routes_of(app.routes) if method == "GET"}
    assert paths >= {"/", "/history", "/live/events", "/labels.csv", "/swagger/1"}
    for path in {*paths, "/nowhere", "/predictions.csv", "/static/1/page.css"} - {"/live/events"}:
        head, whole = (client.request(method, path, follow_redirects=False) for method in ("HEAD", "GET"))
        assert (head.status_code, head.headers.keys(), head.content) == (whole.status_code, whole.headers.keys(), b"")
        assert head.headers.get("content-type") == whole.headers.get("content-type")
    assert client.head("/live/events").headers["content-type"].startswith("text/event-stream")  # and it ends
    assert 'route="/live/events",status="200"' in client.get("/metrics").text


def test_a_private_service_refuses_every_route_without_a_key(start: Start) -> None:
    client = start(api_key=KEY, private=True)
    app: Any = client.app
    routes = routes_of(app.routes)
    paths = {path for _, path in routes}
    assert paths >= {"/", "/docs", "/openapi.json", "/live/events", "/metrics", "/models", "/predictions", "/swagger/1"}
    for method, path in routes | {("GET", "/nowhere"), ("GET", "//key"), ("GET", "/keys"), ("HEAD", "/static")}:
        program = client.request(method, path)
        person = client.request(method, path, headers=BROWSER)
        if path in {"/key", "/key/out"} or path.startswith(("/static/", "/health/")):
            assert "www-authenticate" not in program.headers
            assert "?to=" not in person.headers.get("location", "")
        else:
            assert (program.status_code, person.status_code) == (401, 303), (method, path)
            assert program.headers["www-authenticate"] == "Bearer"
            assert method == "HEAD" or program.json()["error"]["code"] == "key_refused"
            assert program.headers.get("connection") != "close"  # no body is left unread
            assert person.headers["location"].startswith("/key")
    bearer = {"Authorization": f"Bearer {KEY}"}
    assert client.get("/predictions", headers=bearer).status_code == 200
    document = client.get("/openapi.json", headers=bearer).json()["paths"]
    for path, at in document.items():
        for operation in at.values():
            assert ("security" in operation) == ("401" in operation["responses"]) == (not path.startswith("/health"))


def test_under_a_path_of_a_proxy_keys_limits_and_the_audit_log_hold(start: Start, database_url: str) -> None:
    client = TestClient(start(api_key=KEY).app, root_path="/sky")
    keyed = {"Authorization": f"Bearer {KEY}"}
    assert client.get("/sky/audit").status_code == client.get("/sky/sky/audit").status_code == 401
    file = {"file": ("a.png", bytes(200_000))}
    assert client.post("/sky/detect", files=file, headers=keyed).json()["error"]["code"] == "image_unsupported"
    assert client.post("/sky/key", data={"key": KEY}, follow_redirects=False).status_code == 303
    assert client.get("/sky/audit", headers=keyed).status_code == 200
    assert client.post("/sky/predictions/1/tag", json={"tag": "ring"}, headers=keyed).status_code == 404
    assert query(database_url, "SELECT count(*) FROM audit_log WHERE request LIKE 'POST /predictions/1/tag%%'") == [
        (1,)
    ]
    for name in range(2):
        client.post("/sky/detect", files={"file": png(name)}, headers=keyed)
    following = client.get("/sky/predictions?limit=1").json()["next"]
    assert following.startswith("/sky/predictions?")
    assert client.get(following).status_code == 200
    for path in ("/sky/predictions/", "/sky/sky/predictions/"):
        redirect = client.get(path, follow_redirects=False)
        assert redirect.headers["location"] == "http://testserver/sky/predictions"
    page = client.get("/sky/docs", headers=keyed).text
    assert "'/sky/openapi.json'" in page
    files = re.findall(r'"([^"]*/swagger/[^"]*)"', page)
    assert len(files) == 3
    assert all(file.startswith("/sky/") and client.get(file, headers=keyed).status_code == 200 for file in files)


def test_signing_in_redirects_to_the_requested_page(start: Start) -> None:
    client = start(api_key=KEY, private=True)
    url = "/history?result=Anomaly+Detected&name=%C3%A9"
    refused = client.get(url, headers=BROWSER)
    form = client.get(refused.headers["location"], headers=BROWSER).text
    for key, status in (("another one", 401), (KEY, 303)):
        [to] = re.findall(r'name="to" value="([^"]+)"', form)
        response = client.post("/key", data={"key": key, "to": html.unescape(to)})
        assert response.status_code == status
        form = response.text or form
    assert response.headers["location"] == url
    assert "samesite=lax" in response.headers["set-cookie"].lower()
    assert client.get(url, headers=BROWSER).status_code == 200


@pytest.mark.parametrize(
    "to",
    ["//elsewhere.example", "/\\elsewhere.example", "https://elsewhere.example", "/\t/elsewhere.example", "history", "",
     "/" + "x" * 1000],
)  # fmt: skip
def test_signing_in_redirects_only_within_the_service(start: Start, to: str) -> None:
    client = start(api_key=KEY)
    assert 'name="to" value="/"' in client.get("/key", params={"to": to}).text
    response = client.post("/key", data={"key": KEY, "to": to})
    assert (response.status_code, response.headers["location"]) == (303, "/")


@pytest.mark.parametrize("keys", [None, ""])
def test_a_private_service_needs_a_key_in_its_settings(monkeypatch: pytest.MonkeyPatch, keys: str | None) -> None:
    monkeypatch.setenv("ASTRODETECT_PRIVATE", "true")
    if keys is not None:
        monkeypatch.setenv("ASTRODETECT_API_KEY", keys)
    with pytest.raises(SystemExit, match=r"^invalid setting: ASTRODETECT_PRIVATE: .*ASTRODETECT_API_KEY$"):
        settings()


def test_guessing_keys_is_slowed_for_each_address_but_no_known_client(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = start(api_key=f"{KEY}, another key")
    right = {"Authorization": f"Bearer {KEY}"}
    assert client.delete("/labels/1", headers=right).status_code == 404
    for _ in range(key_guesses.MAX_GUESSES):  # one wrong key, as in an outdated cookie, is no guessing
        assert client.delete("/labels/1", headers={"Authorization": "Bearer outdated"}).status_code == 401
    for number in range(key_guesses.MAX_GUESSES - 1):
        assert client.delete("/labels/1", headers={"Authorization": f"Bearer {number}"}).status_code == 401
    for key in ("a guess", "another key"):
        refused = client.delete("/labels/1", headers={"Authorization": f"Bearer {key}"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_guesses")
        assert refused.headers["retry-after"] == "60"
        assert client.post("/key", data={"key": key}).status_code == 429
    assert client.delete("/labels/1", headers=right).status_code == 404
    monkeypatch.setattr(key_guesses, "GUESS_WINDOW_S", 0.0)
    assert client.delete("/labels/1", headers={"Authorization": "Bearer another key"}).status_code == 404


@pytest.mark.parametrize(
    ("server", "allowed", "host", "served"),
    [
        ("127.0.0.1", "", "evil.example", False),
        ("127.0.0.1", "", "evil.example:8000", False),
        ("127.0.0.1", "", "[", False),
        ("127.0.0.1", "", "evil.example@localhost", False),
        ("127.0.0.1", "", "localhost/", False),
        ("127.0.0.1", "", "localhost,evil.example", False),
        ("::1", "", "localhost.evil.example", False),
        ("127.0.0.1", "", "localhost:8000", True),
        ("127.0.0.1", "", "astro.localhost", True),
        ("127.0.0.1", "", "127.0.0.1:8000", True),
        ("::1", "", "[::1]:8000", True),
        ("127.0.0.1", "", "10.0.0.5", True),
        ("10.0.0.5", "", "astro.example.org", True),
        ("10.0.0.5", "astro.example.org", "ASTRO.example.org.:443", True),
        ("10.0.0.5", "astro.example.org", "evil.example", False),
        ("127.0.0.1", "a.org, *.b.org", "x.b.org", True),
        ("127.0.0.1", "a.org, *.b.org", "b.org.evil.example", False),
        ("127.0.0.1", "*", "evil.example", True),
        ("/run/astrodetect.sock", "", "astro.example.org", True),
    ],
)
def test_names_that_were_rebound_to_the_service_are_refused(server: str, allowed: str, host: str, served: bool) -> None:
    assert ServedHosts(allowed).served(host, server) is served


def test_a_request_for_another_host_is_a_421(start: Start) -> None:
    app = start().app
    client = TestClient(app, base_url="http://127.0.0.1:8000")
    assert client.get("/models").status_code == 200
    refused = client.get("/models", headers={"Host": "evil.example:8000"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (421, "host_not_served")


def test_aladin_lite_is_off_unless_a_file_is_named_and_has_a_policy_of_its_own(
    start: Start, database_url: str, tmp_path: Path
) -> None:
    statement = "INSERT INTO predictions (image_name, score, result, ra, dec) VALUES ('a', 0.5, 'x', %s, %s)"
    query(database_url, statement, 10, -20)
    query(database_url, statement, None, None)
    client = start()
    page = client.get("/history/1")
    assert "<iframe" not in page.text
    assert "frame-src" not in page.headers["content-security-policy"]
    assert [client.get(url).status_code for url in ("/history/1/sky", sky_view.SCRIPT_URL)] == [404, 404]

    with pytest.raises(ValidationError, match="there is no file"):
        start(aladin=tmp_path / "none.js")
    for invalid in ("ftp://host/hips", "https://host/hips; script-src *", "https://host/hips/"):
        with pytest.raises(ValidationError, match="aladin_hips"):
            start(aladin_hips=invalid)
    (tmp_path / "aladin.js").write_text("export default {};")
    client = start(aladin=tmp_path / "aladin.js", aladin_hips="https://tiles.example:8443/P/DSS")
    page, frame, script = (client.get(url) for url in ("/history/1", "/history/1/sky", sky_view.SCRIPT_URL))
    assert 'src="/history/1/sky"' in page.text
    widened = f"connect-src 'self' {SAMP_HUB}; form-action"
    assert widened in page.headers["content-security-policy"]
    assert page.headers["content-security-policy"].endswith("; frame-src 'self'")
    policy = frame.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts; default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; ")
    assert "connect-src data: blob: https://tiles.example:8443; " in policy
    assert (script.text, script.headers["access-control-allow-origin"]) == ("export default {};", "*")
    assert "<iframe" not in client.get("/history/2").text
    assert client.get("/history/2/sky").status_code == 404
