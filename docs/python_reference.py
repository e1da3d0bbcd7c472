"""The reference of the Python API, from signatures, docstrings and the comments of dataclasses."""

import dataclasses
import inspect
import re
from typing import Any

import astrodetect
from docs.generate_reference import cell, wrapped

FIELD = re.compile(r"^    (\w+): (.+?)(?: = .*?)?(?:  # (.*))?$", re.MULTILINE)  # of a dataclass


def sections() -> str:
    """One section for each name of the package: its signature, its docstring and, of a class, its members."""
    return "\n\n".join(_api_section(name, getattr(astrodetect, name)) for name in astrodetect.__all__)


def _api_section(name: str, value: Any) -> str:
    lines = [f"## `{name}`", "", *_signature(value), *_docstring(value)]
    if inspect.isclass(value) and dataclasses.is_dataclass(value):
        classes = [part for part in reversed(value.__mro__) if dataclasses.is_dataclass(part)]
        fields = [  # with the comments
            field for part in classes for field in FIELD.findall(inspect.getsource(part).partition("\n    @")[0])
        ]
        rows = [f"| `{field}` | `{cell(kind)}` | {cell(comment)} |" for field, kind, comment in fields]
        lines += ["| field | type | meaning |", "| --- | --- | --- |", *rows, ""]
    for member, function in vars(value).items() if inspect.isclass(value) else ():
        if member.startswith("_") or not (isinstance(function, property) or inspect.isfunction(function)):
            continue
        title = member if isinstance(function, property) else f"{member}()"
        lines += [f"### `{name}.{title}`", "", *_signature(function), *_docstring(function)]
    return "\n".join(lines).strip()


def _docstring(value: Any) -> list[str]:
    paragraphs = (inspect.getdoc(value) or "").split("\n\n")
    return [line for paragraph in paragraphs for line in (*wrapped(paragraph), "")]


def _signature(value: Any) -> list[str]:
    """The signature as it stands in the source; none of classes, which are not called."""
    if not inspect.isfunction(value):
        return []
    source = inspect.cleandoc("\n" + inspect.getsource(value)).partition(':\n    """')[0]
    return ["```python", re.sub(r"\(self(, )?", "(", source.removeprefix("def ")), "```", ""]
