"""Links in the PACS' answers, such as to bulk data and retrieve URLs, changed so that they lead through this server.

A PACS names itself by an address that viewers often cannot reach, and whose password they do not have. Links become paths
below this server's root path, without scheme and host; viewers resolve them against the address that they asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

BULK_DATA, RETRIEVE_URL = "BulkDataURI", "00081190"
DICOMWEB_PATH = re.compile(r"(studies|series|instances)(/[A-Za-z0-9.,;=_-]+)*/?")


class OwnLinks:
    """Changes the links of DICOM JSON; a hook for `json.loads` (`object_hook`)."""

    def __init__(self, pacs: Sequence[str], root: str) -> None:
        """
        Args:
            pacs: URLs below which the PACS has its `studies`.
            root: this server's root path.
        """
        addresses = [urlsplit(url.rstrip("/")) for url in pacs]
        self._hosts, self._paths = {url.netloc for url in addresses}, {url.path for url in addresses}
        self._own = f"{root}/proxy/dicom/wado/"

    def __call__(self, found: dict[str, Any]) -> dict[str, Any]:
        """Returns an object of DICOM JSON with changed links."""
        link, retrieve = found.get(BULK_DATA), found.get(RETRIEVE_URL)
        if isinstance(link, str):
            found[BULK_DATA] = self.own(link)
        if isinstance(retrieve, dict) and isinstance(retrieve.get("Value"), list):
            retrieve["Value"] = [self.own(url) if isinstance(url, str) else url for url in retrieve["Value"]]
        return found

    def own(self, link: str) -> str:
        """Returns where a link leads through this server; the link itself if it does not lead to the PACS' studies."""
        try:
            url = urlsplit(link)
        except ValueError:
            return link
        before, studies, rest = url.path.partition("/studies/")
        if url.scheme not in ("http", "https") or not (url.netloc in self._hosts or before in self._paths):
            return link  # a PACS may have several names, but few others have its path
        path = f"studies/{rest}"
        if not studies or not DICOMWEB_PATH.fullmatch(path) or ".." in path:
            return link
        return self._own + path + (f"?{url.query}" if url.query else "")
