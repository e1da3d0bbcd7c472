"""Rendering of the web pages: templates, text filters, and the static files that pages load."""

import datetime as dt
import hashlib
import unicodedata
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from astrodetect import __version__
from astrodetect.errors import NotFound
from astrodetect.reports.html import template_environment
from astrodetect.reports.sky_map import format_angle
from astrodetect.service.authentication import identity_of
from astrodetect.service.database_route import DatabaseRoute
from astrodetect.service.middleware.security import CONTENT_SECURITY_POLICY
from astrodetect.service.services import services_of

TEMPLATES = Path(__file__).parent / "templates"
MAX_NAME_LENGTH = 120  # characters of an image's name in lists; its own page shows all of it
MAX_MODEL_LENGTH = 60
INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # Unicode categories that can change the text around them
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}  # whatever the system maps
STATIC_FILES = {
    path.name: path.read_bytes()
    for path in sorted((Path(__file__).parent / "static").iterdir())
    if path.suffix in MEDIA_TYPES
}
STATIC_URL = f"/static/{hashlib.sha256(b''.join(STATIC_FILES.values())).hexdigest()[:12]}"  # changes with any file
IMMUTABLE = "public, max-age=31536000, immutable"
WITH_LABELS = {"history.html", "prediction.html", "review.html", "review_grid.html"}  # "back" shows those of now

TEMPLATE = template_environment(TEMPLATES)
router = APIRouter(route_class=DatabaseRoute, include_in_schema=False)


@router.get("/static/{version}/{name}")
async def send_static_file(version: str, name: str) -> Response:
    """A static file; under the hash of another release it is the current file, and not cached."""
    if name not in STATIC_FILES:
        raise NotFound("there is no such file")
    cache_control = IMMUTABLE if STATIC_URL.endswith(f"/{version}") else "no-cache"
    headers = {"Cache-Control": cache_control}
    return Response(STATIC_FILES[name], media_type=MEDIA_TYPES[Path(name).suffix], headers=headers)


def render(
    request: Request, template: str, *, status: int = 200, policy: str = CONTENT_SECURITY_POLICY, **values: Any
) -> HTMLResponse:
    """A page, or a fragment of one, from its template; `policy` is for what it loads besides the usual."""
    text = TEMPLATE.get_template(template).render(**_page_values(request), status=status, **values)
    vary = "HX-Request"  # else "back" shows a cached fragment as the page
    response = HTMLResponse(text, status, {"Vary": vary, "Content-Security-Policy": policy})
    if template in WITH_LABELS:
        response.headers["Cache-Control"] = "no-store"
    return response


def wants_fragment(request: Request) -> bool:
    """Whether htmx asks for a part of the page; to restore its history it asks for the whole page."""
    headers = request.headers
    return headers.get("hx-request") == "true" and headers.get("hx-history-restore-request") != "true"


def error_page(request: Request, status: int, code: str, message: str) -> HTMLResponse:
    """The page of an error."""
    return render(request, "problem.html", status=status, code=code, message=message)


def escape_invisible(text: str) -> str:
    """Replaces control, format and unassigned characters by their code points."""
    return "".join(f"⟨U+{ord(char):04X}⟩" if unicodedata.category(char) in INVISIBLE else char for char in text)


def shorten(name: str, length: int = MAX_NAME_LENGTH) -> str:
    """An image's name with invisible characters escaped; a long one is cut in the middle: its end often differs."""
    if len(name) > length:
        name = f"{name[: length - length // 3 - 1]}…{name[-(length // 3) :]}"
    return escape_invisible(name)


def format_time(moment: dt.datetime) -> str:
    """UTC, to the second."""
    return f"{moment.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}"


def format_share(value: float) -> str:
    """A fraction as a percentage; only exact 0 and 1 become 0 % and 100 %."""
    if 0 < value < 0.001:
        return "< 0.1 %"
    if 0.999 < value < 1:
        return "> 99.9 %"
    return f"{100 * value:.1f} %"


def format_clock(seconds: float) -> str:
    """A time in seconds since 1970 as UTC, to the second."""
    return format_time(dt.datetime.fromtimestamp(seconds, dt.UTC))


def format_duration(seconds: float) -> str:
    """A duration to the second, such as "2 min 5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s" if seconds >= 1 else f"{seconds:.1f} s"


def _page_values(request: Request) -> dict[str, Any]:
    """What `base.html` needs."""
    services = services_of(request)
    return {
        "path": request.url.path,
        "retry_url": request.url.replace(scheme="", netloc="") if request.method == "GET" else None,
        "version": __version__,
        "has_keys": bool(services.api_keys),
        "private": services.api_keys.private,
        "readable": not services.api_keys.private or identity_of(request.scope) is not None,
        "model_warnings": [
            f"Model {shorten(name, MAX_MODEL_LENGTH)}: {warning}"
            for name, model in services.models.loaded.items()
            for warning in model.manifest.warnings
        ],
    }


TEMPLATE.globals |= {"static": STATIC_URL, "logo": STATIC_FILES["icon.svg"].decode()}
TEMPLATE.filters |= {"plain": escape_invisible, "short": shorten, "time": format_time, "share": format_share}
TEMPLATE.filters |= {"clock": format_clock, "duration": format_duration, "angle": format_angle}
