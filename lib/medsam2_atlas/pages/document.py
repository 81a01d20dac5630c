"""A self-contained HTML document: style and script are inside the file, and its policy forbids every request."""

from __future__ import annotations

import base64
import hashlib
import html

from medsam2_atlas.base.printable import printable
from medsam2_atlas.pages.sorting import SCRIPT
from medsam2_atlas.pages.style import STYLE

_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"<?xml": "image/svg+xml"}


def text(value: object) -> str:
    r"""Returns a text for HTML, as content or as an attribute in quotes; invisible characters become escapes.

    >>> text("<b>\u202e")
    '&lt;b&gt;\\u202e'
    """
    return html.escape(printable(str(value)))


def embedded(content: bytes) -> str:
    """Returns a picture as a `data:` URL.

    Args:
        content: a PNG, JPEG or SVG file.

    Raises:
        ValueError: if the content is none of them.
    """
    kind = next((kind for start, kind in _TYPES.items() if content.startswith(start)), None)
    if kind is None:
        raise ValueError("not a PNG, JPEG or SVG file")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def document(title: str, body: str) -> str:
    """Returns an HTML document with the common style and sortable tables (`<table class="sortable">`).

    The content security policy allows only this style, this script, and pictures in `data:` URLs. Therefore, the body must not
    contain `style` attributes, and a text that was escaped incorrectly still cannot run code or send a request.

    Args:
        title: title of the document, not escaped.
        body: content of `<body>`, as HTML.
    """
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_source(STYLE)}'",
            f"script-src '{_source(SCRIPT)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{body}
<script>{SCRIPT}</script>
</body>
</html>
"""


def _source(content: str) -> str:
    """Returns the hash of an inline style or script, as a policy contains it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
