"""The lists that a studies folder answers to searches of DICOMweb (QIDO-RS): studies, series, instances.

A CT whose file cannot be used is left out; the reason is logged, and listed by `/datastore`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydicom.dataset import Dataset

from datastores.folder_datastore import FolderDatastore
from medsam2_atlas.base.errors import NotFoundError
from medsam2_atlas.dicom.instances import Query, StudyAbout
from server.pacs_links import RETRIEVE_URL

_SEG_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
_CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
_SERIES_UID, _STUDY_UID = "0020000E", "0020000D"


def found_items(
    datastore: FolderDatastore, level: str, uids: Mapping[str, str], query: Query, root: str
) -> list[Mapping[str, Any]]:
    """Returns the objects of a search as DICOM JSON.

    Args:
        datastore: the studies.
        level: `studies`, `series` or `instances`.
        uids: UIDs in the request's path, by level.
        query: the search.
        root: the server's root path.
    """
    makers = {"studies": _study, "series": _series, "instances": _instances}
    wanted = uids.get("studies") or query.filters.get(_STUDY_UID, "")

    def items() -> Iterator[Mapping[str, Any]]:
        for about in _abouts(datastore, wanted, uids.get("series") or query.filters.get(_SERIES_UID, "")):
            try:
                yield from makers[level](datastore, about, f"{root}/proxy/dicom/wado/studies/{about.study}")
            except NotFoundError:  # was removed meanwhile
                continue

    series = uids.get("series")
    return query.page(item for item in items() if not series or item[_SERIES_UID]["Value"] == [series])


def _abouts(datastore: FolderDatastore, study: str, series: str) -> Iterator[StudyAbout]:
    """Yields the studies that a search may find: those with a UID if it names one, so that no other file is read."""
    if not (valid := [uid for uid in (study, series) if uid and "," not in uid and "\\" not in uid]):
        yield from datastore.instances.abouts()
        return
    name = datastore.instances.study_of(valid[0])
    if not name:
        if not study and series:  # the series of a label map
            yield from (about for about in datastore.instances.abouts() if datastore.seg_series(about.name) == series)
        return
    if "image" in datastore.problems().get(name, {}):
        return
    found = datastore.instances.usable(name)
    if found is not None:
        yield found


def _study(datastore: FolderDatastore, about: StudyAbout, url: str) -> Iterator[Mapping[str, Any]]:
    has_seg = bool(datastore.seg_series(about.name))
    ds = Dataset()
    ds.update(about.patient_level)
    ds.ModalitiesInStudy = ["CT", "SEG"] if has_seg else ["CT"]
    ds.NumberOfStudyRelatedSeries, ds.NumberOfStudyRelatedInstances = 1 + has_seg, about.size[2] + has_seg
    yield _item(ds, url)


def _series(datastore: FolderDatastore, about: StudyAbout, url: str) -> Iterator[Mapping[str, Any]]:
    ds = Dataset()
    ds.update(about.patient_level)
    ds.update(about.series_level)
    ds.NumberOfSeriesRelatedInstances = about.size[2]
    yield _item(ds, f"{url}/series/{about.series}")
    if seg := datastore.seg_series(about.name):
        ds.Modality, ds.SeriesInstanceUID, ds.SeriesNumber, ds.SeriesDescription = "SEG", seg, 900, "final (medsam2_atlas)"
        ds.NumberOfSeriesRelatedInstances = 1
        yield _item(ds, f"{url}/series/{seg}")


def _instances(datastore: FolderDatastore, about: StudyAbout, url: str) -> Iterator[Mapping[str, Any]]:
    series = datastore.instances.series(about.name)
    ds = Dataset()
    ds.update(about.patient_level)
    ds.update(about.series_level)
    ds.SOPClassUID, ds.BitsAllocated, (ds.Columns, ds.Rows) = _CT_CLASS, 16, about.size[:2]
    for number in range(1, series.count + 1):
        ds.SOPInstanceUID, ds.InstanceNumber = series.uid(number), number
        yield _item(ds, f"{url}/series/{about.series}/instances/{series.uid(number)}")
    offered = datastore.offered_seg(about.name) if datastore.seg_series(about.name) else None
    if offered is not None:
        seg = offered.header
        ds.SOPClassUID, ds.BitsAllocated, ds.Modality = _SEG_CLASS, 1, "SEG"
        for tag in ("SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "SOPInstanceUID", "InstanceNumber"):
            setattr(ds, tag, seg.get(tag))
        ds.NumberOfFrames = seg.NumberOfFrames
        yield _item(ds, f"{url}/series/{seg.SeriesInstanceUID}/instances/{seg.SOPInstanceUID}")


def _item(ds: Dataset, url: str) -> dict[str, Any]:
    """Returns an object as DICOM JSON with the address from which it can be retrieved."""
    available = {"00080056": {"vr": "CS", "Value": ["ONLINE"]}, RETRIEVE_URL: {"vr": "UR", "Value": [url]}}
    found: dict[str, Any] = ds.to_json_dict() | available
    return found
