"""The datastore of a DICOMweb server such as Orthanc: fetches series, and sends signed-off label maps as DICOM SEG.

A study is a CT series, named by its Series Instance UID. The fetched series and all versions of label maps are kept in a
`StudyStore` of this server. So all functions of a studies folder are available, and fetched series are served while the PACS is
unavailable. `final` label maps are also sent to the PACS. If that fails, the label map is safe, and its SEG is sent later.

Concurrency contract. Only threads of `SeriesList`, `FetchedSeries` and `LabelSender` send requests to the PACS; threads that
serve requests wait for them for a limited time. The datastore itself holds no lock.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from datastores.fetched_series import FetchedSeries
from datastores.label_sender import LabelSender
from datastores.segmentations import StoredSeg, label_origin
from datastores.series_list import NEVER_LISTED, SeriesList
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.base.errors import InputError, NotFoundError, StorageError, UnavailableError
from medsam2_atlas.base.scratch import scratch_file
from medsam2_atlas.dicom import LabelOrigin, labels_of_series, seg_to_file, valid_uid, write_rtstruct, write_seg
from medsam2_atlas.dicom.headers import from_json
from medsam2_atlas.dicom.web import DicomWeb
from medsam2_atlas.imaging.decoding import run_task
from medsam2_atlas.imaging.volume import read_volume, write_volume
from medsam2_atlas.storage import FINAL, Label, Saved, Version, WorkFolder
from tasks.known import unknown_study

log = logging.getLogger(__name__)

_RETRY_SECONDS = 60.0
"""Time in seconds between two searches for label maps that have to be sent again."""
_SILENT_SECONDS = 0.8
"""Time in seconds after which a PACS that does not answer counts as unavailable."""
_SEND_SECONDS = 5.0
"""Max time in seconds that saving a label map waits for the PACS."""


class PacsDatastore(StudyDatastore):
    """The datastore of a DICOMweb server's CT series."""

    def __init__(
        self, web: DicomWeb, folder: Path, models: Collection[str] = (), series: Mapping[str, Any] | None = None
    ) -> None:
        """Opens the folder in which the server keeps its data for the PACS.

        Args:
            web: client of the DICOMweb server.
            folder: folder for the series, and for all versions of the label maps.
            models: names of the models, which are tags that people cannot save under.
            series: DICOMweb query for the series; CT series by default.

        Raises:
            StorageError: the folder cannot be used.
        """
        super().__init__(folder / "store", models)
        self.work = WorkFolder(folder)  # `store` has one of its own, for versions and claims
        self.web = web
        query = dict(series or {"Modality": "CT"})
        self._list = SeriesList(lambda: self.web.list_series(query), folder / "series.json", self.store.erased.barred)
        self._files = FetchedSeries(folder / "series", lambda: self.web, self.store.erased.check)
        self._sender = LabelSender(self.store, self._send)

    def list_images(self) -> list[str]:
        """Returns the UIDs of all CT series of the PACS; only of fetched ones if the PACS has never been listed."""
        found = self._list.get()
        return sorted(self.store.images() if found is None else found)

    def listed(self) -> Mapping[str, Mapping[str, str]] | None:
        """Returns the attributes of all series by UID, without waiting for the PACS; None if it has never been listed.

        The same object until the list changes.
        """
        return self._list.last()

    def when_listed(self, call: Callable[[], object]) -> None:
        """Sets a function that is called in another thread after the list of the PACS has changed."""
        self._list.changed = call

    def list_failure(self) -> str:
        """Returns why the list may be out of date, or why there is none, in general words; empty if it is current."""
        return self._list.failure(self.web.breaker.open)

    def get_image(self, image_id: str, params: Any = None) -> bytes:
        """Returns the content of the volume's NIfTI file, which has the grid of the series."""
        return Path(self.get_image_uri(image_id)).read_bytes()

    def get_image_uri(self, image_id: str) -> str:
        """Returns the path of the volume's NIfTI file; fetches the series if it has not been fetched yet.

        Raises:
            NotFoundError: the series is unknown.
            InputError: the series does not form a volume.
            UnavailableError: the PACS does not answer.
            StorageError: the series cannot be fetched or stored.
        """
        try:
            return str(self.store.image(image_id).file)
        except NotFoundError:
            self._fetch(image_id)
        return str(self.store.image(image_id).file)

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Returns the information stored with a series, or its attributes in the PACS if it has not been fetched yet."""
        try:
            return super().get_image_info(image_id)
        except NotFoundError:
            return dict(self._about_series(image_id))

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Returns the usable series without a label map of the given tag, `final` by default.

        While the PACS does not answer, only fetched series are returned, unless there is none.
        """
        done = {*self.get_labeled_images(label_tag), *self._without_image()}
        left = [series for series in self.list_images() if series not in done]
        fetched = self.store.images() if self.web.breaker.silent(_SILENT_SECONDS) else {}
        return [series for series in left if series in fetched] or left

    def update_image_info(
        self, image_id: str, info: dict[str, Any], accept: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        """Adds information to a fetched series, as in `StudyDatastore`; ignored for a series that has not been fetched."""
        if self._is_fetched(image_id):
            super().update_image_info(image_id, info, accept)

    def update_label_info(
        self, label_id: str, label_tag: str, info: dict[str, Any], accept: Callable[[Version], None] | None = None
    ) -> None:
        """Adds information to a label map, as in `StudyDatastore`, except `pacs`, which only the server writes."""
        super().update_label_info(label_id, label_tag, {key: info[key] for key in info if key != "pacs"}, accept)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refuses an image, because images come from the PACS only.

        Raises:
            InputError: always.
        """
        raise InputError("image", "cannot be uploaded to this server.", "Send the series to the PACS.")

    def fetched_bytes(self, study: str) -> int:
        """Returns the space that a series takes on this server, in bytes: its files and its volume; 0 if it is not fetched."""
        try:
            return self._files.size(study) + self.store.image(study).file.stat().st_size
        except (OSError, NotFoundError):
            return 0

    def drop_fetched(self, study: str, needed: Callable[[], bool] = lambda: False) -> bool:
        """Deletes the files and the volume of a series, which the PACS still has. Predictions stay.

        Args:
            study: UID of the series.
            needed: returns whether somebody needs the series; called under the lock of the studies.

        Returns:
            False, and nothing has changed, if the series is needed, the PACS does not list it, or a person has a label map or a
            draft of it.

        Raises:
            NotFoundError: the series is not fetched.
            StorageError: a file cannot be deleted.
        """
        if not self.web.breaker.ready or study not in (self._list.last() or {}) or not self.store.drop_image(study, needed):
            return False
        try:
            self._files.drop(study)
        except OSError as error:
            raise StorageError(study, f"cannot be deleted ({error}).", "Check the permissions of the model folder.") from error
        return True

    def status(self) -> dict[str, Any]:
        """Returns the counts of studies and label maps for `/info`."""
        return {**super().status(), "total": len(self.list_images())}

    def problems(self) -> dict[str, dict[str, str]]:
        """Returns the problems by study, including those of unusable series in the PACS."""
        found = {study: dict(problems) for study, problems in super().problems().items()}
        for study, problem in {**self._list.problems(), **self._files.problems()}.items():
            found.setdefault(study, {})["image"] = problem
        return found

    def save_person_label(self, study: str, file: Path, label_tag: str, info: Mapping[str, Any], author_id: str = "") -> Saved:
        """Saves a person's label map as in `StudyDatastore`, and sends it to the PACS if it is `final`.

        Returns:
            The saved label map; `pacs` in the info of a `final` version contains its state in the PACS.
        """
        self.get_image_uri(study)
        info = {key: info[key] for key in info if key != "pacs"}
        return self._sent(super().save_person_label(study, file, label_tag, info, author_id))

    def restore_label(self, study: str, tag: str, number: int, author: str, author_id: str = "") -> Saved:
        """Makes an earlier version the current one, and sends it to the PACS if it is `final`."""
        return self._sent(super().restore_label(study, tag, number, author, author_id))

    def confirm_label(self, study: str, tag: str, author: str, author_id: str = "") -> Saved:
        """Confirms the current label map, and sends it to the PACS if it is `final`."""
        return self._sent(super().confirm_label(study, tag, author, author_id))

    def read_seg(self, file: Path) -> StoredSeg:
        """Decodes a DICOM SEG that a viewer has stored; a reader process reads the file.

        Raises:
            InputError: the file is malformed, does not refer to a CT series of this server, or has a segment that is not an
                organ.
        """
        about, _ = run_task("dicom_object", file, path=str(file))
        study = self._first_known(about["series"])
        if study is None:
            raise InputError(
                "segmentation", "does not refer to a CT series of this server.", "Segment one of this server's series."
            )
        image, label = Path(self.get_image_uri(study)), scratch_file(".nii.gz")
        try:
            seg_to_file(file, self._folder(study), image, label)
        except BaseException:
            label.unlink(missing_ok=True)
            raise
        return StoredSeg(study, label, about["sop_class"], about["sop_instance"])

    def keep_sending(self, stop: threading.Event) -> None:
        """Sends pending label maps every minute until `stop` is set."""
        while True:
            try:
                self.send_pending()
            except Exception:  # an error of one label map must not end the thread
                log.exception("the label maps that wait for the PACS could not be listed")
            if stop.wait(_RETRY_SECONDS):
                return

    def send_pending(self) -> None:
        """Sends pending label maps one after another; one that fails does not stop the others."""
        for study, tags in self.store.labels().items():
            if FINAL in tags and self._sender.due(study, tags[FINAL].version):
                self._sender.send(study)

    def rtstruct(self, study: str, tag: str) -> Dataset:
        """Returns the current label map as an RT structure set.

        Raises:
            NotFoundError: the study has no label map of that tag.
        """
        label = self.store.label(study, tag)
        return write_rtstruct(self._in_series_order(label), self._headers(study), self._origin(label))

    def _sent(self, saved: Saved) -> Saved:
        """Sends a saved label map if it is `final`, and returns it with its state in the PACS; never raises an error."""
        label, version = saved.label, saved.label.version
        if label.tag != FINAL:
            return saved
        state = self._sender.send(label.study, _SEND_SECONDS)
        if state.get("version", version.number) != version.number:
            state = {"state": "pending", "problem": "A newer version was saved meanwhile and is sent instead."}
        state = state or {"state": "pending", "problem": "The label map was removed meanwhile."}
        return replace(saved, label=replace(label, version=replace(version, info={**version.info, "pacs": state})))

    def _send(self, label: Label) -> dict[str, str]:
        """Sends a label map as a DICOM SEG; called in the sender's thread."""
        breaker = self.web.breaker
        if not breaker.ready:  # checked first, to avoid creating a SEG that cannot be sent
            raise UnavailableError(
                "PACS", f"does not answer ({breaker.problem}).", "The label map is sent once the PACS answers."
            )
        seg = write_seg(self._in_series_order(label), self._headers(label.study), self._origin(label))
        file = scratch_file(".dcm")
        try:
            seg.save_as(file, enforce_file_format=True)
            self.web.store(file)
        finally:
            file.unlink(missing_ok=True)
        return {"series": str(seg.SeriesInstanceUID), "instance": str(seg.SOPInstanceUID)}

    def _in_series_order(self, label: Label) -> Any:
        """Returns the voxels of a label map in the order of the series' slices."""
        return labels_of_series(label.file, self.store.image(label.study).file)

    def _origin(self, label: Label) -> LabelOrigin:
        return label_origin(label, self._models, self.store.labels().get(label.study, {}))

    def _first_known(self, series: Sequence[str]) -> str | None:
        """Returns the first of these series that is fetched, or else the first that the PACS lists; None if there is none."""
        for is_known in (self._is_fetched, (self._list.get() or {}).__contains__):
            for uid in series:
                if is_known(uid):
                    return uid
        self._list.find(series[0] if series else "")  # the PACS may have received it recently
        return next((uid for uid in series if uid in (self._list.get() or {})), None)

    def _about_series(self, series: str) -> Mapping[str, str]:
        """Returns the attributes of a series from the list of the PACS."""
        about = self._list.find(series) if valid_uid(series) else None
        if about is None and self._list.get() is None:
            reason = self.list_failure().rstrip(".")
            says_more = reason and reason != NEVER_LISTED.rstrip(".")
            raise UnavailableError(
                "PACS",
                f"has not listed its series ({reason})." if says_more else "has not listed its series.",
                "Check that it is running; try again in a minute.",
            )
        if about is None:
            raise unknown_study(series, "CT series")
        return about

    def _headers(self, series: str) -> list[Dataset]:
        """Returns the headers of a series for DICOM objects that are derived from it; a reader process reads the files."""
        folder = self._folder(series)
        about, _ = run_task("dicom_series", folder, folder=str(folder))
        return from_json(about["headers"])

    def _is_fetched(self, series: str) -> bool:
        """Returns whether the volume of a series is in the store."""
        try:
            self.store.image(series)
        except NotFoundError:
            return False
        return True

    def _folder(self, series: str) -> Path:
        """Returns the folder with the files of a series; fetches them again if they were removed."""
        folder = self._files.folder(series)
        return folder if folder.is_dir() else self._fetch(series)

    def _fetch(self, series: str) -> Path:
        """Fetches a series, adds its volume to the store, and returns the folder with its files."""
        # Not the patient's name: what is stored with an image is part of exported data sets.
        about = {key: text for key, text in self._about_series(series).items() if key != "PatientName"}

        def use(files: Path) -> None:
            if self._is_fetched(series):
                return
            volume = files.parent / f".part-{uuid.uuid4().hex[:8]}.nii.gz"
            try:
                write_volume(read_volume(files), volume)
                self.store.add_image(series, volume, about)
            finally:
                volume.unlink(missing_ok=True)

        return self._files.fetch(about["StudyInstanceUID"], series, use)
