"""`/ohif/`: the OHIF viewer of MONAI Label with this server's configuration.

MONAI Label built OHIF for the path `/ohif/` of a host. This module changes the files while it sends them, so that they work
below any path: links of the page become relative, and each script loads other scripts from its own folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import monailabel.endpoints
from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, StreamingResponse
from monailabel.utils.others.generic import get_mime_type
from starlette.responses import Response

from server.headers import CACHED, script_hashes
from server.root_path import relative_root_of

router = APIRouter(prefix="/ohif", tags=["OHIF"])

_OHIF = (Path(monailabel.endpoints.__file__).parent / "static" / "ohif").resolve()
_OWN = (Path(__file__).parent / "ohif").resolve()
_BLOCK = 1 << 20
_BUILT_FOR = b'"/ohif/"'
_OTHER_HOSTS = re.compile(r'<link [^>]*href="https?://[^>]*>')
"""Links to fonts on another host, which would learn who views which study. Without them, the viewer uses the system's fonts."""
_OTHER_FONTS = re.compile(rb"@import url\(https?:[^)]*\);")
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


@router.get("/{path:path}", include_in_schema=False)
def ohif_file(request: Request, path: str) -> Response:
    """Returns a file of the viewer, or its page for any other path, because the viewer handles its routes itself."""
    for folder in (_OWN, _OHIF):
        file = _file_in(folder, path)
        if file is not None and file != _OHIF / "index.html":
            # Names of the bundles change with their content; names of the configuration files do not.
            headers = {"Cache-Control": CACHED[0] if folder == _OHIF else CACHED[1], "Content-Security-Policy": _policy("")}
            kind = get_mime_type(str(file))
            if folder == _OHIF and file.suffix == ".css":
                return Response(_style(file), media_type=kind, headers=headers)
            position = _position(file) if folder == _OHIF and file.suffix == ".js" else -1
            if position >= 0:
                headers["Content-Length"] = str(file.stat().st_size - len(_BUILT_FOR) + len(_SCRIPTS_FOLDER))
                return StreamingResponse(_changed(file, position), media_type=kind, headers=headers)
            return FileResponse(file, media_type=kind, headers=headers)
    page = _page(relative_root_of(request.scope))  # browsers must not store it: its address contains a study's UID
    return Response(page, media_type="text/html", headers={"Content-Security-Policy": _policy(page)})


def _file_in(folder: Path, path: str) -> Path | None:
    """Returns the file at a path in a folder; None if it does not exist or is outside the folder."""
    try:
        file = (folder / path).resolve()
        return file if file.is_relative_to(folder) and file.is_file() else None
    except (OSError, ValueError):  # a name that is too long, or one with a zero byte
        return None


def _page(up: str) -> str:
    """Returns the viewer's page. `up`: the server's address relative to the request's address."""
    text = _OTHER_HOSTS.sub("", (_OHIF / "index.html").read_text(encoding="utf-8"))
    return text.replace('"/ohif/', f'"{up}ohif/').replace("'/ohif/", f"'{up}ohif/")


def _policy(page: str) -> str:
    """Returns the policy of a file of the viewer. `page`: the page, whose scripts are allowed; empty for other files."""
    return _POLICY.format(scripts=script_hashes(page) if page else "")


@cache
def _style(file: Path) -> bytes:
    """Returns a style sheet without fonts from other hosts. The largest has 0.2 MB."""
    return _OTHER_FONTS.sub(b"", file.read_bytes())


@cache
def _position(file: Path) -> int:
    """Returns the byte position of the built-in path in a script; -1 if the script does not contain it."""
    return file.read_bytes().find(_BUILT_FOR)


def _changed(file: Path, position: int) -> Iterator[bytes]:
    """Yields a script, changed so that it loads other scripts from its own folder. The largest has 15 MB."""
    with file.open("rb") as stream:
        while position > stream.tell():
            yield stream.read(min(_BLOCK, position - stream.tell()))
        yield _SCRIPTS_FOLDER
        stream.seek(len(_BUILT_FOR), os.SEEK_CUR)
        while block := stream.read(_BLOCK):
            yield block
