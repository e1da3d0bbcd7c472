"""What the command lines of the verbs share."""

import argparse
import re
from collections.abc import Callable
from typing import Any, TypeAlias

from astrodetect.settings import settings

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def verb(
    verbs: Verbs,
    name: str,
    meaning: str,
    examples: str,
    run: Callable[[argparse.Namespace], int],
) -> Callable[..., Any]:
    """Describes a verb; returns what adds its arguments. The first line of the meaning stands in the list of verbs."""
    first, _, _ = meaning.partition("\n")
    parser = verbs.add_parser(
        name, help=first, description=meaning, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(verb=run)
    return parser.add_argument


def number(least: int, most: int) -> Callable[[str], int]:
    """A parser of whole numbers within bounds."""

    def whole_number(text: str) -> int:
        found = int(text)
        if not least <= found <= most:
            raise argparse.ArgumentTypeError(f"from {least} to {most}, not {text}")
        return found

    return whole_number


def model_name(text: str) -> str:
    """A parser of names of trained models."""
    if not re.fullmatch(r"[\w.-]+", text):
        raise argparse.ArgumentTypeError(f"a name in {settings().models_dir}, not {text}")
    return text
