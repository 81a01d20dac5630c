"""Lets viewers name the studies of a folder by their DICOM UIDs.

A viewer that opened a CT through DICOMweb knows only its UIDs. This layer replaces a Study or Series Instance UID in the query
parameters that name studies by the study's name, before handlers and the audit log read them. The scope then says that the
request came from such a viewer, whose voxels have the order of the DICOM instances and not that of the file (`by_uid`).
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

from monailabel.interfaces.utils.app import app_instance
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from datastores.folder_datastore import FolderDatastore
from medsam2_atlas.dicom.uids import valid_uid
from server.context import NAMING, mention

_BY_UID = "medsam2_atlas.by_uid"
_ROOT = "2.25."
"""The beginning of all UIDs that this server makes; see `medsam2_atlas.dicom.instances.uids`."""


def by_uid(scope: Scope) -> bool:
    """Returns whether a request names a study by a UID of this server, so that its voxels have the order of the instances."""
    return bool(scope.get(_BY_UID))


class StudyUidMiddleware:
    """Replaces UIDs in queries by names of studies.

    It belongs inside the access check, so that strangers cannot find out which UIDs exist. It changes the scope in place,
    because the audit log, which is outside, reads the query when the request has ended.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Creates the layer. app: the next layer."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        query: bytes = scope.get("query_string", b"")
        if scope["type"] == "http" and _ROOT.encode() in query:
            pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="surrogateescape")
            named = {value for key, value in pairs if key in NAMING and value.startswith(_ROOT) and valid_uid(value)}
            known = {uid: name for uid in named if (name := await run_in_threadpool(_study_of, uid))}
            if known:
                for name in known.values():
                    mention(name)
                pairs = [(key, known.get(value, value) if key in NAMING else value) for key, value in pairs]
                scope["query_string"] = urlencode(pairs, errors="surrogateescape").encode("ascii")
                scope[_BY_UID] = True
        await self._app(scope, receive, send)


def _study_of(uid: str) -> str:
    """Returns the name of the study with a UID; empty if there is none, or if the studies are in a PACS."""
    datastore = app_instance().datastore()
    return datastore.instances.study_of(uid) if isinstance(datastore, FolderDatastore) else ""
