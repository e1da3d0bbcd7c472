"""Unquoting the values of cookies in linear time, as Python does from 3.11.10 and 3.12.6 on.

Earlier ones take time by the square of the length, seconds for 60 kB: superfluous once they are not supported.
"""

import re
from http import cookies

ESCAPE = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))")


def patch_http_cookies() -> None:
    """Replaces the function of `http.cookies` that Starlette calls for every request with a cookie."""
    vars(cookies)["_unquote"] = unquote


def unquote(value: str) -> str:
    """The value without its quotes, and with the characters that its escapes stand for."""
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    return ESCAPE.sub(lambda escape: chr(int(escape[1], 8)) if escape[1] else escape[2], value[1:-1])
