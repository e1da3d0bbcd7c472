"""How pages are made: the templates, and how what comes from outside is written on them."""

import datetime as dt
import unicodedata
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse

from astrodetect import __version__
from astrodetect.reports.html import template_environment
from astrodetect.service.web import static_files

TEMPLATES = Path(__file__).parent / "templates"
LONGEST_NAME = 120  # characters of an image's name on a page that lists many; its own page has all of it
INVISIBLE = {
    "Cc",
    "Cf",
    "Cs",
    "Co",
    "Cn",
    "Zl",
    "Zp",
}  # categories of characters that would change the page around them

TEMPLATE = template_environment(TEMPLATES)


def render(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A page, or a part of one, with these values."""
    around = {**_around(request), "status": status}
    said = TEMPLATE.get_template(template).render(**around, **values)
    return HTMLResponse(said, status, {"Vary": "HX-Request"})  # or going back shows a part for a page


def wants_part(request: Request) -> bool:
    """Whether htmx asks, which puts the answer into a page that is there already; going back it wants all of it."""
    headers = request.headers
    return headers.get("hx-request") == "true" and headers.get("hx-history-restore-request") != "true"


def error_page(request: Request, status: int, code: str, message: str) -> HTMLResponse:
    """What went wrong, as a page."""
    return render(request, "problem.html", status=status, code=code, message=message)


def accepts_html(request: Request) -> bool:
    """Whether a person waits for the answer, in a browser that will show it as it comes."""
    return "text/html" in request.headers.get("accept", "")


def plain(text: str) -> str:
    """The text with everything that cannot be seen, or would turn what stands beside it, written out."""
    return "".join(f"⟨U+{ord(char):04X}⟩" if unicodedata.category(char) in INVISIBLE else char for char in text)


def short(name: str, most: int = LONGEST_NAME) -> str:
    """An image's name, whatever it holds, shortened in the middle where it is long: its ending often tells it apart."""
    if len(name) > most:
        name = f"{name[: most - most // 3 - 1]}…{name[-(most // 3) :]}"
    return plain(name)


def when(moment: dt.datetime) -> str:
    """In UTC, to the second, as astronomers write it."""
    return f"{moment.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}"


def share(value: float) -> str:
    """A probability as a percentage that is never rounded to a certainty."""
    if 0 < value < 0.001:
        return "< 0.1 %"
    if 0.999 < value < 1:
        return "> 99.9 %"
    return f"{100 * value:.1f} %"


def _around(request: Request) -> dict[str, Any]:
    return {
        "path": request.url.path,
        "again": request.url.replace(scheme="", netloc="") if request.method == "GET" else None,
        "version": __version__,
        "keyed": bool(request.app.state.keys),
    }


TEMPLATE.globals |= {"static": static_files.PLACE, "mark": static_files.FILES["icon.svg"].decode()}
TEMPLATE.filters |= {"plain": plain, "short": short, "when": when, "share": share}
