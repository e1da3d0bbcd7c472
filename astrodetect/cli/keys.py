"""`keys`: create, list and revoke API keys with scopes."""

import argparse
import getpass
import json
import re
from dataclasses import asdict
from typing import get_args

from astrodetect.cli._options import Subparsers, command_parser, int_between, refuse_unused
from astrodetect.progress import print_notice
from astrodetect.records import KeyScope
from astrodetect.settings import settings

KEY_NAME = re.compile(r"[\w.-]{1,100}")
MAX_DAYS = 36_500  # Python has no dates beyond the year 9999
CREATE, LIST, REVOKE = "create", "list", "revoke"
DESCRIPTION = """create, list and revoke API keys with scopes

A key may predict (send images), review (label, draw maps), operate (train, roll back, replace the ordinary images, read
the audit log) or read (where ASTRODETECT_PRIVATE is on). The database stores its hash, so it is printed once. A service
asks for keys where ASTRODETECT_API_KEY is set, which is a key that may do everything; a created key works at once, a
revoked one for 5 s more. Each change of a key is in the audit log.
"""
EXAMPLES = """examples:
  python -m astrodetect keys create telescope --scopes predict --days 365
  python -m astrodetect keys list
  python -m astrodetect keys revoke telescope
"""


def add_parser(subparsers: Subparsers) -> None:
    """Declare the options."""
    parser = command_parser(subparsers, "keys", DESCRIPTION, EXAMPLES, run)
    parser.add_argument("action", choices=(CREATE, LIST, REVOKE))
    parser.add_argument("name", nargs="?", type=_name, help="name of the key; it is shown in logs")
    parser.add_argument(
        "--scopes", type=_scopes, metavar="SCOPE,…", help=f"what a new key may: {', '.join(get_args(KeyScope))}"
    )
    parser.add_argument(
        "--days", type=int_between(1, MAX_DAYS), help="a new key expires after so many days (default: never)"
    )
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Do it, and add it to the audit log."""
    from database import open_database  # noqa: PLC0415 - a program at the top

    if (arguments.name is None) != (arguments.action == LIST):
        arguments.parser.error("create and revoke need the name of a key, list takes none")
    if (arguments.scopes is None) != (arguments.action != CREATE):
        arguments.parser.error("create needs --scopes, the others take none")
    unused = {CREATE: "json", LIST: "days", REVOKE: "days json"}[arguments.action]
    refuse_unused(arguments, unused, f"with {arguments.action}")
    with open_database(settings(), connections=1) as database:
        access = database.access
        if arguments.action == LIST:
            _print_keys([asdict(key) for key in access.list_keys()], as_json=arguments.json)
            return 0
        entry = access.add_audit_entry(
            f"keys {arguments.action} {arguments.name}", who=f"command line, user {getpass.getuser()}"
        )
        if arguments.action == CREATE:
            print(access.create_key(arguments.name, arguments.scopes, days=arguments.days))
            print_notice("this is the only time that the key is shown")
            if not settings().api_key:
                print_notice("services ask for keys only where ASTRODETECT_API_KEY is set")
        else:
            access.revoke_key(arguments.name)
            print(f"revoked {arguments.name}")
        access.end_audit_entry(entry, 200)
    return 0


def _print_keys(keys: list[dict[str, object]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(keys, default=str, indent=1))
        return
    for key in keys:
        times = ", ".join(
            f"{word} {key[name]:%Y-%m-%d %H:%M}"
            for word, name in (("expires", "expires"), ("revoked", "revoked"), ("last used", "last_used"))
            if key[name]
        )
        print(f"{key['name']}: {','.join(key['scopes'])}; created {key['created']:%Y-%m-%d}{times and f', {times}'}")  # type: ignore[arg-type]
    if not keys:
        print("no keys")


def _name(text: str) -> str:
    if not KEY_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"letters, digits, dots, hyphens and underscores, at most 100, not {text}")
    return text


def _scopes(text: str) -> list[str]:
    scopes = [word.strip() for word in text.split(",")]
    if unknown := [word for word in scopes if word not in get_args(KeyScope)]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no scope: {', '.join(get_args(KeyScope))}")
    return scopes
