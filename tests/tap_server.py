"""A local TAP service: tables of objects, cones in ADQL as the client writes them, and faults in a given order."""

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs

from astrodetect.sky.votable import DATATYPES, VOField, votable

CONE = re.compile(
    r"CONTAINS\(POINT\('ICRS', (\w+), (\w+)\), CIRCLE\('ICRS', ([\d.]+), (-?[\d.]+), ([\d.]+)\)\) = 1", re.ASCII
)
QUERY = re.compile(r"SELECT (.+?) FROM (\S+) WHERE (.+)", re.ASCII)
FAULTS = ("429", "503", "half", "silence", "html", "hang up")  # that a retry gets over
Row = Mapping[str, Any]


@dataclass
class TapState:
    """What the service has, how it fails, and what it was asked."""

    tables: Mapping[str, Sequence[Row]]  # by the name in FROM
    faults: list[str] = field(default_factory=list)  # of the next requests
    queries: list[str] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)

    def answer(self, query: str) -> str:
        """A VOTable of the rows in the cones of a query, or the document that says why there is none."""
        match = QUERY.fullmatch(query)
        if match is None or match[2] not in self.tables:
            return _error(f"table {match[2] if match else query} is unknown")
        rows = self.tables[match[2]]
        names = [*rows[0]] if match[1] == "*" else match[1].split(", ")
        cones = [(ra, dec, *map(float, numbers)) for ra, dec, *numbers in CONE.findall(match[3])]
        assert " OR ".join(found[0] for found in CONE.finditer(match[3])) == match[3]
        found = [
            row
            for row in rows
            if any(abs(row[ra] - x) <= 2 * r and abs(row[dec] - y) <= r for ra, dec, x, y, r in cones)
        ]
        fields = [VOField(name, DATATYPES["number" if isinstance(rows[0][name], float) else "text"]) for name in names]
        return "".join(votable(fields, [[row[name] for name in names] for row in found], title="answer"))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "TapServer"

    def do_POST(self) -> None:
        state = self.server.state
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        state.queries.append(form["QUERY"])
        state.headers.append(dict(self.headers))
        assert (self.path, form["LANG"], form["REQUEST"]) == ("/tap/sync", "ADQL", "doQuery")
        answer = state.answer(form["QUERY"]).encode()
        match state.faults.pop(0) if state.faults else "":
            case "429":
                self._send(429, b"", {"Retry-After": "1"})
            case "503":
                self._send(503, b"<html>down</html>")
            case "half":
                self._send(200, answer[: len(answer) // 2])
            case "html":
                self._send(200, b"<html>maintenance</html>")
            case "hang up":
                self.close_connection = True
            case "silence":
                self.server.stopped.wait(30)
                self.close_connection = True
            case "error":
                self._send(200, _error("the query took too long,\n try a smaller one").encode())
            case "overflow":
                self._send(200, answer.replace(b"</TABLE>", b'</TABLE><INFO name="QUERY_STATUS" value="OVERFLOW"/>'))
            case "400":
                self._send(400, _error('table "basic" has no column otype').encode())
            case "404":
                self._send(404, b"<html>not here</html>")
            case _:
                self._send(200, answer)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - name of the base class
        """Log nothing."""


class TapServer(ThreadingHTTPServer):
    """`with TapServer(state) as server:` serves on a free port."""

    daemon_threads = True

    def __init__(self, state: TapState) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.state, self.stopped = state, threading.Event()
        url = f"http://127.0.0.1:{self.server_port}/tap"
        self.environment = {
            **{f"ASTRODETECT_{name}_TAP_URL": url for name in ("SIMBAD", "NED", "VIZIER")},
            "ASTRODETECT_COLLECT_REQUESTS_PER_S": "1000",
            "ASTRODETECT_COLLECT_BACKOFF_S": "0.01",
            "NO_PROXY": "127.0.0.1",
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.shutdown()
        self.server_close()


def _error(message: str) -> str:
    return (
        '<?xml version="1.0"?><VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">'
        f'<RESOURCE type="results"><INFO value="ERROR" name="QUERY_STATUS">{message}</INFO></RESOURCE></VOTABLE>'
    )
