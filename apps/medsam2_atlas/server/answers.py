"""JSON answers for any stored value: NaN and infinity become null, so that no unusual value makes a route fail."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from medsam2_atlas.base.json_text import to_json


class JsonAnswer(JSONResponse):
    """A JSON answer; see `json_text`."""

    def render(self, content: Any) -> bytes:
        """Returns the body of the answer."""
        return to_json(content).encode()
