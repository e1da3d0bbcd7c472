"""What the command lines of the verbs share."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from astrodetect.settings import settings

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def command_parser(
    verbs: Subparsers,
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


def int_between(least: int, most: int) -> Callable[[str], int]:
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


def class_name(text: str) -> str:
    """A parser of names of class folders."""
    if not text.strip(".") or Path(text).name != text:
        raise argparse.ArgumentTypeError(f"the name of a folder with images, not {text!r}")
    return text


def class_count(text: str) -> tuple[str, int]:
    """A parser of CLASS=N."""
    name, _, digits = text.rpartition("=")
    if not name or not digits.isdecimal():
        raise argparse.ArgumentTypeError(f"CLASS=N such as merger=5, not {text}")
    return name, int(digits)


def int_at_least(least: int) -> Callable[[str], int]:
    """A parser of whole numbers that are not smaller."""

    def whole_number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"at least {least}, not {text}")
        return int(text)

    return whole_number


def float_between(least: float, most: float) -> Callable[[str], float]:
    """A parser of numbers within bounds."""

    def number_within(text: str) -> float:
        if not least <= float(text) <= most:
            raise argparse.ArgumentTypeError(f"between {least:g} and {most:g}, not {text}")
        return float(text)

    return number_within
