"""`/review`: the cases of a team on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse
from monailabel.interfaces.utils.app import app_instance
from starlette.responses import Response

from server.headers import page as page_of

router = APIRouter(prefix="/review", tags=["Review"])

_PAGE = Path(__file__).parent / "review.html"


@router.get("", include_in_schema=False)
def page() -> Response:
    """The page, which asks for the cases itself."""
    return page_of(_PAGE.read_text(encoding="utf-8"))


@router.get("/cases", summary="State and measures of all cases")
def cases() -> list[dict[str, Any]]:
    """Those not signed off first, the most disputed of them first."""
    found: list[dict[str, Any]] = app_instance().cases()
    return found


@router.get("/picture", summary="A case with its final label map, or else a model's")
def picture(study: str) -> Response:
    """PNG."""
    return FileResponse(app_instance().picture(study), media_type="image/png")
