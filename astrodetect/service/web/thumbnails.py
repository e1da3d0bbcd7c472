"""The small pictures that pages show, by the sums of their images."""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from astrodetect.errors import NotFound

KEPT_BY_BROWSERS_S = 86_400
router = APIRouter(include_in_schema=False)


@router.get("/pictures/{image_sha256}")
def picture(request: Request, image_sha256: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]) -> Response:
    """A JPEG that never changes, or NotFound; whoever may read the log may see it."""
    headers = {
        "Cache-Control": f"private, max-age={KEPT_BY_BROWSERS_S}, immutable",
        "ETag": f'"{image_sha256}"',
    }
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    found = request.app.state.album.picture(image_sha256)
    if found is None:
        raise NotFound("there is no picture of this image: it was never kept, or has gone")
    return Response(found.jpeg, media_type="image/jpeg", headers=headers)
