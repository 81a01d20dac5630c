"""Studies of a DICOMweb server such as Orthanc: series come from there, signed-off labels go there as DICOM SEG.

A study is a CT series, named by its Series Instance UID. What was fetched, and every version of every label map, lies in a
`StudyStore` of this server, so it has all functions of a folder, and fetched series are served while the PACS is unavailable.
`final` label maps are sent to the PACS besides. A SEG that cannot be sent is kept and sent later: the label map itself is safe.

Concurrency contract. The PACS is asked by threads of `SeriesList`, `FetchedSeries` and `LabelSender` only; threads that serve
requests wait for them for limited times. Nothing here holds a lock.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monailabel.config import settings
from pydicom.dataset import Dataset
from requests import Session

from datastores.fetched_series import FetchedSeries
from datastores.label_sender import LabelSender
from datastores.series_list import SeriesList
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.base.errors import InputError, NotFoundError, UnavailableError
from medsam2_atlas.base.scratch import scratch_file
from medsam2_atlas.dicom import LabelOrigin, Made, labels_of_series, seg_to_file, valid_uid, write_rtstruct, write_seg
from medsam2_atlas.dicom.headers import from_json
from medsam2_atlas.dicom.web import DicomWeb
from medsam2_atlas.imaging.decoding import run_task
from medsam2_atlas.imaging.volume import read_volume, write_volume
from medsam2_atlas.storage import FINAL, Label, Saved, Version
from tasks.known import unknown_study

log = logging.getLogger(__name__)

_RETRY_SECONDS = 60.0
_SILENT_SECONDS = 0.8
_SEND_SECONDS = 5.0
"""Max seconds that saving a label waits for the PACS."""


@dataclass(frozen=True)
class StoredSeg:
    """A DICOM SEG that a viewer stored, decoded. file: its label map, which the caller removes."""

    study: str
    file: Path
    sop_class: str
    sop_instance: str


def dicom_web(url: str) -> DicomWeb:
    """Returns a DICOMweb server, with the name, password and prefixes of MONAI Label's settings."""
    session = Session()
    if settings.MONAI_LABEL_DICOMWEB_USERNAME and settings.MONAI_LABEL_DICOMWEB_PASSWORD:
        session.auth = (settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD)
    prefixes = {
        "qido": settings.MONAI_LABEL_QIDO_PREFIX,
        "wado": settings.MONAI_LABEL_WADO_PREFIX,
        "stow": settings.MONAI_LABEL_STOW_PREFIX,
    }
    return DicomWeb(url, session=session, prefixes=prefixes)


class PacsDatastore(StudyDatastore):
    """CT series of a DICOMweb server."""

    def __init__(
        self, web: DicomWeb, folder: Path, models: Collection[str] = (), series: Mapping[str, Any] | None = None
    ) -> None:
        """
        Args:
            web: the DICOMweb server.
            folder: where series, label maps and their versions are kept.
            models: whose names are tags that people do not save under.
            series: what to search for; CT series by default.

        Raises:
            StorageError: the folder cannot be used.
        """
        super().__init__(folder / "store", models)
        self.web = web
        wanted = dict(series or {"Modality": "CT"})
        self._list = SeriesList(lambda: self.web.list_series(wanted), folder / "series.json", self.store.erased.bars)
        self._files = FetchedSeries(folder / "series", lambda: self.web, self.store.erased.check)
        self._sender = LabelSender(self.store, self._send)

    def list_images(self) -> list[str]:
        """Returns all CT series of the PACS; only fetched ones if the PACS has never been listed."""
        found = self._list.get()
        return sorted(self.store.images() if found is None else found)

    def get_image(self, image_id: str, params: Any = None) -> bytes:
        """Returns the volume's file, as NIfTI on the series' own grid."""
        return Path(self.get_image_uri(image_id)).read_bytes()

    def get_image_uri(self, image_id: str) -> str:
        """Returns the volume's file, fetched when it is first asked for.

        Raises:
            NotFoundError: no such series.
            InputError: it makes no volume.
            UnavailableError: the server does not answer now.
            StorageError: the series cannot be fetched or kept.
        """
        try:
            return str(self.store.image(image_id).file)
        except NotFoundError:
            self._fetch(image_id)
        return str(self.store.image(image_id).file)

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is kept with a series; of one that was not fetched yet, what the server tells."""
        try:
            return super().get_image_info(image_id)
        except NotFoundError:
            return dict(self._about_series(image_id))

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Returns usable series without a label under the tag; while the PACS is silent, only fetched ones, if any are left."""
        done = {*self.get_labeled_images(label_tag), *self._without_image()}
        left = [series for series in self.list_images() if series not in done]
        here = self.store.images() if self.web.breaker.silent(_SILENT_SECONDS) else {}
        return [series for series in left if series in here] or left

    def update_image_info(
        self, image_id: str, info: dict[str, Any], accept: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        """Adds to what is kept with a series, once it has been fetched."""
        if self._here(image_id):
            super().update_image_info(image_id, info, accept)

    def update_label_info(
        self, label_id: str, label_tag: str, info: dict[str, Any], accept: Callable[[Version], None] | None = None
    ) -> None:
        """Adds to what is kept with a label; what became of it in the PACS is not for clients to say."""
        super().update_label_info(label_id, label_tag, {key: info[key] for key in info if key != "pacs"}, accept)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refused: images come from the PACS.

        Raises:
            InputError: always.
        """
        raise InputError("image", "cannot be uploaded here.", "Send the series to the PACS.")

    def status(self) -> dict[str, Any]:
        """Counts, as `/info` shows them."""
        return {**super().status(), "total": len(self.list_images())}

    def problems(self) -> dict[str, dict[str, str]]:
        """Returns problems by study, also of series of the PACS that cannot be used."""
        found = {study: dict(problems) for study, problems in super().problems().items()}
        for study, problem in {**self._list.problems(), **self._files.problems()}.items():
            found.setdefault(study, {})["image"] = problem
        return found

    def save_person_label(self, study: str, file: Path, label_tag: str, info: Mapping[str, Any], author_id: str = "") -> Saved:
        """Saves a person's label, and sends it to the PACS if it is `final`.

        Returns:
            The saved label; `pacs` in the info of a `final` version holds its state at the PACS.
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
        """Decodes a DICOM SEG that a viewer stored, in a reader process.

        Raises:
            InputError: it is malformed, refers to no CT series of the server, or has a segment that is not an organ.
        """
        about, _ = run_task("dicom_object", file, path=str(file))
        study = self._first_known(about["series"])
        if study is None:
            raise InputError("segmentation", "refers to no CT series of this server.", "Segment one of its series.")
        image, label = Path(self.get_image_uri(study)), scratch_file(".nii.gz")
        try:
            seg_to_file(file, self._folder(study), image, label)
        except BaseException:
            label.unlink(missing_ok=True)
            raise
        return StoredSeg(study, label, about["sop_class"], about["sop_instance"])

    def keep_sending(self, stop: threading.Event) -> None:
        """Sends what could not be sent before, again and again until it is told to stop."""
        while True:
            try:
                self.send_pending()
            except Exception:  # no error of one label map may end the thread
                log.exception("label maps that wait for the PACS could not be looked through")
            if stop.wait(_RETRY_SECONDS):
                return

    def send_pending(self) -> None:
        """Sends pending label maps one after another; one that fails does not stop the others."""
        for study, tags in self.store.labels().items():
            if FINAL in tags and self._sender.due(study, tags[FINAL].version):
                self._sender.send(study)

    def rtstruct(self, study: str, tag: str) -> Dataset:
        """Returns the current label as an RT structure set.

        Raises:
            NotFoundError: no such label.
        """
        label = self.store.label(study, tag)
        return write_rtstruct(self._in_series_order(label), self._headers(study), self._origin(label))

    def _sent(self, saved: Saved) -> Saved:
        """Returns the saved label with its state at the PACS; never fails, since the label map is already safe."""
        label, version = saved.label, saved.label.version
        if label.tag != FINAL:
            return saved
        state = self._sender.send(label.study, _SEND_SECONDS)
        if state.get("version", version.number) != version.number:
            state = {"state": "pending", "problem": "A newer version was saved meanwhile, and is sent in its place."}
        state = state or {"state": "pending", "problem": "It was removed meanwhile."}
        return replace(saved, label=replace(label, version=replace(version, info={**version.info, "pacs": state})))

    def _send(self, label: Label) -> dict[str, str]:
        """Sends a label map as a segmentation. Runs in the sender's thread."""
        breaker = self.web.breaker
        if not breaker.ready:  # saves making a segmentation that cannot be sent
            raise UnavailableError("PACS", f"does not answer ({breaker.problem}).", "It is sent once the PACS answers.")
        seg = write_seg(self._in_series_order(label), self._headers(label.study), self._origin(label))
        file = scratch_file(".dcm")
        try:
            seg.save_as(file, enforce_file_format=True)
            self.web.store(file)
        finally:
            file.unlink(missing_ok=True)
        return {"series": str(seg.SeriesInstanceUID), "instance": str(seg.SOPInstanceUID)}

    def _in_series_order(self, label: Label) -> Any:
        return labels_of_series(label.file, self.store.image(label.study).file)

    def _origin(self, label: Label) -> LabelOrigin:
        """Who made a label map: a model, a person alone, or a person after a model had predicted."""
        made: Made = "AUTOMATIC"
        model = label.tag
        if label.tag not in self._models:
            model = next((tag for tag in self.store.labels().get(label.study, {}) if tag in self._models), "")
            made = "SEMIAUTOMATIC" if model else "MANUAL"
        return LabelOrigin(label.tag, label.version.number, label.version.author, made, model)

    def _first_known(self, series: Sequence[str]) -> str | None:
        """Returns the first of some series that was fetched or is in the PACS."""
        for found in (self._here, (self._list.get() or {}).__contains__):
            for uid in series:
                if found(uid):
                    return uid
        self._list.find(series[0] if series else "")  # the PACS may have received it recently
        return next((uid for uid in series if uid in (self._list.get() or {})), None)

    def _about_series(self, series: str) -> Mapping[str, str]:
        about = self._list.find(series) if valid_uid(series) else None
        if about is None and self._list.get() is None:
            problem = self.web.breaker.problem or "it has not listed its series yet"
            raise UnavailableError(
                "PACS", f"cannot be asked for its series ({problem}).", "Is it running? Try again in a minute."
            )
        if about is None:
            raise unknown_study(series, "CT series")
        return about

    def _headers(self, series: str) -> list[Dataset]:
        """Returns headers of a series for objects that are derived from it; a reader process reads them."""
        folder = self._folder(series)
        about, _ = run_task("dicom_series", folder, folder=str(folder))
        return from_json(about["headers"])

    def _here(self, series: str) -> bool:
        """Returns whether a series was fetched."""
        try:
            self.store.image(series)
        except NotFoundError:
            return False
        return True

    def _folder(self, series: str) -> Path:
        """Returns the files of a series; fetched again if they were removed."""
        folder = self._files.folder(series)
        return folder if folder.is_dir() else self._fetch(series)

    def _fetch(self, series: str) -> Path:
        """Returns the folder of a series that is fetched now; its volume is taken into the store."""
        about = dict(self._about_series(series))

        def use(files: Path) -> None:
            if self._here(series):
                return
            volume = files.parent / f".part-{uuid.uuid4().hex[:8]}.nii.gz"
            try:
                write_volume(read_volume(files), volume)
                self.store.add_image(series, volume, about)
            finally:
                volume.unlink(missing_ok=True)

        return self._files.fetch(about["StudyInstanceUID"], series, use)
