"""A PostgreSQL server that tests stop and start, its `predictions` table, and a TCP proxy that tests freeze."""

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from programs import query

from astrodetect.db.embedded import server_process
from astrodetect.db.embedded.binaries import account_for, run_program

CHUNK_BYTES = 65536


class PostgresServer:
    """A PostgreSQL server with a data folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start()

    def start(self) -> None:
        server_process.ensure_running(self.folder)
        self.address = server_process.ServerAddress.of(self.folder)

    def stop(self) -> None:
        """Shut down: sessions are ended and connections refused."""
        server_process.stop_server(self.folder)

    def crash(self) -> None:
        """Stop without writing buffers, as in a power cut."""
        run_program("pg_ctl", self.folder, account_for(self.folder), "stop", "-m", "immediate")

    def url(self, database: str) -> str:
        return self.address.url(database)


@dataclass(frozen=True)
class PredictionsDatabase:
    """The predictions database of one test, on a server that it may stop."""

    server: PostgresServer
    database: str

    @property
    def url(self) -> str:
        return self.server.url(self.database)

    def rows(self) -> list[tuple[str, str, str]]:
        """Request id, name and SHA-256 of every row, by id."""
        rows = query(self.url, "SELECT request_id::text, image_name, image_sha256 FROM predictions ORDER BY id")
        return [(request_id, name, sha256) for request_id, name, sha256 in rows]

    def requests(self) -> list[str]:
        """Request ids of the rows, by id."""
        return [request_id for request_id, _, _ in self.rows()]

    def in_order(self) -> bool:
        """Whether the rows are in order of time."""
        times = [time for (time,) in query(self.url, 'SELECT "timestamp" FROM predictions ORDER BY id')]
        return times == sorted(times)


class TcpProxy:
    """A TCP proxy in front of PostgreSQL; frozen, it forwards nothing and both sides wait."""

    def __init__(self, server: PostgresServer) -> None:
        self._path = str(server.address.socket_folder / f".s.PGSQL.{server.address.port}")
        self._open = threading.Event()
        self._open.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def url(self, database: str) -> str:
        port = self._listener.getsockname()[1]
        return f"postgresql://postgres@127.0.0.1:{port}/{database}?sslmode=disable&gssencmode=disable"

    def freeze(self) -> None:
        self._open.clear()

    def thaw(self) -> None:
        self._open.set()

    def close(self) -> None:
        """Close, after both sides have closed."""
        self.thaw()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self._threads.append(threading.Thread(target=self._connect, args=(client,)))
                self._threads[-1].start()

    def _connect(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as upstream:
            try:
                upstream.connect(self._path)
            except OSError:  # the server is down
                return
            back = threading.Thread(target=self._forward, args=(upstream, client))
            back.start()
            self._forward(client, upstream)
            back.join()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                self._open.wait()
                target.sendall(data)
        self._open.wait()
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
