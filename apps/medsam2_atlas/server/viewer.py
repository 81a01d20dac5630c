"""`/ohif/`: the viewer that comes with MONAI Label, with this server's configuration.

MONAI Label built OHIF for the path `/ohif/` of a host. Its files are changed while they are sent, so that they find each other
below any path: links of the page become relative, and its scripts load others from the folder that they come from.
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
from server.root_path import up_of

router = APIRouter(prefix="/ohif", tags=["OHIF"])

_OHIF = (Path(monailabel.endpoints.__file__).parent / "static" / "ohif").resolve()
_OWN = (Path(__file__).parent / "ohif").resolve()
_BLOCK = 1 << 20
_BUILT_FOR = b'"/ohif/"'
_OTHER_HOSTS = re.compile(r'<link [^>]*href="https?://[^>]*>')
"""Fonts of another host, which would learn who looks at what; the viewer takes the system's fonts without them."""
_OTHER_FONTS = re.compile(rb"@import url\(https?:[^)]*\);")
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval' {scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' blob: data:; font-src 'self' data:; connect-src 'self' blob: data:; worker-src 'self' blob:; "
    "manifest-src 'self'; base-uri 'none'; object-src 'none'; form-action 'none'"
)
"""What OHIF needs. `unsafe-eval`: its library of arrays (ndarray) and its decoders (embind) make functions from text; without,
no segmentation can be loaded. Workers run from blobs; scripts write styles and show pictures from memory.
Workers obey the policy of their own file, so all files of the viewer have it."""
_SCRIPTS_FOLDER = b'new URL(".", self.document ? document.currentScript.src : self.location).href'
"""Folder of the script that runs; in workers, which have no document, of the worker's script."""


@router.get("/{path:path}", include_in_schema=False)
def ohif_file(request: Request, path: str) -> Response:
    """A file of the viewer; its page for everything else, since the viewer finds its way itself."""
    for folder in (_OWN, _OHIF):
        file = _file_in(folder, path)
        if file is not None and file != _OHIF / "index.html":
            # Names of the bundles change with their content; those of its configuration do not.
            headers = {"Cache-Control": CACHED[0] if folder == _OHIF else CACHED[1], "Content-Security-Policy": _policy("")}
            kind = get_mime_type(str(file))
            if folder == _OHIF and file.suffix == ".css":
                return Response(_style(file), media_type=kind, headers=headers)
            place = _place(file) if folder == _OHIF and file.suffix == ".js" else -1
            if place >= 0:
                headers["Content-Length"] = str(file.stat().st_size - len(_BUILT_FOR) + len(_SCRIPTS_FOLDER))
                return StreamingResponse(_changed(file, place), media_type=kind, headers=headers)
            return FileResponse(file, media_type=kind, headers=headers)
    page = _page(up_of(request.scope))  # not kept by browsers: its address holds a study's UID
    return Response(page, media_type="text/html", headers={"Content-Security-Policy": _policy(page)})


def _file_in(folder: Path, path: str) -> Path | None:
    """Returns the file of a path in a folder; None if there is none, or if it lies elsewhere."""
    try:
        file = (folder / path).resolve()
        return file if file.is_relative_to(folder) and file.is_file() else None
    except (OSError, ValueError):  # a name that is too long, or one with a zero byte
        return None


def _page(up: str) -> str:
    """Returns the viewer's page. `up`: way from the request's address to the server's."""
    text = _OTHER_HOSTS.sub("", (_OHIF / "index.html").read_text(encoding="utf-8"))
    return text.replace('"/ohif/', f'"{up}ohif/').replace("'/ohif/", f"'{up}ohif/")


def _policy(page: str) -> str:
    """Returns the policy of a file of the viewer. page: the viewer's page, whose own scripts may run; empty for other files."""
    return _POLICY.format(scripts=script_hashes(page) if page else "")


@cache
def _style(file: Path) -> bytes:
    """Returns a style sheet without what it loads from other hosts. The largest has 0.2 MB."""
    return _OTHER_FONTS.sub(b"", file.read_bytes())


@cache
def _place(file: Path) -> int:
    """Returns at which byte a script has the path that it was built for; -1 if it does not have it."""
    return file.read_bytes().find(_BUILT_FOR)


def _changed(file: Path, place: int) -> Iterator[bytes]:
    """Yields a script that loads others from its own folder. The largest has 15 MB."""
    with file.open("rb") as stream:
        while place > stream.tell():
            yield stream.read(min(_BLOCK, place - stream.tell()))
        yield _SCRIPTS_FOLDER
        stream.seek(len(_BUILT_FOR), os.SEEK_CUR)
        while block := stream.read(_BLOCK):
            yield block
