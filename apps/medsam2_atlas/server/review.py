"""`/review/cases` and `/review/picture`: all cases with their states and pictures, for scripts. The page is `/` (`pages`)."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse
from monailabel.interfaces.utils.app import app_instance
from starlette.responses import Response

from server.in_turn import in_turn

router = APIRouter(prefix="/review", tags=["Review"])

@router.get("/cases", summary="State and measures of all cases")
def cases() -> list[dict[str, Any]]:
    """Returns the cases. Cases that are not signed off come first, by descending disagreement."""
    found: list[dict[str, Any]] = app_instance().cases()
    return found


@router.get("/picture", summary="A picture of a case with its final label map, or else a model's")
async def picture(study: str) -> Response:
    """Returns a PNG file."""
    file = await in_turn(lambda: app_instance().picture(study))
    return FileResponse(file, media_type="image/png")
