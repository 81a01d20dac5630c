"""`/review`: a page with all cases of the team."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from monailabel.config import settings
from starlette.responses import Response

from medsam2_atlas.base.urls import is_url
from server.access import role_for, user_of
from server.headers import html_page

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
