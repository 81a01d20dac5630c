"""Opens the datastore of a server's studies: a folder, or the series of a PACS."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.config import settings
from requests import Session

from datastores.folder_datastore import FolderDatastore
from datastores.pacs_datastore import PacsDatastore
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.base.urls import is_url
from medsam2_atlas.dicom.web import DicomWeb
from medsam2_atlas.storage import WorkFolder


def dicom_web(url: str) -> DicomWeb:
    """Returns the client of a DICOMweb server, with the user name, password and prefixes of MONAI Label's settings."""
    session = Session()
    if settings.MONAI_LABEL_DICOMWEB_USERNAME and settings.MONAI_LABEL_DICOMWEB_PASSWORD:
        session.auth = (settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD)
    prefixes = {
        "qido": settings.MONAI_LABEL_QIDO_PREFIX,
        "wado": settings.MONAI_LABEL_WADO_PREFIX,
        "stow": settings.MONAI_LABEL_STOW_PREFIX,
    }
    return DicomWeb(url, session=session, prefixes=prefixes)


def open_datastore(
    studies: str,
    work: WorkFolder,
    models: Collection[str],
    series: Mapping[str, Any],
    roots: Sequence[Path],
    viewer_mb: int,
    reviewed: bool,
) -> StudyDatastore:
    """Opens the datastore of the studies folder, or of the DICOMweb server's series.

    Args:
        studies: the folder, or the URL of a DICOMweb server.
        work: the work folder.
        models: names of the models, which are tags that people cannot save under.
        series: the search filter for the series of a DICOMweb server.
        roots: folders outside of the studies folder that symbolic links in it may lead to.
        viewer_mb: max megabytes of decoded CTs that are kept for viewers of a folder.
        reviewed: whether a second person accepts signed-off label maps. It is stored with the studies, so that it also applies
            to commands.

    Raises:
        StorageError: the folder cannot be used.
    """
    if is_url(studies):
        store: StudyDatastore = PacsDatastore(dicom_web(studies), work.folder("."), models=models, series=series)
    else:
        store = FolderDatastore(Path(studies), models, roots=roots, viewer_bytes=viewer_mb * 1_000_000)
    store.store.review.turn(reviewed)
    return store
