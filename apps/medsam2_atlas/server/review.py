"""`/review`: a page with all cases of the team."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance
from starlette.responses import Response

from medsam2_atlas.base.urls import is_url
from server.access import role_for, user_of
from server.headers import html_page
from server.in_turn import in_turn

router = APIRouter(prefix="/review", tags=["Review"])

_PAGE = Path(__file__).parent / "review.html"
_UPLOAD = '<section id="upload" hidden>'
"""Part of the page that it shows only to people who may add CTs."""


@router.get("", include_in_schema=False)
def page(request: Request) -> Response:
    """Returns the page. Its script loads the cases. Whoever may add CTs to a studies folder sees an area to drop them on."""
    text = _PAGE.read_text(encoding="utf-8")
    if not is_url(settings.MONAI_LABEL_STUDIES) and user_of(request).may(role_for("PUT", "/datastore/upload")):
        text = text.replace(_UPLOAD, _UPLOAD.replace(" hidden", ""))
    return html_page(text)


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
