"""A PostgreSQL that tests stop and start, what its table holds, and a wire to it that they freeze."""

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from programs import query

from astrodetect.db.embedded import cluster
from astrodetect.db.embedded.binaries import account_for, run_program

CHUNK_BYTES = 65536


class Server:
    """A real PostgreSQL in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start()

    def start(self) -> None:
        cluster.ensure_running(self.folder)
        self.address = cluster.ServerAddress.of(self.folder)

    def stop(self) -> None:
        """As on a restart: its sessions are ended, and connections refused."""
        cluster.stop_server(self.folder)

    def crash(self) -> None:
        """As by a power cut, but for the disk."""
        run_program("pg_ctl", self.folder, account_for(self.folder), "stop", "-m", "immediate")

    def url(self, database: str) -> str:
        return self.address.url(database)


@dataclass(frozen=True)
class Log:
    """The database of one test, on a server that it may stop."""

    server: Server
    database: str

    @property
    def url(self) -> str:
        return self.server.url(self.database)

    def rows(self) -> list[tuple[str, str, str]]:
        """Request, name and image of every row, in the table's order."""
        found = query(self.url, "SELECT request_id::text, image_name, image_sha256 FROM predictions ORDER BY id")
        return [(request_id, name, sha256) for request_id, name, sha256 in found]

    def requests(self) -> list[str]:
        """Whose rows there are, in the table's order."""
        return [request_id for request_id, _, _ in self.rows()]

    def in_order(self) -> bool:
        """Whether the table's order is the order of time."""
        times = [time for (time,) in query(self.url, 'SELECT "timestamp" FROM predictions ORDER BY id')]
        return times == sorted(times)


class Wire:
    """A TCP proxy before PostgreSQL; frozen, it passes on neither answers nor refusals: both sides wait."""

    def __init__(self, server: Server) -> None:
        self._path = str(server.address.socket_folder / f".s.PGSQL.{server.address.port}")
        self._flows = threading.Event()
        self._flows.set()
        self._door = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def url(self, database: str) -> str:
        port = self._door.getsockname()[1]
        return f"postgresql://postgres@127.0.0.1:{port}/{database}?sslmode=disable&gssencmode=disable"

    def freeze(self) -> None:
        self._flows.clear()

    def thaw(self) -> None:
        self._flows.set()

    def close(self) -> None:
        """Once those on both sides are gone."""
        self.thaw()
        self._door.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._door.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._door.accept()[0]
                self._threads.append(threading.Thread(target=self._connect, args=(near,)))
                self._threads[-1].start()

    def _connect(self, near: socket.socket) -> None:
        with near, socket.socket(socket.AF_UNIX) as far:
            far.connect(self._path)
            back = threading.Thread(target=self._pass_on, args=(far, near))
            back.start()
            self._pass_on(near, far)
            back.join()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(CHUNK_BYTES):
                self._flows.wait()
                other.sendall(data)
        self._flows.wait()
        with suppress(OSError):
            other.shutdown(socket.SHUT_WR)
