"""The sky around a prediction: the frame for Aladin Lite, which a stand-in fills that needs what Aladin Lite needs.

The stand-in has Aladin Lite's interface; the real one, of 2.4 MB under the LGPL, is not in the repository.
"""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect
from programs import Service

from browser.conftest import KEY
from browser.tabs import Tabs

MODULE = "AGFzbQEAAAA="  # the empty WebAssembly module
STAND_IN = f"""
const attempt = async (name, action) => {{ try {{ return await action(), name; }} catch {{ return `no ${{name}}`; }} }};
const load = (url) => fetch(url).then((response) => response.arrayBuffer());
const work = () => new Promise((done, failed) => {{
  const worker = new Worker(URL.createObjectURL(new Blob(["postMessage(1)"])));
  worker.onmessage = done;
  worker.onerror = failed;
}});
const parts = [];
export default {{
  init: load("data:application/wasm;base64,{MODULE}").then((bytes) => WebAssembly.instantiate(bytes)),
  aladin(selector, {{ survey, target, log }}) {{
    const element = document.querySelector(selector), style = document.createElement("style");
    style.textContent = `${{selector}} {{ color: rgb(1, 2, 3) }}`;
    document.head.append(style);
    localStorage.setItem("theme", "dark");
    const tries = [
      attempt("worker", work), attempt("tile", () => load(`${{survey}}/tile.jpg`)),
      attempt("other site", () => load("/history")), attempt("cookie", () => document.cookie),
      attempt("page", () => parent.document.body),
    ];
    Promise.all(tries).then((done) => {{ element.textContent = [target, log, ...parts, ...done].join("; "); }});
    return {{ addCatalog: ({{ name }}) => parts.push(name) }};
  }},
  catalog: (options) => ({{ ...options, addSources: ([source]) => parts.push(source) }}),
  source: (ra, dec, {{ name }}) => `${{name}} at ${{ra}} ${{dec}}`,
}};
"""


class Tiles(http.server.BaseHTTPRequestHandler):
    """Any path is a tile."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def tiles(hips_port: int) -> Iterator[None]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", hips_port), Tiles) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


@pytest.mark.usefixtures("tiles")
def test_the_frame_runs_what_aladin_lite_needs_and_reaches_nothing_else(
    private_service: Service, tabs: Tabs, aladin: Path
) -> None:
    aladin.write_text(STAND_IN)
    page = tabs.open(f"{private_service.url}/history/1", ignore="/aladin.js")  # violations that it makes
    page.locator("input[name=key]").fill(KEY)
    page.keyboard.press("Enter")
    frame = page.frame_locator("iframe.sky-frame")
    expected = "202.5 -47.25; false; astrodetect; a at 202.5 -47.25; worker; tile; no other site; no cookie; no page"
    expect(frame.locator("#sky")).to_have_text(expected)
    expect(frame.locator("#sky")).to_have_css("color", "rgb(1, 2, 3)")
