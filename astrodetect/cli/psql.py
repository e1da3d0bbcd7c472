"""Opens psql on the log of predictions."""

import argparse
import os
import signal
import subprocess

from astrodetect.cli._options import Subparsers, command_parser
from astrodetect.db.connections import read_url, without_password
from astrodetect.db.embedded import server
from astrodetect.settings import settings

EXAMPLES = """examples:
  python -m astrodetect psql
  python -m astrodetect psql -c "SELECT * FROM predictions ORDER BY id DESC LIMIT 10"
  python -m astrodetect psql --show
"""


def add(verbs: Subparsers) -> None:
    """Its command line."""
    option = command_parser(verbs, "psql", "open psql on the predictions database", EXAMPLES, run)
    option("-c", dest="command", metavar="SQL", help="run this and leave")
    option("--show", action="store_true", help="print the psql command for the running service instead")


def run(arguments: argparse.Namespace) -> int:
    """Opens psql on the log; the embedded PostgreSQL runs for as long as that takes."""
    given = settings().database_url
    if given:
        return _psql(given.get_secret_value(), arguments)
    with server.embedded_server(settings().postgres_dir, server.EMBEDDED_DATABASE) as url:
        return _psql(url, arguments)


def _psql(url: str, arguments: argparse.Namespace) -> int:
    parts = read_url(url)
    shown = without_password(url)
    if arguments.show:
        print(server.psql_command(shown))
        return 0
    command = [str(server.psql_path()), shown, *(["-c", arguments.command] if arguments.command else [])]
    password = {"PGPASSWORD": parts["password"]} if "password" in parts else {}  # the arguments are for all to see
    before = signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is psql's: it cancels the query
    try:
        return subprocess.run(command, env={**os.environ, **password}, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)
