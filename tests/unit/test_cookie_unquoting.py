"""The values of cookies, which Python unquotes in time by the square of their length before 3.11.10 and 3.12.6."""

from http import cookies

from starlette.requests import cookie_parser

import main  # noqa: F401 - patches http.cookies
from astrodetect.service.cookie_unquoting import unquote


def test_starlette_unquotes_cookies_by_the_linear_function() -> None:
    assert vars(cookies)["_unquote"] is unquote
    assert cookie_parser(r'a="\"b\054\\c"; d=e; f="') == {"a": '"b,\\c', "d": "e", "f": '"'}
