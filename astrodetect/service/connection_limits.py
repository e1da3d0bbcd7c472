"""The limit on the number of connections, and on the time that each waits for a request."""

import asyncio
import sys
from typing import TYPE_CHECKING

from astrodetect.service.metrics import Metrics
from astrodetect.service.middleware.request_log import log_refusal

if TYPE_CHECKING:
    from astrodetect.service.http_protocol import HttpProtocol
if sys.platform != "win32":
    import resource

MAX_CONNECTIONS = 4096
OWN_DESCRIPTORS = 128  # of models, logs, the database and the outbox
MIN_WAIT_S = 1.0  # without a request, before a connection is closed for a new one
CHECK_S = 1.0  # between two looks for connections that have waited for too long


def max_connections() -> int:
    """Half of the descriptors that the service does not need itself: a request may open a file for its body."""
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = descriptors == resource.RLIM_INFINITY
    return MAX_CONNECTIONS if unlimited else max(1, min(MAX_CONNECTIONS, (descriptors - OWN_DESCRIPTORS) // 2))


class ConnectionLimits:
    """Limits the number of a server's connections, and how long each waits for a request."""

    def __init__(self, metrics: Metrics, max_connections: int) -> None:
        self.max_connections = max_connections
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._new: dict[HttpProtocol, float] = {}  # connections without a request, oldest first, with their times
        self._idle: dict[HttpProtocol, float] = {}  # those that wait for another one, or discard a body
        self._timer = self._loop.call_later(CHECK_S, self._check)

    def wait(self, connection: "HttpProtocol") -> None:
        """A request is expected on this connection from now on."""
        (self._new if connection.cycle is None else self._idle)[connection] = self._loop.time()

    def end_wait(self, connection: "HttpProtocol") -> None:
        """The headers of a request have arrived, or nothing more is expected."""
        (self._new if connection.cycle is None else self._idle).pop(connection, None)

    def make_room(self) -> bool:
        """Closes the oldest connection that has waited for MIN_WAIT_S without a request, or else for another one."""
        for waiting in (self._new, self._idle):
            connection, since = next(iter(waiting.items()), (None, 0.0))
            if connection and self._loop.time() - since >= MIN_WAIT_S:
                del waiting[connection]
                connection.transport.abort()
                return True
        return False

    def refused(self, connection: "HttpProtocol", status: int, code: str) -> None:
        """Logs and counts an error that the application does not see."""
        log_refusal(connection.client, status, code)
        self._metrics.observe_request("other", status, 0.0)

    def close(self) -> None:
        """Ends the checks."""
        self._timer.cancel()

    def _check(self) -> None:
        now = self._loop.time()
        for waiting in (self._new, self._idle):
            for connection, since in list(waiting.items()):
                connection.check_wait(now - since)
        self._timer = self._loop.call_later(CHECK_S, self._check)
