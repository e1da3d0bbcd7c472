"""Quoted values of cookies, in linear time: Python before 3.11.10 and 3.12.6 takes seconds to decode 60 kB of them."""

import re
from http import cookies

ESCAPE = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))")


def decode_in_linear_time() -> None:
    """Has Starlette decode cookies by this, for every request: it uses Python's function."""
    vars(cookies)["_unquote"] = unquote


def unquote(value: str) -> str:
    """As Python does since then."""
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    return ESCAPE.sub(lambda escape: chr(int(escape[1], 8)) if escape[1] else escape[2], value[1:-1])
