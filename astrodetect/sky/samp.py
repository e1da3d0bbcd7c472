"""SAMP 1.3, by which desktop programs of the Virtual Observatory exchange tables: sends a VOTable to all that listen.

By the Standard Profile: a file in the user's home says where the hub is, and its secret; calls are XML-RPC.
"""

import os
import re
import xmlrpc.client
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from astrodetect.errors import DataError

LOAD_VOTABLE = "table.load.votable"
HUB_VARIABLE, LOCK_URL = "SAMP_HUB", "std-lockurl:"
LOCK_FILE = ".samp"  # in the home folder
CALL_S = 30.0
LOAD_S = 20  # that a program may take to read the table, and to say whether it could
LOCK_LINE = re.compile(r"\s*([^#=\s]+)\s*=\s*(.*?)\s*")
NO_HUB = "no SAMP hub runs on this machine: start TOPCAT or Aladin"
METADATA = {"samp.name": "astrodetect", "samp.description.text": "Unusual objects and scores of images of the sky"}


class _BoundedTransport(xmlrpc.client.Transport):
    """Calls do not wait for a hub that hangs."""

    def make_connection(self, host: Any) -> Any:
        """A connection with a timeout."""
        connection = super().make_connection(host)
        connection.timeout = CALL_S
        return connection


def send_votable(path: Path, name: str) -> list[str]:
    """The names of the programs that a table was sent to; DataError without any."""
    lock = _read_lock_file()
    hub: Any = xmlrpc.client.ServerProxy(lock["samp.hub.xmlrpc.url"], transport=_BoundedTransport()).samp.hub
    try:
        key = hub.register(lock["samp.secret"])["samp.private-key"]
    except (OSError, xmlrpc.client.Error) as error:
        raise DataError(NO_HUB) from error  # the file of one that was killed
    try:
        hub.declareMetadata(key, METADATA)
        listening = sorted(hub.getSubscribedClients(key, LOAD_VOTABLE))
        if not listening:
            raise DataError("no program at the SAMP hub reads VOTables: start TOPCAT or Aladin")
        url = path.absolute().as_uri()
        message = {"samp.mtype": LOAD_VOTABLE, "samp.params": {"url": url, "table-id": url, "name": name}}
        names = [str(hub.getMetadata(key, client).get("samp.name", client)) for client in listening]
        problems, reached = [], []
        for client, program in zip(listening, names, strict=True):
            try:
                _send_to_program(hub, key, client, program, message)
                reached.append(program)
            except DataError as error:
                problems.append(str(error))
        if problems:
            raise DataError("; ".join([*problems, *(f"{program} has read it" for program in reached)]))
    except (OSError, xmlrpc.client.Error) as error:
        raise DataError(f"the SAMP hub does not answer: {error}") from error
    else:
        return names
    finally:
        with suppress(OSError, xmlrpc.client.Error):  # it has ended
            hub.unregister(key)


def _send_to_program(hub: Any, key: str, client: str, program: str, message: dict[str, Any]) -> None:
    """Waits for its answer, as a hub may drop a notification whose sender has left before it is passed on."""
    try:
        response = hub.callAndWait(key, client, message, str(LOAD_S))
    except xmlrpc.client.Fault as error:
        raise DataError(f"{program} did not answer: {error.faultString}") from error
    if response.get("samp.status") == "samp.error":
        reason = response.get("samp.error", {}).get("samp.errortxt", "it does not say why")
        raise DataError(f"{program} cannot read {message['samp.params']['url']}: {reason}")


def _read_lock_file() -> dict[str, str]:
    place = os.environ.get(HUB_VARIABLE, "").removeprefix(LOCK_URL)
    file = Path(unquote(urlsplit(place).path)) if place else Path.home() / LOCK_FILE
    try:
        lines = file.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError as error:
        raise DataError(NO_HUB) from error
    lock = {match[1]: match[2] for match in map(LOCK_LINE.fullmatch, lines) if match}
    if not {"samp.secret", "samp.hub.xmlrpc.url"} <= {*lock}:
        raise DataError(f"{file} names no SAMP hub: start TOPCAT or Aladin")
    return lock
