"""Keys with scopes, sessions of browsers, and the audit log."""

import asyncio
import csv
import subprocess
import time
from collections.abc import Callable
from typing import Any, get_args

import colour_models
import httpx2
import pytest
from programs import query, run_here
from starlette.testclient import TestClient
from starlette.types import Message

from astrodetect import images
from astrodetect.__main__ import main
from astrodetect.db.access import KEY_PREFIX, digest
from astrodetect.errors import DatabaseUnavailable
from astrodetect.records import KeyScope
from astrodetect.service import authentication, key_guesses
from astrodetect.service.middleware.audit import is_audited
from database import Database

KEY = "the key of the setting"
IMAGE = {"file": ("a.png", images.encode_png(colour_models.image("nebula")))}
BROWSER = {"Accept": "text/html"}
AUDIT = "SELECT who, request, status FROM audit_log ORDER BY id"
Start = Callable[..., TestClient]


@pytest.fixture
def keys(database_url: str) -> "Callable[..., subprocess.CompletedProcess[str]]":
    """A function that runs the command on this database."""
    return lambda *arguments: run_here(main, "keys", *arguments, environment={"DATABASE_URL": database_url})


@pytest.fixture
def client(start: Start) -> TestClient:
    """A service that asks for keys."""
    return start(api_key=KEY)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def allowed(client: TestClient, headers: dict[str, str]) -> set[KeyScope]:
    """What these headers may do, by one harmless request for each scope."""
    requests: dict[KeyScope, tuple[str, str]] = {
        "predict": ("POST", "/detect"),
        "review": ("POST", "/predictions/1000/label"),
        "operate": ("POST", "/models/none/rollback"),
    }
    statuses = {scope: client.request(*request, headers=headers).status_code for scope, request in requests.items()}
    return {scope for scope, status in statuses.items() if status not in {401, 403}}


def test_a_key_may_do_what_its_scopes_say_until_it_is_revoked(
    client: TestClient, keys: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "CACHE_S", 0.0)
    for scopes in ({"predict"}, {"review"}, {"operate", "predict"}):
        name = "-".join(sorted(scopes))
        created = keys("create", name, "--scopes", ",".join(scopes))
        assert created.returncode == 0, created.stderr
        key = created.stdout.strip()
        assert allowed(client, bearer(key)) == scopes
        assert query(database_url, "SELECT sha256 FROM api_keys WHERE name = %s", name)[0][0].tobytes() == digest(key)
    refused = client.post(
        "/models/none/rollback", headers=bearer(keys("create", "p", "--scopes", "predict").stdout.strip())
    )
    assert refused.json()["error"] == {"code": "key_scope_missing", "message": "the key p may predict, not operate"}
    assert keys("revoke", name).returncode == 0
    assert allowed(client, bearer(key)) == set()
    assert allowed(client, bearer(KEY)) == set(get_args(KeyScope)) - {"read"}
    assert allowed(client, bearer(KEY_PREFIX + "guessed")) == set()
    query(database_url, "UPDATE api_keys SET expires = now() WHERE name = 'p'")
    listed = keys("list").stdout
    assert "revoked 20" in listed
    assert "last used 20" in listed
    assert "expires 20" in listed


def test_a_private_service_is_read_with_a_key_that_may_read(start: Start, keys: Any) -> None:
    client = start(api_key=KEY, private=True)
    reader, sender = (keys("create", scope, "--scopes", scope).stdout.strip() for scope in ("read", "predict"))
    assert client.get("/predictions", headers=bearer(reader)).status_code == 200
    assert client.get("/predictions", headers=bearer(sender)).status_code == 403
    assert "may predict, not read" in client.get("/history", headers=bearer(sender) | BROWSER).text


def test_a_live_stream_ends_with_the_key_that_it_is_read_with(
    start: Start, keys: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "CACHE_S", 0.0)
    client = start(api_key=KEY, private=True)
    key = keys("create", "watcher", "--scopes", "read").stdout.strip()
    row = "INSERT INTO predictions (image_name, score, result) VALUES (%s, 0, 'No Anomaly')"
    received = bytearray()

    async def watch() -> None:
        async def send(message: Message) -> None:
            received.extend(message.get("body", b""))
            if b"event: news" in received and not revoked.is_set():  # the first event: the stream has begun
                revoked.set()
                await asyncio.to_thread(keys, "revoke", "watcher")
                await asyncio.to_thread(query, database_url, row, "secret")

        async def receive() -> Message:
            await asyncio.Event().wait()  # the client stays
            raise AssertionError

        revoked = asyncio.Event()
        request = httpx2.Request("GET", "http://testserver/live/events", headers=bearer(key))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/live/events",
            "raw_path": b"/live/events",
            "query_string": b"",
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "client": ("192.0.2.1", 5),
            "server": ("testserver", 80),
            "state": {},
        }
        async with asyncio.timeout(60):
            await client.app(scope, receive, send)
        assert revoked.is_set()

    assert client.portal
    client.portal.call(watch)
    assert b"secret" not in received


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "a"), "create needs --scopes"),
        (("create", "a b", "--scopes", "read"), "letters, digits, dots"),
        (("create", "a", "--scopes", "write"), "'write' is no scope: read, predict, review, operate"),
        (("create", "a", "--scopes", "read", "--days", "3000000"), "from 1 to 36500"),
        (("list", "a"), "list takes none"),
        (("revoke",), "need the name of a key"),
    ],
)
def test_wrong_usage_is_one_line(keys: Any, arguments: tuple[str, ...], message: str) -> None:
    done = keys(*arguments)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


def test_a_name_is_used_once_and_unknown_keys_are_not_revoked(keys: Any, database_url: str) -> None:
    assert keys("create", "one", "--scopes", "read").returncode == 0
    assert keys("create", "one", "--scopes", "read").stderr.endswith(
        "there is a key one already, or was: choose another name\n"
    )
    assert "there is no key two" in keys("revoke", "two").stderr
    statuses = query(
        database_url, "SELECT request, status, who LIKE 'command line, user %%' FROM audit_log ORDER BY id"
    )
    assert statuses == [
        ("keys create one", 200, True),
        ("keys create one", None, True),
        ("keys revoke two", None, True),
    ]


def test_a_session_has_no_key_in_it_and_ends_when_signed_out_or_with_its_key(
    client: TestClient, keys: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "CACHE_S", 0.0)
    key = keys("create", "browser", "--scopes", "predict").stdout.strip()
    for sign_in_with, ending in ((key, "sign out"), (key, "revoke")):  # no other scope is needed to sign out
        client.cookies.clear()
        cookie = client.post("/key", data={"key": sign_in_with}).headers["set-cookie"]
        assert sign_in_with not in cookie
        assert client.post("/detect", files=IMAGE).status_code == 200
        assert "may" in client.get("/key").text
        value = client.cookies[authentication.SESSION_COOKIE]
        assert query(database_url, "SELECT count(*) FROM sessions WHERE sha256 = %s", digest(value)) == [(1,)]
        if ending == "sign out":
            signed_out = client.post("/key/out").headers
            assert (signed_out["location"], signed_out["clear-site-data"]) == ("/key", '"cache"')
            assert query(database_url, AUDIT)[-1][:2] == ("browser", "POST /key/out")
            client.cookies.set(authentication.SESSION_COOKIE, value)  # a copy of it is worth nothing
        else:
            keys("revoke", "browser")
        assert client.post("/detect", files=IMAGE).status_code == 401
        client.cookies.clear()


def test_known_callers_are_served_while_postgresql_is_away(
    client: TestClient, keys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, other = (keys("create", name, "--scopes", "predict").stdout.strip() for name in ("known", "other"))
    assert client.post("/detect", files=IMAGE, headers=bearer(known)).status_code == 200
    app: Any = client.app
    database = app.state.services.database

    def fail(_: bytes) -> None:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(authentication, "CACHE_S", 0.0)
    monkeypatch.setattr(database.access, "use_key", fail)
    assert client.post("/detect", files=IMAGE, headers=bearer(known)).status_code == 200
    assert client.post("/detect", files=IMAGE, headers=bearer(KEY)).status_code == 200
    assert client.post("/detect", files=IMAGE, headers=bearer(other)).status_code == 503
    assert client.post("/detect", files=IMAGE, headers=bearer("guess")).status_code == 401

    monkeypatch.setattr(authentication, "LOOKUP_S", 0.05)
    monkeypatch.setattr(database.access, "use_key", lambda _: time.sleep(1))  # it hangs
    assert client.post("/detect", files=IMAGE, headers=bearer(known)).status_code == 200


def test_changes_and_exports_are_in_the_audit_log_with_the_name_of_the_key(
    client: TestClient, keys: Any, database_url: str
) -> None:
    key = keys("create", "ada", "--scopes", "predict,review").stdout.strip()
    id_ = client.post("/detect", files=IMAGE, headers=bearer(key)).json()["id"]
    assert client.post(f"/predictions/{id_}/label", json={"label": "ring"}, headers=bearer(key)).status_code == 201
    assert client.post("/models/none/rollback", headers=bearer(KEY)).status_code == 404
    assert client.post("/models/none/rollback").status_code == 401
    assert client.get("/predictions.csv").status_code == 200
    assert query(database_url, AUDIT)[1:] == [
        ("ada", f"POST /predictions/{id_}/label", 201),
        ("ASTRODETECT_API_KEY", "POST /models/none/rollback", 404),
        (None, "GET /predictions.csv", 200),
    ]
    assert client.get("/audit").status_code == 401
    assert client.get("/audit", headers=bearer(key)).status_code == 403
    page = client.get("/audit", headers=bearer(KEY) | BROWSER).text
    assert f"POST /predictions/{id_}/label" in page
    rows = list(csv.DictReader(client.get("/audit.csv", headers=bearer(KEY)).text.splitlines()))
    assert [row["who"] for row in rows[1:]] == ["", "ASTRODETECT_API_KEY", "ada", rows[-1]["who"]]
    assert rows[0]["request"] == "GET /audit.csv"


def test_a_request_is_not_audited_where_it_only_reads_predicts_or_turns_a_page() -> None:
    audited = {
        *(
            ("POST", path)
            for path in ("/review/label", "/review/undo", "/review/teach", "/history/ordinary", "/models-page/train")
        ),
        ("DELETE", "/labels/3"),
        ("GET", "/labels.csv"),
    }
    others = {("GET", "/history"), ("POST", "/detect"), ("POST", "/review/skip"), ("POST", "/map"), ("GET", "/key")} | {
        ("POST", "/key"),  # writes its entry where it succeeds
        ("POST", "/key/out"),
    }
    assert {request for request in audited | others if is_audited(*request)} == audited


def test_what_arrives_is_audited_as_text_and_failed_sign_ins_are_not(client: TestClient, database_url: str) -> None:
    assert client.get("/predictions.%00").status_code == 422
    assert client.post("/models/a%00b/rollback", headers=bearer(KEY)).status_code == 422
    for _ in range(3):
        assert client.post("/key", data={"key": "wrong"}).status_code == 401
    assert client.post("/key/out").status_code == 303
    assert client.post("/key", data={"key": KEY}).status_code == 303
    assert query(database_url, AUDIT) == [
        (None, "GET /predictions.\ufffd", 422),
        ("ASTRODETECT_API_KEY", "POST /models/a\ufffdb/rollback", 422),
        ("ASTRODETECT_API_KEY", "POST /key", 303),
    ]


def test_a_link_to_a_table_reads_that_table_alone_until_it_ends(
    start: Start, keys: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "CACHE_S", 0.0)
    client = start(api_key=KEY, private=True)
    headers = bearer(keys("create", "reader", "--scopes", "read").stdout.strip())
    assert client.post("/history/link").status_code == 401
    url = client.post("/history/link?name=a%2Bb&sort=score", headers=headers).json()["url"]
    assert url.startswith("/predictions.vot?name=a%2Bb&access=")
    assert client.get(url).status_code == 200
    entries = query(database_url, "SELECT who, request, status FROM audit_log ORDER BY id DESC LIMIT 1")
    assert entries == [("reader", "GET /predictions.vot", 200)]
    token = url.rpartition("=")[2]
    for other in (
        f"/predictions.vot?access={token}",
        *(f"/{path}?name=a%2Bb&access={token}" for path in ("predictions.csv", "predictions")),
        url.replace("name=a", "name=c"),
        url + "&name=c",
        url[:-1],
    ):
        assert client.get(other).status_code == 401, other
    assert client.post(url).status_code == 401
    for cookie in (token, f"{url.removesuffix(f'access={token}')} {token}"):
        assert client.get("/predictions", headers={"Cookie": f'astrodetect_session="{cookie}"'}).status_code == 401
    query(database_url, "UPDATE sessions SET expires = now()")
    assert client.get(url).status_code == 401
    url = client.post("/history/link", headers=headers).json()["url"]
    assert client.get(url).status_code == 200
    assert keys("revoke", "reader").returncode == 0
    assert client.get(url).status_code == 401


def test_a_key_is_no_cookie_and_what_is_known_of_one_is_not_of_the_other(client: TestClient, keys: Any) -> None:
    key = keys("create", "k", "--scopes", "predict").stdout.strip()
    for headers, status in (({"Cookie": f"{authentication.SESSION_COOKIE}={key}"}, 401), (bearer(key), 200)) * 2:
        assert client.post("/detect", files=IMAGE, headers=headers).status_code == status


def test_processes_of_one_database_count_wrong_keys_together(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = start(api_key=KEY), start(api_key=KEY)

    def guess(client: TestClient, number: int) -> int:
        return client.post("/detect", headers=bearer(f"{KEY_PREFIX if number % 2 else ''}{number}")).status_code

    half = key_guesses.MAX_GUESSES // 2
    assert {guess(first, number) for number in range(half)} == {401}
    assert {guess(second, number) for number in range(half, 2 * half)} == {401}
    assert guess(second, 100) == 429
    assert [guess(first, 101), guess(first, 102)] == [401, 429]  # it learns of others with its next wrong key

    third: Any = start(api_key=KEY)
    access = third.app.state.services.database.access
    monkeypatch.setattr(key_guesses, "SHARE_WITHIN_S", 0.05)
    monkeypatch.setattr(access, "_execute", lambda *_: time.sleep(0.2))  # PostgreSQL hangs
    assert {guess(third, 2 * number) for number in range(key_guesses.MAX_GUESSES)} == {401}
    assert guess(third, 1000) == 429


def test_wrong_keys_from_before_the_clock_was_set_back_do_not_count(log: Database, database_url: str) -> None:
    log.access.add_guess("192.0.2.1", b"1")
    query(database_url, "UPDATE key_guesses SET \"timestamp\" = now() + interval '1 hour'")
    assert log.access.add_guess("192.0.2.1", b"2") == []
    assert query(database_url, "SELECT count(*) FROM key_guesses") == [(1,)]


def test_unknown_cookies_are_slowed_too(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    app: Any = client.app
    authenticator = app.state.services.authenticator
    monkeypatch.setattr(authenticator._unknown_cookies, "_most", 3)
    statuses = [
        client.post("/detect", headers={"Cookie": f"{authentication.SESSION_COOKIE}={number}"}).status_code
        for number in (1, 2, 2, 3, 4)
    ]
    assert statuses == [401, 401, 401, 401, 429]
    assert client.post("/detect", files=IMAGE, headers=bearer(KEY)).status_code == 200


def test_a_model_can_be_rolled_back_while_the_audit_log_cannot_be_written(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> int:
        raise DatabaseUnavailable("away")

    app: Any = client.app
    monkeypatch.setattr(app.state.services.database.access, "add_audit_entry", fail)
    assert client.post("/models/none/rollback", headers=bearer(KEY)).status_code == 404
    assert "not in the audit log: POST /models/none/rollback: away" in caplog.text
