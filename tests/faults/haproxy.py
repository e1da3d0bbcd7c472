"""HAProxy with the configuration that is shipped, in front of services on loopback."""

import csv
import os
import re
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from programs import ROOT, Service, free_port

CONFIGURATION = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
UP_WITHIN_S = 30.0


class HAProxy:
    """The load balancer; `spare` servers have no replica yet."""

    def __init__(self, ports: Sequence[int], *, spare: int, log: Path) -> None:
        self.port, self._spares, self._log = free_port(), [f"spare{number}" for number in range(spare)], log
        self.url = f"http://127.0.0.1:{self.port}"
        self._socket = log.with_name("haproxy.sock")
        servers = [f"server replica{number} 127.0.0.1:{port}" for number, port in enumerate(ports)]
        servers += [f"server {name} 127.0.0.1:{free_port()}" for name in self._spares]
        shipped = CONFIGURATION.read_text(encoding="utf-8")
        text = re.sub(r"^ *server-template .*$", "\n".join(servers), shipped, count=1, flags=re.M)
        text = text.replace("bind :8080", f"bind 127.0.0.1:{self.port}")
        text = text.replace("global\n", f"global\nstats socket {self._socket} level admin\n", 1)
        assert text.count("server replica0") == text.count(f"bind 127.0.0.1:{self.port}") == 1
        self._configuration = log.with_name("haproxy.cfg")
        self._configuration.write_text(text, encoding="utf-8")

    def __enter__(self) -> Self:
        command = ["haproxy", "-db", "-f", str(self._configuration)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "REPLICAS": "none:1"})
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def wait_until_up(self, count: int) -> None:
        """Until so many servers are in use."""
        deadline = time.monotonic() + UP_WITHIN_S
        while sum(status.startswith("UP") for status in self._column("status")) != count:
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()[-5_000:]
            time.sleep(0.1)

    def use_spare(self, service: Service) -> None:
        """Lets a spare server be this service."""
        self._command(f"set server replicas/{self._spares.pop()} addr 127.0.0.1 port {service.port}")

    def repeated(self) -> int:
        """The number of requests that were sent again to the same or another server."""
        return sum(int(value or 0) for name in ("wretr", "wredis") for value in self._column(name))

    def _column(self, name: str) -> list[str]:
        """A column of the servers' statistics."""
        try:
            rows = csv.DictReader(self._command("show stat").removeprefix("# ").splitlines())
        except OSError:  # it is starting
            return []
        return [row[name] for row in rows if row["pxname"] == "replicas" and row["svname"] != "BACKEND"]

    def _command(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            connection.sendall(f"{command}\n".encode())
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        return answer.decode()
