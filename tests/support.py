"""What several tests need: SQL in one line, and another process that uses the embedded PostgreSQL."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2

ROOT = Path(__file__).resolve().parent.parent

USER = """
import sys
from pathlib import Path
from astrodetect.postgres import serve
with serve(Path(sys.argv[1]), "postgres") as url:
    print(url, flush=True)
    sys.stdin.read()
"""


def query(url: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """The rows of one statement, committed, on a connection of its own."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []


class User:
    """A process of its own that is inside `serve`, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", USER, str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def url(self) -> str:
        """Waits until the server runs."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def leave(self) -> tuple[int, str]:
        """A clean exit: its status, and what it complained of."""
        _, complaints = self.process.communicate()
        return self.process.returncode, complaints

    def kill(self) -> None:
        """SIGKILL, and gone."""
        self.process.kill()
        self.process.communicate()
