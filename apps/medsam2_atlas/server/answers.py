"""JSON answers that carry whatever is stored: NaN and infinity become null, so that no odd value makes a route fail."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from medsam2_atlas.base.json_text import to_json


class JsonAnswer(JSONResponse):
    """An answer as JSON; see `json_text`."""

    def render(self, content: Any) -> bytes:
        """Returns the body."""
        return to_json(content).encode()
