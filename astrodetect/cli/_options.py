"""Command parsers and option types shared by the commands."""

import argparse
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import shtab

from astrodetect.errors import DataError
from astrodetect.progress import print_notice
from astrodetect.records import ImageContract, parse_prior
from astrodetect.settings import settings
from astrodetect.storage.references import as_image_path, is_url

if TYPE_CHECKING:
    from astrodetect.model_store.manifest import Manifest

MIN_CROP = 0.1
PATHS = ("FILE", "FOLDER", "DATA", "DIR", "IMAGE")  # how metavars of paths begin
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def command_parser(
    subparsers: Subparsers,
    name: str,
    description: str,
    examples: str,
    run: Callable[[argparse.Namespace], int] | None = None,
) -> argparse.ArgumentParser:
    """Add the parser of a command; the first line of its description is shown in the list of commands."""
    summary, _, _ = description.partition("\n")
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(parser=parser)
    if run:
        parser.set_defaults(command=run)
    return parser


def refuse_unused(arguments: argparse.Namespace, names: str, why: str) -> None:
    """Wrong usage, if an option of these names has another value than its default, which would have no effect."""
    for name in names.split():
        if getattr(arguments, name) != arguments.parser.get_default(name):
            arguments.parser.error(f"--{name.replace('_', '-')} has no effect {why}")


def print_warnings(manifest: "Manifest") -> None:
    """Print what everyone who uses the model should know of it, on stderr."""
    for warning in manifest.warnings:
        print_notice(f"model {manifest.name}: {warning}")


def describe_features(manifest: "Manifest") -> str:
    """Whose features a report compares, with the warnings of the model."""
    warnings = "; ".join(manifest.warnings)
    return f"the features of the model {manifest.name}{f' ({warnings[0].lower()}{warnings[1:]})' if warnings else ''}"


def complete_paths(parser: argparse.ArgumentParser) -> None:
    """Let shells complete the names of files for options that are paths."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                complete_paths(child)
        elif (
            action.type in {Path, local_path, as_image_path}
            or str(action.metavar).startswith(PATHS)
            or action.dest == "output"
        ):
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # what shtab reads


def add_prior_option(parser: argparse.ArgumentParser) -> None:
    """Declare --prior."""
    parser.add_argument(
        "--prior",
        type=class_prior,
        metavar="CLASS=SHARE,…",
        help="share of classes among these images, such as E=0.1, which the probabilities are corrected for (default: "
        "ASTRODETECT_PRIOR, or the class balance that the model was calibrated at)",
    )


def add_reading_options(parser: argparse.ArgumentParser, crop: str) -> None:
    """Declare --crop, with this help, and --planes: how images are read without a model."""
    parser.add_argument("--crop", type=float_between(MIN_CROP, 1.0), help=crop)
    add_planes_option(parser)


def add_planes_option(parser: argparse.ArgumentParser) -> None:
    """Declare --planes."""
    parser.add_argument(
        "--planes",
        type=plane_numbers,
        default=ImageContract.RGB,
        metavar="R,G,B",
        help="planes of FITS cubes for red, green and blue, or one for grey, from 0 (default: RGB, of three 2,1,0)",
    )


def add_ray_option(parser: argparse.ArgumentParser) -> None:
    """Declare --ray."""
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="compute on a Ray cluster: auto (the one that runs here), HOST:PORT, ray://HOST:PORT, or local",
    )


def add_figure_options(group: "argparse._ActionsContainer", figures: str) -> None:
    """Declare --figures and --figure-format."""
    group.add_argument("--figures", type=local_path, metavar="DIR", help=f"write figures for a paper here: {figures}")
    group.add_argument(
        "--figure-format", choices=("png", "svg", "pdf"), default="png", help="format of the figures (default: png)"
    )


def check_figures(arguments: argparse.Namespace) -> None:
    """Wrong usage, if a format of figures is given, and no folder for them."""
    if not arguments.figures:
        refuse_unused(arguments, "figure_format", "without --figures")


def by_class(arguments: argparse.Namespace, option: str) -> dict[str, int]:
    """The numbers that an option gives by class; wrong usage, if it gives a class two, of which one has no effect."""
    pairs: list[tuple[str, int]] = getattr(arguments, option) or []
    numbers = dict(pairs)
    if len(numbers) < len(pairs):
        arguments.parser.error(f"--{option} is given twice for one class")
    return numbers


def add_samp_option(parser: argparse.ArgumentParser) -> None:
    """Declare --samp."""
    parser.add_argument(
        "--samp", action="store_true", help="send the VOTable that is written to TOPCAT, Aladin and others, by SAMP"
    )


def check_samp(arguments: argparse.Namespace, table: str, remedy: str) -> None:
    """DataError if there will be no VOTable to send."""
    if arguments.samp and (is_url(table) or not table.lower().endswith(".vot")):
        raise DataError(f"--samp sends a VOTable on this machine: {remedy}")


def send_by_samp(table: Path) -> None:
    """Send a VOTable; what prevents it is a notice, since the table is written."""
    from astrodetect.sky.samp import send_votable  # noqa: PLC0415 - not needed by the other commands

    try:
        print(f"sent to {', '.join(send_votable(table, table.stem))}")
    except DataError as error:
        print_notice(f"not sent: {error}")


def local_path(text: str) -> Path:
    """Option type: a path of a file or folder on this machine."""
    if is_url(text):
        raise argparse.ArgumentTypeError(f"a local path, not the URL {text}: copy it there afterwards, or from there")
    return Path(as_image_path(text))


def check_not_input(output: Path | str, inputs: Iterable[Path | str]) -> None:
    """DataError where the output would take the place of a file that is read."""
    for path in map(Path, inputs):
        with suppress(OSError):  # one of them is missing, or is a URL or the name of an image in a shard, of any length
            if path.samefile(output):
                raise DataError(f"{output} is read itself: choose another --output")


def check_writable_folder(folder: Path) -> None:
    """DataError where results cannot be written to this folder, which may not exist yet: before the work is done."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise DataError(f"cannot write to {folder}: {place} is {'read-only' if place.is_dir() else 'no folder'}")


def int_between(low: int, high: int) -> Callable[[str], int]:
    """Option type: an integer within bounds."""

    def integer(text: str) -> int:
        if not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"from {low} to {high}, not {text}")
        return int(text)

    return integer


def int_at_least(low: int) -> Callable[[str], int]:
    """Option type: an integer with a lower bound."""

    def integer(text: str) -> int:
        if int(text) < low:
            raise argparse.ArgumentTypeError(f"at least {low}, not {text}")
        return int(text)

    return integer


def float_between(low: float, high: float) -> Callable[[str], float]:
    """Option type: a number within bounds."""

    def number(text: str) -> float:
        if not low <= float(text) <= high:
            raise argparse.ArgumentTypeError(f"between {low:g} and {high:g}, not {text}")
        return float(text)

    return number


def plane_numbers(text: str) -> str:
    """Option type: the planes of a FITS cube, as the bands of an image contract."""
    try:
        return ImageContract(bands=text).bands
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def class_prior(text: str) -> dict[str, float]:
    """Option type: CLASS=SHARE, separated by commas."""
    try:
        return parse_prior(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def model_name(text: str) -> str:
    """Option type: the name of a trained model."""
    if not re.fullmatch(r"[\w.-]+", text):
        raise argparse.ArgumentTypeError(f"the name of a model in {settings().models_dir}, not {text}")
    return text


def class_name(text: str) -> str:
    """Option type: the name of a class folder."""
    if not text.strip(".") or Path(text).name != text:
        raise argparse.ArgumentTypeError(f"the name of a class folder, not {text!r}")
    return text


def class_count(text: str) -> tuple[str, int]:
    """Option type: CLASS=N."""
    name, _, digits = text.rpartition("=")
    if not name or not digits.isdecimal():
        raise argparse.ArgumentTypeError(f"CLASS=N such as merger=5, not {text}")
    return name, int(digits)
