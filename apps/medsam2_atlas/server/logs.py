"""`/logs`: the last lines of the server's log as plain text."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import PlainTextResponse
from monailabel.config import settings
from starlette.responses import Response

from medsam2_atlas.base.errors import NotFoundError

router = APIRouter(prefix="/logs", tags=["Others"])

_MAX_LINES = 100_000


@router.get("/", summary="The last lines of the log")
def show_log(lines: Annotated[int, Query(ge=1, le=_MAX_LINES)] = 300) -> Response:
    """Returns plain text. MONAI Label's own page loads scripts from other sites and fails for unusual characters."""
    file = Path(settings.MONAI_LABEL_APP_DIR) / "logs" / "app.log"
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            return PlainTextResponse("".join(deque(stream, lines)))
    except FileNotFoundError:
        raise NotFoundError("log", "has not been written yet.", "Try again later.") from None
