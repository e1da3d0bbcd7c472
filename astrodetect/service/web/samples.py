"""Images to try for who has none at hand: a few of the simulated sample, where it was made."""

from heapq import nsmallest
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import FileResponse

from astrodetect.errors import NotFound

OF_A_CLASS, CLASSES = 3, 2
router = APIRouter(include_in_schema=False)


def named(data_dir: Path) -> dict[str, Path]:
    """Their names, as the log will have them, and where they are; empty where there is no sample."""
    test = data_dir / "sample" / "test"
    every = {}
    for folder in nsmallest(CLASSES, (path for path in test.glob("*") if path.is_dir())):
        for path in nsmallest(OF_A_CLASS, folder.glob("*.jpg")):
            every[f"{folder.name}/{path.name}"] = path
    return every


def found(data_dir: Path, name: str) -> Path:
    """The one of this name, or NotFound: no name leads elsewhere."""
    path = named(data_dir).get(name)
    if path is None:
        raise NotFound("there is no such sample image")
    return path


@router.get("/samples/{name:path}")
def picture(request: Request, name: str) -> FileResponse:
    """Its bytes."""
    return FileResponse(found(request.app.state.settings.data_dir, name), media_type="image/jpeg")
