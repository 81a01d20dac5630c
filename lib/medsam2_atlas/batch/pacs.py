"""The client of a PACS that a batch reads from or writes to."""

from __future__ import annotations

import os

import requests

from medsam2_atlas.dicom.web import DicomWeb

USER_VARIABLE, PASSWORD_VARIABLE = "MONAI_LABEL_DICOMWEB_USERNAME", "MONAI_LABEL_DICOMWEB_PASSWORD"


def pacs_of(url: str) -> DicomWeb:
    """Returns a client of a PACS. User name and password come from the environment, never from a URL or a manifest."""
    session = requests.Session()
    user, password = os.environ.get(USER_VARIABLE, ""), os.environ.get(PASSWORD_VARIABLE, "")
    if user and password:
        session.auth = (user, password)
    return DicomWeb(url, session=session)
