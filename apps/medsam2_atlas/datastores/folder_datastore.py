"""The datastore of a studies folder that offers CTs and signed-off label maps by DICOMweb; see `server.folder_dicomweb`.

Concurrency contract. Callers may be in any thread. The SEG of a study is written by one thread; others that need it wait for
it. The lock of the names is held only to read or change them. A thread that writes a SEG holds no other lock, except that it
uses `FolderInstances` and the cache.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from datastores.byte_cache import ByteCache
from datastores.folder_instances import FolderInstances
from datastores.segmentations import StoredSeg, label_origin
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.base.errors import InputError, NotFoundError, StorageError, UnavailableError
from medsam2_atlas.base.scratch import scratch_file
from medsam2_atlas.dicom import LabelOrigin, seg_series_uid, write_rtstruct, write_seg
from medsam2_atlas.dicom.instances import InstanceSeries, grid_seg_to_file
from medsam2_atlas.dicom.origin import person
from medsam2_atlas.imaging.decoding import run_task
from medsam2_atlas.imaging.volume import read_labels
from medsam2_atlas.storage import FINAL, Label

log = logging.getLogger(__name__)

_MAX_SEG_BYTES = 200_000_000


@dataclass(frozen=True)
class OfferedSeg:
    """A signed-off label map as a DICOM SEG.

    Attributes:
        key: the version and the checksum of its image.
        header: its attributes without pixels.
        content: the DICOM file.
    """

    key: str
    header: Dataset
    content: bytes


class FolderDatastore(StudyDatastore):
    """The datastore of a studies folder that is also a DICOMweb server's."""

    def __init__(
        self, path: Path, models: Collection[str] = (), *, roots: Sequence[str | Path] = (), viewer_bytes: int = 1_000_000_000
    ) -> None:
        """Opens the studies folder.

        Args:
            path: the studies folder.
            models: names of the models, which are tags that people cannot save under.
            roots: folders outside of the studies folder that symbolic links in it may lead to.
            viewer_bytes: max bytes of decoded CTs that are kept for viewers.

        Raises:
            StorageError: the folder cannot be used.
        """
        super().__init__(path, models, roots=roots)
        self.instances = FolderInstances(self.store, viewer_bytes)
        self._lock = threading.Lock()
        self._writing: dict[str, threading.Lock] = {}
        self._unwritable: dict[str, int] = {}
        self._segs: ByteCache[OfferedSeg] = ByteCache(_MAX_SEG_BYTES, lambda entry: len(entry.content))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Returns the information stored with an image, and the UIDs of study and series with which viewers find it."""
        found = super().get_image_info(image_id)
        study, series = self.instances.uids(image_id)
        return found | {"StudyInstanceUID": study, "SeriesInstanceUID": series}

    def seg_series(self, study: str) -> str:
        """Returns the Series Instance UID of the study's `final` label map as SEG; empty if it has none that can be offered."""
        label = self._final(study)
        if label is None or self._unwritable.get(study) == label.version.number:
            return ""
        return seg_series_uid(self.instances.uids(study)[1], FINAL)

    def seg(self, study: str) -> OfferedSeg:
        """Returns the `final` label map as a DICOM SEG, the same for the same version; writes it if it is not kept. Slow.

        Requests for the SEG of the same study wait for the first one, which writes it.

        Raises:
            NotFoundError: the study or the label map does not exist.
            InputError: a file cannot be read.
        """
        with self._lock:
            turn = self._writing.setdefault(study, threading.Lock())
        with turn:
            label = self._final(study)
            if label is None:
                raise NotFoundError(study, "has no signed-off label map that can be used.", "Submit one first.")
            cleared, series = self._segs.cleared, self.instances.series(study)
            key = f"{label.version.number}/{series.volume}"
            found = self._segs.get(study)
            if found is None or found.key != key:
                found = self._written(label, key, series)
                self._segs.put(study, found, cleared)  # not if it was erased while it was written
            return found

    def offered_seg(self, study: str) -> OfferedSeg | None:
        """Returns what `seg` does; None if the SEG cannot be written, so that viewers can still open the CT. Never raises.

        The reason is logged. The label map is not offered again before a new version of it, unless the reason is temporary.
        """
        label = self._final(study)
        try:
            return self.seg(study)
        except NotFoundError:  # was removed meanwhile
            return None
        except Exception as error:  # libraries raise many kinds
            log.exception("the label map of %s is not offered to viewers: it cannot be written as SEG", study)
            if label is not None and not isinstance(error, (UnavailableError, StorageError, OSError, MemoryError)):
                self._unwritable[study] = label.version.number
            return None

    def rtstruct(self, study: str, tag: str) -> Dataset:
        """Returns the current label map as an RT structure set that refers to the study's instances.

        Raises:
            NotFoundError: the study has no label map of that tag.
            InputError: a file cannot be read.
        """
        label = self.store.label(study, tag)
        labels = read_labels(label.file, image=self.store.image(study).file)
        return write_rtstruct(labels.as_image(), self.instances.series(study).headers(), self._origin(label))

    def read_seg(self, file: Path) -> StoredSeg:
        """Decodes a DICOM SEG that a viewer has stored; a reader process reads the file.

        Returns:
            The SEG; its label map has the grid of the CT's file.

        Raises:
            InputError: the file is malformed, does not refer to a CT of this server, or has a segment that is not an organ.
        """
        about, _ = run_task("dicom_object", file, path=str(file))
        study = next(filter(None, (self.instances.study_of(uid) for uid in about["series"])), "")
        if not study:
            raise InputError(
                "segmentation", "does not refer to a CT series of this server.", "Segment one of this server's series."
            )
        opened, label = self.instances.open(study), scratch_file(".nii.gz")
        try:
            grid_seg_to_file(file, opened, label)
        except BaseException:
            label.unlink(missing_ok=True)
            raise
        return StoredSeg(study, label, about["sop_class"], about["sop_instance"])

    def problems(self) -> dict[str, dict[str, str]]:
        """Returns the problems by study, including images that a viewer or a picture could not read.

        Of a study with a usable `final` label map, this is a `note`: the image was usable, and the case stays done.
        """
        found = super().problems()
        for study, problem in self.instances.problems().items():
            problems = found.setdefault(study, {})
            problems.setdefault("note" if self._final(study) is not None and "image" not in problems else "image", problem)
        return found

    def forget(self) -> None:
        """Drops decoded CTs and written SEGs, for example after an erasure."""
        self.instances.forget()
        self._segs.clear()
        with self._lock:
            self._unwritable = {}
            self._writing = {study: turn for study, turn in self._writing.items() if turn.locked()}

    def _written(self, label: Label, key: str, series: InstanceSeries) -> OfferedSeg:
        labels = read_labels(label.file, image=self.store.image(label.study).file)
        headers, name = series.headers(), series.about.patient_level.PatientName
        for header in headers:  # highdicom warns about names without a caret, and its warning contains the name
            header.PatientName = person(str(name))
        written = write_seg(labels.as_image(), headers, self._origin(label))
        written.PatientName = name
        stream = BytesIO()
        written.save_as(stream, enforce_file_format=True)
        stream.seek(0)
        header = dcmread(stream, stop_before_pixels=True)  # highdicom's own object contains types that JSON does not have
        return OfferedSeg(key, header, stream.getvalue())

    def _origin(self, label: Label) -> LabelOrigin:
        return label_origin(label, self._models, self.store.labels().get(label.study, {}))

    def _final(self, study: str) -> Label | None:
        found: Mapping[str, Label] = self.store.labels().get(study, {})
        label = found.get(FINAL)
        return label if label is not None and not label.problem else None
