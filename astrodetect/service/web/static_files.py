"""The files that pages are made with, at addresses that tell what is in them: a browser asks for each of them once."""

import hashlib
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from astrodetect.errors import NotFound

TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}  # whatever the system calls them
FILES = {
    path.name: path.read_bytes()
    for path in sorted((Path(__file__).parent / "static").iterdir())
    if path.suffix in TYPES
}
PLACE = f"/static/{hashlib.sha256(b''.join(FILES.values())).hexdigest()[:12]}"  # where these are, and no others ever
KEPT = "public, max-age=31536000, immutable"
router = APIRouter(include_in_schema=False)


@router.get("/static/{version}/{name}")
async def file(version: str, name: str) -> Response:
    """One of them; a page of an earlier service gets it as it is now, and asks again next time."""
    if name not in FILES:
        raise NotFound("there is no such file")
    kept = KEPT if PLACE.endswith(f"/{version}") else "no-cache"
    return Response(FILES[name], media_type=TYPES[Path(name).suffix], headers={"Cache-Control": kept})
