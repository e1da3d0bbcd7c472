"""Writes the generated parts of docs/: `python docs/generate_reference.py`. `--check` says which are out of date.

A page contains `<!-- generated: NAME -->` … `<!-- end -->`; what stands between is made from the code.
"""

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"(<!-- generated: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
DECISION = re.compile(r"^## (.+)\n\n\*(\d{4}-\d{2}-\d{2})\*$", re.MULTILINE)
METHODS = ("get", "post", "put", "patch", "delete")


class _Captured(Exception):
    """Carries the parser of a program out of its `main`."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def parser_of(main: Callable[[], object]) -> argparse.ArgumentParser:
    """The argument parser that a program builds: `main` is stopped where it would parse."""

    def capture(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Captured(parser)

    kind = argparse.ArgumentParser
    try:
        with patch.object(kind, "parse_args", capture), patch.object(kind, "parse_known_args", capture):
            main()
    except _Captured as captured:
        return captured.parser
    raise RuntimeError("the program parses no arguments")


def programs() -> dict[str, argparse.ArgumentParser]:
    """Every program and subcommand, by what one types."""
    import run  # noqa: PLC0415 - these are slow to import
    import setup_db  # noqa: PLC0415
    import train_model  # noqa: PLC0415
    from astrodetect import __main__ as package  # noqa: PLC0415

    top = {
        "python3 run.py": parser_of(run.main),
        "python train_model.py": parser_of(lambda: train_model.main([])),
        "python setup_db.py": parser_of(lambda: setup_db.main([])),
    }
    return top | dict(_subcommands("python -m astrodetect", parser_of(lambda: package.main([]))))


def _subcommands(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """A parser's leaves: subcommands without subcommands of their own."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield name, parser
    for action in nested:
        for word, child in action.choices.items():
            yield from _subcommands(f"{name} {word}", child)


def commands() -> str:
    """One section for each program, with a table of its options."""
    return "\n\n".join(_command(name, parser) for name, parser in programs().items())


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    if name == "python -m astrodetect train":
        return f"## `{name}`\n\nThe same as `python train_model.py`, with the same options."
    description = (parser.description or "").strip().partition("\n")[0].rstrip(".")
    lines = [f"## `{name}`", "", *wrapped(f"{description[:1].upper()}{description[1:]}.")]
    lines += ["", "| option | meaning |", "| --- | --- |"]
    lines += [
        f"| {_spelling(action)} | {cell(_option_help(parser, action))} |"
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction)
    ]
    if lines[-1] == "| --- | --- |":
        lines[-2:] = ["It has no options but `--help`."]
    return "\n".join(lines)


def _spelling(action: argparse.Action) -> str:
    argument = action.metavar if isinstance(action.metavar, str) else None
    if argument is None and action.choices is not None:
        argument = "|".join(map(str, action.choices))
    if argument is None and action.nargs != 0 and action.option_strings:
        argument = action.dest.upper()
    words = [*action.option_strings] or [argument or action.dest]
    if action.option_strings and argument and action.nargs != 0:
        words = [f"{word} {argument}" for word in words]
    return ", ".join(f"`{word.replace('|', chr(92) + '|')}`" for word in words)


def _option_help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    values = {**vars(action), "prog": parser.prog}
    return (action.help or "") % values if action.help else ""


def settings_table() -> str:
    """Name, default and meaning of every setting."""
    from astrodetect.settings import Settings  # noqa: PLC0415

    lines, defaults = ["| name | default | meaning |", "| --- | --- | --- |"], Settings.model_construct()
    for name, field in Settings.model_fields.items():
        variable = str(field.validation_alias or f"astrodetect_{name}".upper())
        lines.append(f"| `{variable}` | {_default(getattr(defaults, name))} | {cell(field.description or '')} |")
    return "\n".join(lines)


def _default(value: object) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, Path):
        return f"`{value.relative_to(ROOT)}`"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:,g}" if isinstance(value, float) else f"{value:,}"
    return f"`{value}`"


def openapi() -> dict[str, Any]:
    """The OpenAPI document of the service with default settings."""
    from astrodetect.settings import Settings  # noqa: PLC0415
    from main import create_app  # noqa: PLC0415

    return create_app(Settings(_env_file=None)).openapi()


def routes() -> str:
    """One section for each route: purpose, parameters, statuses."""
    parts = []
    for path, methods in openapi()["paths"].items():
        for method in (word for word in METHODS if word in methods):
            parts.append(_route(f"{method.upper()} {path}", methods[method]))
    return "\n\n".join(parts)


def _route(title: str, operation: dict[str, Any]) -> str:
    lines = [f"### `{title}`", "", *wrapped(operation.get("description", operation.get("summary", "")))]
    statuses = ", ".join(sorted(operation["responses"]))
    body = operation.get("requestBody", {}).get("content", {})
    lines += ["", f"Statuses: {statuses}." + (f" Body: {', '.join(f'`{kind}`' for kind in body)}." if body else "")]
    if parameters := operation.get("parameters"):
        lines += ["", "| parameter | in | type | meaning |", "| --- | --- | --- | --- |"]
        for parameter in parameters:
            schema = parameter.get("schema", {})
            meaning = cell(parameter.get("description") or schema.get("description") or "")
            lines.append(f"| `{parameter['name']}` | {parameter['in']} | {_type(schema)} | {meaning} |")
    return "\n".join(lines)


def _type(schema: dict[str, Any]) -> str:
    kinds = schema.get("anyOf", [schema])
    names = []
    for kind in kinds:
        if "enum" in kind:
            names.append(", ".join(f"`{value}`" for value in kind["enum"]))
        elif kind.get("type") != "null":
            names.append(kind.get("format") or kind.get("type") or kind.get("$ref", "").rpartition("/")[2])
    default = schema.get("default")
    return " or ".join(names) + (f" (default: {default})" if default is not None else "")


def errors() -> str:
    """Every error code with its status and meaning."""
    from astrodetect import errors as module  # noqa: PLC0415

    lines = ["| code | status | meaning |", "| --- | --- | --- |"]
    for kind in _subclasses(module.AstrodetectError):
        own = (kind.__dict__.get("__doc__") or "").strip().partition("\n")[0]
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).capitalize()
        lines.append(f"| `{kind.code}` | {kind.status} | {cell(own or words)} |")
    return "\n".join(dict.fromkeys(lines))


def _subclasses(kind: type[Any]) -> Iterator[type[Any]]:
    for child in kind.__subclasses__():
        if child.__module__ == kind.__module__:
            yield child
            yield from _subclasses(child)


def recipes() -> str:
    """Every recipe with its defaults."""
    from astrodetect.recipes import RECIPES  # noqa: PLC0415

    lines = [
        "| `--recipe` | network | `--size` | `--weights` | `--epochs` | `--patience` | `--learning-rate` |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for recipe in RECIPES.values():
        epochs = (recipe.epochs, recipe.patience, f"{recipe.learning_rate:g}")
        values = (recipe.size, recipe.weights, *(epochs if recipe.kind != "forest" else ("", "", "")))
        lines.append(f"| `{recipe.name}` | {recipe.description} | {' | '.join(map(str, values))} |")
    return "\n".join(lines)


def formats() -> str:
    """The formats that `images.py` reads."""
    from astrodetect.images import FILE_FORMATS  # noqa: PLC0415

    rows = [
        f"| {item.title} | {', '.join(f'`{suffix}`' for suffix in item.suffixes)} |" for item in FILE_FORMATS.values()
    ]
    return "\n".join(["| format | file names end in |", "| --- | --- |", *rows])


def packages() -> str:
    """Every package of `astrodetect`, and the others that it imports."""
    import grimp  # noqa: PLC0415 - of the development packages

    graph = grimp.build_graph("astrodetect", exclude_type_checking_imports=True)
    names = sorted(path.parent.name for path in (ROOT / "astrodetect").glob("*/__init__.py"))
    lines = ["| package | content | imports |", "| --- | --- | --- |"]
    for name in names:
        [content] = re.findall(r'^"""(.+?)(?:"""|$)', _source(name), re.MULTILINE)[:1]
        imported = [other for other in names if other != name and _imports(graph, name, other)]
        lines.append(f"| `{name}` | {cell(content.rstrip('.'))} | {', '.join(f'`{other}`' for other in imported)} |")
    return "\n".join(lines)


def _source(package: str) -> str:
    return (ROOT / "astrodetect" / package / "__init__.py").read_text(encoding="utf-8")


def _imports(graph: Any, package: str, other: str) -> bool:
    targets = _modules(graph, other)
    return any(graph.find_modules_directly_imported_by(module) & targets for module in _modules(graph, package))


def _modules(graph: Any, package: str) -> set[str]:
    name = f"astrodetect.{package}"
    return {name, *graph.find_descendants(name)}


def decisions() -> str:
    """Date, topic and title of every decision, newest first."""
    rows = []
    for page in sorted((DOCS / "decisions").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        topic = text.partition("\n")[0].removeprefix("# ")
        rows += [(date, topic, page.name, title) for title, date in DECISION.findall(text)]
    rows.sort(key=lambda row: row[0], reverse=True)
    lines = ["| date | topic | decision |", "| --- | --- | --- |"]
    lines += [f"| {date} | {topic} | [{cell(title)}]({page}#{anchor(title)}) |" for date, topic, page, title in rows]
    return "\n".join(lines)


def anchor(title: str) -> str:
    """The id that MkDocs gives to a heading."""
    from markdown.extensions import toc  # type: ignore[import-untyped]  # noqa: PLC0415 - of the development packages

    return str(toc.slugify(re.sub(r"[`*]", "", title), "-"))


def cell(text: str) -> str:
    """The text in one line, for a table."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def wrapped(text: str) -> Iterable[str]:
    """The lines of the paragraphs of a text."""
    import textwrap  # noqa: PLC0415

    for paragraph in inspect.cleandoc(text).split("\n\n"):
        yield from textwrap.wrap(cell(paragraph), 116, break_on_hyphens=False, break_long_words=False)


def python_api() -> str:
    """The names of the Python API."""
    from docs import python_reference  # noqa: PLC0415

    return python_reference.sections()


def promises() -> str:
    """What the service promises, and the tests that prove it."""
    from docs import promises  # noqa: PLC0415

    return promises.sections()


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "settings": settings_table,
    "routes": routes,
    "errors": errors,
    "recipes": recipes,
    "formats": formats,
    "packages": packages,
    "decisions": decisions,
    "python-api": python_api,
    "promises": promises,
}


@contextmanager
def _importable() -> Iterator[None]:
    """The programs at the top of the repository can be imported, wherever this is started."""
    sys.path.insert(0, str(ROOT))
    try:
        yield
    finally:
        sys.path.remove(str(ROOT))


def rendered(text: str) -> str:
    """A page with its generated parts as the code has them now."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{PARTS[block[2]]()}\n\n{block[4]}", text)


def outdated() -> dict[Path, str]:
    """The pages that differ from the code, and what they should contain."""
    pages = {page: page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md"))}
    with _importable():
        return {page: new for page, text in pages.items() if (new := rendered(text)) != text}


def main(argv: list[str] | None = None) -> int:
    """Writes the pages that are out of date; with --check it names them and returns 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a page is out of date")
    arguments = parser.parse_args(argv)
    pages = outdated()
    for page, text in pages.items():
        print(f"{'out of date' if arguments.check else 'written'}: {page.relative_to(ROOT)}")
        if not arguments.check:
            page.write_text(text, encoding="utf-8")
    return 1 if arguments.check and pages else 0


if __name__ == "__main__":
    sys.exit(main())
