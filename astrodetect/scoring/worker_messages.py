"""Messages between a worker process and its supervisor: lines of JSON, some followed by bytes."""

import json
import os
import sys
import threading
from typing import Any, BinaryIO

from astrodetect import errors
from astrodetect.errors import AstrodetectError

Message = dict[str, Any]  # {kind: value, …}
READY, CHUNK_PROGRESS, SUSPECTS, CHUNK_PART, ERROR = (
    "ready",
    "progress",
    "suspects",
    "part",
    "error",
)  # kinds, from a worker
BYTES = "bytes"  # how many follow the line


def send(file: BinaryIO, message: Message, payload: bytes = b"") -> None:
    """Sends a message, with bytes if there are any; flushed."""
    line = json.dumps(message | {BYTES: len(payload)}) if payload else json.dumps(message)
    file.write(line.encode() + b"\n" + payload)
    file.flush()


def receive(file: BinaryIO) -> tuple[Message, bytes] | None:
    """The next message; None at the end, also within a message: its sender was killed."""
    line = file.readline()
    if not line.endswith(b"\n"):
        return None
    message: Message = json.loads(line)
    size = message.get(BYTES, 0)
    payload = file.read(size) if size else b""
    return (message, payload) if len(payload) == size else None


def error_message(error: AstrodetectError) -> Message:
    """The message of an error; of its class, or the one that it derives from, in `astrodetect.errors`."""
    name = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    return {ERROR: name, "message": str(error)}


def as_error(message: Message) -> AstrodetectError:
    """The error of an `error_message`."""
    error: AstrodetectError = getattr(errors, message[ERROR])(message["message"])
    return error


class WorkerChannel:
    """A worker process's stdin and stdout as messages; what else is printed goes to stderr."""

    def __init__(self) -> None:
        self._input = sys.stdin.buffer
        self._output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
        self._lock = threading.Lock()  # readers in threads announce images
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(self, message: Message, payload: bytes = b"") -> None:
        """Sends a message to the supervisor."""
        with self._lock:
            send(self._output, message, payload)

    def receive(self) -> Message | None:
        """The next message; None when the supervisor has closed the channel, or has ended."""
        received = receive(self._input)
        return received[0] if received else None
