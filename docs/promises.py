"""The table of promises, from promises.toml, whose tests have to exist."""

import re
import tomllib

from docs.generate_reference import DOCS, ROOT, cell


def sections() -> str:
    """One table for each section of promises; LookupError for a test that does not exist."""
    parts = []
    for title, promises in tomllib.loads((DOCS / "promises.toml").read_text(encoding="utf-8")).items():
        parts += [f"## {title}", "", "| | promise | tests |", "| --- | --- | --- |"]
        for number, (text, *tests) in promises.items():
            parts.append(f"| {number} | {cell(text)} | {'<br>'.join(map(_checked, tests))} |")
        parts.append("")
    return "\n".join(parts).strip()


def _checked(test: str) -> str:
    file, _, name = test.partition("::")
    if not re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE):
        raise LookupError(f"docs/promises.toml names a test that does not exist: {test}")
    return f"`{file}` {name.removeprefix('test_').replace('_', ' ')}"
