"""A real Chromium without a window, driven through its own protocol over two pipes: no driver, no package, no port."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
ANSWER_WITHIN_S = 60
ABOVE_THEIRS = 10  # the protocol wants file descriptors 3 and 4, which this process may have given to others
START = "import os, sys; [os.dup2(int(sys.argv[i]), i + 2) for i in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"
LOUD = ("error", "warning")


def found() -> str:
    """The program; a test that needs it is skipped where there is none."""
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None or os.name != "posix":
        pytest.skip(f"no browser here: none of {', '.join(NAMES)}")
    return program


class Tab:
    """One page: what is asked of it, what it complained about and what it asked others for."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from, self._buffer, self._number = to_browser, from_browser, b"", 0
        self._session: str | None = None
        self._loaded = False
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def resize(self, width: int, height: int = 900) -> None:
        """As wide as a screen of this many pixels; a phone's where it is narrow."""
        narrow = width < 600
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=narrow)

    def prefer(self, **features: str) -> None:
        """Media features of the person who looks, such as prefers_color_scheme="dark"."""
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self._ask("Emulation.setEmulatedMedia", features=named)

    def open(self, page: Path | str) -> None:
        """Loads a page, and waits until it has."""
        self._loaded = False
        self._ask("Page.navigate", url=page.resolve().as_uri() if isinstance(page, Path) else page)
        while not self._loaded:
            self._take()

    def evaluate(self, script: str) -> Any:
        """What a script gives."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """A key, as from a keyboard."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """The page as it looks, the whole of it."""
        answer = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": number, "method": method, "params": parameters, **session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._take()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _take(self) -> dict[str, Any]:
        """The next message; events are kept for those who ask."""
        while b"\0" not in self._buffer:
            assert select.select([self._from], [], [], ANSWER_WITHIN_S)[0], "the browser is silent"
            received = os.read(self._from, 2**16)
            assert received, "the browser has gone"
            self._buffer += received
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, event: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(event["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in LOUD:
            self.complaints.append(str(event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in LOUD:
            self.complaints.append(event["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])


@contextmanager
def tab(profile: Path) -> Iterator[Tab]:
    """A browser of its own with one page; it ends with the block."""
    into_browser, to_browser = os.pipe()
    from_browser, out_of_browser = os.pipe()
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, ABOVE_THEIRS) for end in (into_browser, out_of_browser)]
    options = ["--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--hide-scrollbars"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # it refuses to run as root with one
    process = subprocess.Popen(
        [sys.executable, "-c", START, *map(str, theirs), found(), *options, f"--user-data-dir={profile}"],
        pass_fds=theirs,
        stderr=subprocess.DEVNULL,
    )
    for end in (*theirs, into_browser, out_of_browser):
        os.close(end)
    try:
        yield Tab(to_browser, from_browser)
    finally:
        os.close(to_browser)
        os.close(from_browser)
        process.terminate()
        process.wait(30)
