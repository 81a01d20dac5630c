"""The pages of an annotation team: `/` (worklist), `/figures` and `/compare`, and the files that they load (`/page/FILE`).

`page/frame.html` is the frame of all pages; `page/NAME.html` contains the main part of one.

The pages contain no data. Their scripts load it, and set every name from outside as text. A page may run only this server's own
files: no script in the page, no style attribute, no other host.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from string import Template
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, RedirectResponse
from starlette.responses import Response

from medsam2_atlas.base.errors import NotFoundError
from medsam2_atlas.imaging.labels import organ_table
from server.attendance import page_open
from server.headers import CACHED, asset_page

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent / "page"
_PAGES = {
    "worklist": ("Worklist", "list", "cases"),
    "figures": ("Figures", "figures", "figures"),
    "compare": ("Compare", "compare", "comparison"),
}
"""Title of each page, and id and name of its main part."""
_HERE = ' aria-current="page"'
_STYLE = '  <link rel="stylesheet" href="page/figures.css">\n'
_KEYS = '<button id="keys" type="button" class="link">Keyboard shortcuts</button> · '
_KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


@router.get("/", dependencies=[Depends(page_open)])
async def worklist_page() -> Response:
    """Returns the worklist."""
    return _page("worklist")


@router.get("/review")
async def old_address(request: Request) -> Response:
    """Redirects bookmarks of earlier versions to the worklist."""
    query = request.url.query
    return RedirectResponse(f"./?{query}" if query else "./", 308)  # relative: a proxy may serve the app below a path


@router.get("/figures")
async def figures_page() -> Response:
    """Returns the page with the figures of the team."""
    return _page("figures")


@router.get("/compare")
async def compare_page() -> Response:
    """Returns the page that compares two label maps of a case."""
    return _page("compare")


@router.get("/page/{file}")
async def page_file(file: Annotated[str, PathParameter(pattern=r"^[a-z_]{1,40}\.(js|css|svg)$")]) -> Response:
    """Returns a script, style sheet or picture of the pages; `organs.js` is made from the organ table.

    Raises:
        NotFoundError: there is no such file.
    """
    headers = {"Cache-Control": CACHED[1]}
    if file == "organs.js":
        return Response(_organ_names(), media_type=_KINDS[".js"], headers=headers)
    found = _FOLDER / file
    if not found.is_file():
        raise NotFoundError(file, "is no file of the pages.", "Reload the page.")
    return FileResponse(found, media_type=_KINDS[found.suffix], headers=headers)


def _organ_names() -> str:
    """Returns a script with the names of the organs for people, as in the middle of a sentence."""
    names = {organ.name: organ.display[0].lower() + organ.display[1:] for organ in organ_table().organs}
    return f"export const ORGANS = {json.dumps(names)};\n"


@cache
def _html(name: str) -> str:
    """Returns a page: the frame of all pages around the page's own part."""
    title, first, content = _PAGES[name]
    return Template((_FOLDER / "frame.html").read_text(encoding="utf-8")).substitute(
        title=title,
        style=_STYLE if name != "worklist" else "",
        name=name,
        first=first,
        content=content,
        main=(_FOLDER / f"{name}.html").read_text(encoding="utf-8"),
        on_worklist=_HERE if name == "worklist" else "",
        on_figures=_HERE if name == "figures" else "",
        keys=_KEYS if name == "worklist" else "",
    )


def _page(name: str) -> Response:
    return asset_page(_html(name))
