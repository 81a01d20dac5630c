"""`/ohif/`: the OHIF viewer with this server's configuration.

OHIF was built for a fixed path of a host (`viewer_files`). This module changes the files while it sends them, so that they work
below any path: links of the page become relative, and each script loads other scripts from its own folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, RedirectResponse, StreamingResponse
from monailabel.utils.others.generic import get_mime_type
from starlette.responses import Response

from server.attendance import viewer_loads
from server.headers import CACHED, script_hashes
from server.root_path import relative_root_of
from server.viewer_files import MODES, MONAI_LABEL, ViewerFiles, served_viewer

router = APIRouter(prefix="/ohif", tags=["OHIF"])

_BLOCK = 1 << 20
_CONFIGURATION, _COMMON = "app-config.js", Path(__file__).parent / "viewer-config.js"
"""The configuration of a viewer, and the part of it that both viewers have in common."""
_OTHER_HOSTS = re.compile(r'<link [^>]*href="https?://[^>]*>')
"""Links to fonts on another host, which would learn who views which study. Without them, the viewer uses the system's fonts."""
_OTHER_FONTS = re.compile(rb"@import url\(https?:[^)]*\);")
_ROOT_URL = re.compile(rb"""(url\(["']?)/(?!/)""")
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval' {scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' blob: data:; font-src 'self' data:; connect-src 'self' blob: data:; worker-src 'self' blob:; "
    "manifest-src 'self'; base-uri 'none'; object-src 'none'; form-action 'none'"
)
"""The policy that OHIF needs. `unsafe-eval`: its array library (ndarray) and its decoders (embind) compile functions from text;
without it, no segmentation can be loaded. Workers run from blobs; scripts write styles and show pictures from memory.
Workers obey the policy of their own file, so all files of the viewer have this policy."""
_SCRIPTS_FOLDER = b'new URL(".", self.document ? document.currentScript.src : self.location).href'
"""JavaScript for the folder of the running script. Workers have no document and use the folder of the worker's script."""


async def _loading(request: Request, path: str) -> None:
    """Notes that a viewer is loading, if the file is its page."""
    if path in MODES:
        await viewer_loads(request)


@router.get("/{path:path}", include_in_schema=False, dependencies=[Depends(_loading)])
def ohif_file(request: Request, path: str) -> Response:
    """Returns a file of the viewer, or its page for any other path, because the viewer handles its routes itself."""
    viewer = served_viewer()
    if path in MODES:
        query = _query(request, viewer)
        if path != viewer.mode or query != request.url.query:
            return RedirectResponse(f"{viewer.mode}?{query}")  # relative: a proxy may serve the app below a path
    if path == _CONFIGURATION:
        return _configuration(viewer)
    for folder in (viewer.own, viewer.built):
        file = _file_in(folder, path)
        if file is not None and file != viewer.built / "index.html":
            return _file(viewer, file, folder == viewer.built)
    page = _page(viewer, relative_root_of(request.scope))  # browsers must not store it: its address contains a study's UID
    return Response(page, media_type="text/html", headers={"Content-Security-Policy": _policy(page)})


def _query(request: Request, viewer: ViewerFiles) -> str:
    """Returns the query for a viewer. MONAI Label's gets no name of a series: it would leave out the series of label maps."""
    given = request.query_params.multi_items()
    kept = [(name, value) for name, value in given if viewer.mode != MONAI_LABEL or name != "SeriesInstanceUIDs"]
    return request.url.query if len(kept) == len(given) else urlencode(kept)


def _configuration(viewer: ViewerFiles) -> Response:
    """Returns the configuration of a viewer after the part that both viewers have in common."""
    parts = (file.read_text(encoding="utf-8") for file in (_COMMON, viewer.own / _CONFIGURATION))
    headers = {"Cache-Control": CACHED[1], "Content-Security-Policy": _policy("")}
    return Response("".join(parts), media_type="text/javascript", headers=headers)


def _file(viewer: ViewerFiles, file: Path, built: bool) -> Response:
    """Returns a file. `built`: whether it belongs to the built viewer."""
    # Names of the bundles change with their content; names of the configuration files do not.
    headers = {"Cache-Control": CACHED[0] if built else CACHED[1], "Content-Security-Policy": _policy("")}
    kind = get_mime_type(str(file))
    if built and file.suffix == ".css":
        return Response(_style(file), media_type=kind, headers=headers)
    position = _position(file, viewer.built_for) if built and file.suffix == ".js" else -1
    if position < 0:
        return FileResponse(file, media_type=kind, headers=headers)
    written = viewer.before + _SCRIPTS_FOLDER + viewer.after
    headers["Content-Length"] = str(file.stat().st_size - len(viewer.built_for) + len(written))
    changed = _changed(file, position, len(viewer.built_for), written)
    return StreamingResponse(changed, media_type=kind, headers=headers)


def _file_in(folder: Path, path: str) -> Path | None:
    """Returns the file at a path in a folder; None if it does not exist or is outside the folder."""
    try:
        file = (folder / path).resolve()
        return file if file.is_relative_to(folder) and file.is_file() else None
    except (OSError, ValueError):  # a name that is too long, or one with a zero byte
        return None


def _page(viewer: ViewerFiles, up: str) -> str:
    """Returns the viewer's page. `up`: the server's address relative to the request's address."""
    return _OTHER_HOSTS.sub("", viewer.page(up))


def _policy(page: str) -> str:
    """Returns the policy of a file of the viewer. `page`: the page, whose scripts are allowed; empty for other files."""
    return _POLICY.format(scripts=script_hashes(page) if page else "")


@cache
def _style(file: Path) -> bytes:
    """Returns a style sheet with its own files next to it, and without fonts from other hosts. The largest has 0.2 MB."""
    return _ROOT_URL.sub(rb"\1", _OTHER_FONTS.sub(b"", file.read_bytes()))


@cache
def _position(file: Path, built_for: bytes) -> int:
    """Returns the byte position of the built-in path in a script; -1 if the script does not contain it."""
    return file.read_bytes().find(built_for)


def _changed(file: Path, position: int, length: int, written: bytes) -> Iterator[bytes]:
    """Yields a script with other bytes at a position. The largest script has 17 MB.

    Args:
        file: the script.
        position: byte position of the replaced bytes.
        length: number of replaced bytes.
        written: the new bytes.
    """
    with file.open("rb") as stream:
        while position > stream.tell():
            yield stream.read(min(_BLOCK, position - stream.tell()))
        yield written
        stream.seek(length, os.SEEK_CUR)
        while block := stream.read(_BLOCK):
            yield block
