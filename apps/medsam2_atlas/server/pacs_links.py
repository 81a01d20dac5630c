"""Changes links in the PACS' answers (bulk data, retrieve URLs) so that they lead through this server.

The links of a PACS contain an address that viewers often cannot reach, and whose password they do not have. They become paths
below this server's root path, without scheme and host. Viewers resolve them against the address of their request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

BULK_DATA, RETRIEVE_URL = "BulkDataURI", "00081190"
DICOMWEB_PATH = re.compile(r"(studies|series|instances)(/[A-Za-z0-9.,;=_-]+)*/?")


class OwnLinks:
    """Changes the links in DICOM JSON. An instance is an `object_hook` for `json.loads`."""

    def __init__(self, pacs: Sequence[str], root: str) -> None:
        """Creates the hook.

        Args:
            pacs: URLs of the PACS that precede `/studies`.
            root: this server's root path.
        """
        addresses = [urlsplit(url.rstrip("/")) for url in pacs]
        self._hosts, self._paths = {url.netloc for url in addresses}, {url.path for url in addresses}
        self._own = f"{root}/proxy/dicom/wado/"

    def __call__(self, found: dict[str, Any]) -> dict[str, Any]:
        """Returns an object of DICOM JSON after changing its links in place."""
        link, retrieve = found.get(BULK_DATA), found.get(RETRIEVE_URL)
        if isinstance(link, str):
            found[BULK_DATA] = self.own(link)
        if isinstance(retrieve, dict) and isinstance(retrieve.get("Value"), list):
            retrieve["Value"] = [self.own(url) if isinstance(url, str) else url for url in retrieve["Value"]]
        return found

    def own(self, link: str) -> str:
        """Returns the path through this server for a link to the PACS' studies; any other link unchanged.

        >>> OwnLinks(["http://pacs:8042/dicom-web"], "").own("http://pacs:8042/dicom-web/studies/1.2")
        '/proxy/dicom/wado/studies/1.2'
        """
        try:
            url = urlsplit(link)
        except ValueError:
            return link
        before, studies, rest = url.path.partition("/studies/")
        if url.scheme not in ("http", "https") or not (url.netloc in self._hosts or before in self._paths):
            return link  # a PACS may have several host names; few other servers have the same path
        path = f"studies/{rest}"
        if not studies or not DICOMWEB_PATH.fullmatch(path) or ".." in path:
            return link
        return self._own + path + (f"?{url.query}" if url.query else "")
