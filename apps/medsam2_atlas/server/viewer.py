"""`/ohif/`: the viewer that comes with MONAI Label, with this server's configuration."""

from __future__ import annotations

from pathlib import Path

import monailabel.endpoints
from fastapi import APIRouter
from fastapi.responses import FileResponse
from monailabel.utils.others.generic import get_mime_type
from starlette.responses import Response

router = APIRouter(prefix="/ohif", tags=["OHIF"])

_OHIF = (Path(monailabel.endpoints.__file__).parent / "static" / "ohif").resolve()
_OWN = (Path(__file__).parent / "ohif").resolve()


@router.get("/{path:path}", include_in_schema=False)
def ohif_file(path: str) -> Response:
    """A file of the viewer; its page for everything else, since the viewer finds its way itself."""
    for folder in (_OWN, _OHIF):
        file = (folder / path).resolve() if "\0" not in path else folder
        if file.is_relative_to(folder) and file.is_file():
            # Names of the bundles change with their content; the page and its configuration do not.
            lasting = folder == _OHIF and file.name != "index.html"
            headers = {"Cache-Control": "max-age=86400" if lasting else "no-cache"}
            return FileResponse(file, media_type=get_mime_type(str(file)), headers=headers)
    return FileResponse(_OHIF / "index.html", headers={"Cache-Control": "no-cache"})
