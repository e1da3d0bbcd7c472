"""`psql`: open psql on the predictions database."""

import argparse
import os
import signal
import subprocess

from astrodetect.cli._options import Subparsers, command_parser
from astrodetect.db.connections import read_url, without_password
from astrodetect.db.embedded import lifetime
from astrodetect.settings import settings

DESCRIPTION = """open psql on the predictions database

Without DATABASE_URL the embedded PostgreSQL is started if the service is not running.
"""
EXAMPLES = """examples:
  python -m astrodetect psql
  python -m astrodetect psql -c "SELECT * FROM predictions ORDER BY id DESC LIMIT 10"
  python -m astrodetect psql --show
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "psql", DESCRIPTION, EXAMPLES, run)
    parser.add_argument("-c", dest="sql", metavar="SQL", help="run this statement and exit")
    parser.add_argument("--show", action="store_true", help="print the psql command instead of running it")


def run(arguments: argparse.Namespace) -> int:
    """Run psql; the embedded PostgreSQL is kept running until it exits."""
    if arguments.show and arguments.sql:
        arguments.parser.error("-c has no effect with --show")
    database_url = settings().database_url
    if database_url:
        return _psql(database_url.get_secret_value(), arguments)
    with lifetime.embedded_server(settings().postgres_dir, lifetime.EMBEDDED_DATABASE) as url:
        return _psql(url, arguments)


def _psql(url: str, arguments: argparse.Namespace) -> int:
    parts = read_url(url)
    public_url = without_password(url)
    if arguments.show:
        print(lifetime.psql_command(public_url))
        return 0
    command = [str(lifetime.psql_path()), public_url, *(["-c", arguments.sql] if arguments.sql else [])]
    # The password goes into the environment: command lines are visible to all users.
    password = {"PGPASSWORD": parts["password"]} if "password" in parts else {}
    previous = signal.signal(signal.SIGINT, lambda *_: None)  # psql handles Ctrl-C: it cancels the query
    try:
        return subprocess.run(command, env={**os.environ, **password}, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, previous)
