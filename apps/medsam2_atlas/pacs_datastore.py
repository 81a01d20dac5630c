"""Studies of a DICOMweb server such as Orthanc: series come from there, signed-off labels go there as DICOM SEG.

A study is a CT series, named by its Series Instance UID. What was fetched, and every version of every label map, lies in a
`StudyStore` of this server; so all that works on a folder works here. `final` label maps are sent to the PACS besides. A SEG
that cannot be sent is kept and sent later: the label map itself is safe.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset
from requests import RequestException, Response, Session

from medsam2_atlas.dicom import LabelOrigin, Made, read_seg, write_rtstruct, write_seg
from medsam2_atlas.errors import InputError, MedSAM2AtlasError, NotFoundError, StorageError
from medsam2_atlas.storage import FINAL, Label, Saved, Version
from medsam2_atlas.volume import read_labels, read_volume, write_volume
from study_datastore import StudyDatastore

log = logging.getLogger(__name__)

_LIST_SECONDS = 20.0
_RETRY_SECONDS = 60.0
_TIMEOUT_SECONDS = (5.0, 120.0)
"""To connect, and between two pieces of an answer."""
_KEPT = ("StudyInstanceUID", "SeriesInstanceUID", "PatientID", "StudyDate", "Modality", "SeriesDescription")


class ImpatientSession(Session):
    """A session that does not wait for ever for a server that does not answer."""

    def request(self, *args: Any, **options: Any) -> Response:
        """As in requests, with a timeout where none is given."""
        options["timeout"] = options.get("timeout") or _TIMEOUT_SECONDS
        return super().request(*args, **options)


class PacsDatastore(StudyDatastore):
    """CT series of a DICOMweb server."""

    def __init__(
        self, client: DICOMwebClient, folder: Path, models: Collection[str] = (), series: Mapping[str, Any] | None = None
    ) -> None:
        """
        Args:
            client: of the DICOMweb server.
            folder: where series, label maps and their versions are kept.
            models: whose names are tags that people do not save under.
            series: what to search for; CT series by default.

        Raises:
            StorageError: the folder cannot be used.
        """
        super().__init__(folder / "store", models)
        self._client, self._series_folder = client, folder / "series"
        self._filter = dict(series or {"Modality": "CT"})
        self._listed: tuple[float, dict[str, Dataset]] = (float("-inf"), {})
        self._listing = threading.Lock()
        """Guards the list of series; held for as long as the server takes to list them."""
        self._sending = threading.Lock()
        """Held while a label map is sent, so that each version is sent once."""
        self._fetching = threading.Lock()
        """Held while a series is fetched, so that it is fetched once; minutes, where nothing else waits for it."""

    def list_images(self) -> list[str]:
        """All CT series of the server."""
        return sorted(self._series())

    def get_image(self, image_id: str, params: Any = None) -> bytes:
        """The volume's file, as NIfTI on the series' own grid."""
        return Path(self.get_image_uri(image_id)).read_bytes()

    def get_image_uri(self, image_id: str) -> str:
        """The volume's file, fetched when it is first asked for.

        Raises:
            NotFoundError: no such series.
            InputError: it makes no volume.
            StorageError: the server cannot be asked.
        """
        try:
            return str(self.store.image(image_id).file)
        except NotFoundError:
            return str(self._fetch(image_id))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is kept with a series; of one that was not fetched yet, what the server tells."""
        try:
            return super().get_image_info(image_id)
        except NotFoundError:
            return self._about_series(image_id)

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Series without a label under the tag, `final` by default."""
        done = set(self.get_labeled_images(label_tag))
        return [series for series in self.list_images() if series not in done]

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Adds to what is kept with a series, once it has been fetched."""
        if image_id in self.store.images():
            self.store.update_image_info(image_id, info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Adds to what is kept with a label; what became of it in the PACS is not for clients to say."""
        super().update_label_info(label_id, label_tag, {key: info[key] for key in info if key != "pacs"})

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refused: images come from the PACS.

        Raises:
            InputError: always.
        """
        raise InputError("image", "cannot be uploaded here.", "Send the series to the PACS.")

    def status(self) -> dict[str, Any]:
        """Counts, as `/info` shows them."""
        return {**super().status(), "total": len(self._series())}

    def save_person_label(self, study: str, file: Path, label_tag: str, info: Mapping[str, Any]) -> Saved:
        """Takes a person's label in, and sends it to the PACS if it is `final`."""
        self.get_image_uri(study)
        saved = super().save_person_label(study, file, label_tag, {key: info[key] for key in info if key != "pacs"})
        if saved.label.tag == FINAL:
            self._send(study)
        return saved

    def restore_label(self, study: str, tag: str, number: int, author: str) -> Saved:
        """Makes an earlier version the current one, and sends it to the PACS if it is `final`."""
        saved = super().restore_label(study, tag, number, author)
        if tag == FINAL:
            self._send(study)
        return saved

    def save_seg(self, seg: Dataset, author: str) -> Saved:
        """Takes a person's DICOM SEG in, as the `final` label of the series that it refers to.

        Raises:
            InputError: it refers to no CT series of the server, or holds what is no organ.
        """
        series = [str(item.SeriesInstanceUID) for item in seg.get("ReferencedSeriesSequence", ())]
        study = next((uid for uid in series if uid in self._series()), None)
        if study is None:
            raise InputError("segmentation", "refers to no CT series of this server.", "Segment one of its series.")
        image = sitk.ReadImage(self.get_image_uri(study))
        labels = sitk.GetImageFromArray(read_seg(seg, self._series_folder / study))
        labels.CopyInformation(image)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "label.nii.gz"
            sitk.WriteImage(labels, str(file))
            return self.save_person_label(study, file, FINAL, {"user": author, "from": "DICOM SEG"})

    def keep_sending(self, stop: threading.Event) -> None:
        """Sends what could not be sent before, again and again until it is told to stop."""
        while True:
            try:
                self.send_pending()
            except (MedSAM2AtlasError, RequestException, OSError) as error:
                log.warning("label maps that wait for the PACS could not be sent: %s", error)
            if stop.wait(_RETRY_SECONDS):
                return

    def send_pending(self) -> None:
        """Sends what could not be sent before."""
        for study, tags in self.store.labels().items():
            if FINAL in tags and not _sent(tags[FINAL].version):
                self._send(study)

    def rtstruct(self, study: str, tag: str) -> Dataset:
        """The current label as an RT structure set.

        Raises:
            NotFoundError: no such label.
        """
        label = self.store.label(study, tag)
        return write_rtstruct(self._in_series_order(label), self._series_folder / study, self._origin(label))

    def _in_series_order(self, label: Label) -> sitk.Image:
        """A label map may have been saved with other axes than the series': its voxels are put in the series' order."""
        like = read_volume(self.store.image(label.study).file)
        return like.with_array(read_labels(label.file, like).array).restored()

    def _origin(self, label: Label) -> LabelOrigin:
        """Who made a label map: a model, a person alone, or a person after a model had predicted."""
        made: Made = "AUTOMATIC"
        model = label.tag
        if label.tag not in self._models:
            model = next((tag for tag in self.store.labels()[label.study] if tag in self._models), "")
            made = "SEMIAUTOMATIC" if model else "MANUAL"
        return LabelOrigin(label.tag, label.version.number, label.version.author, made, model)

    def _send(self, study: str) -> None:
        with self._sending:
            self._send_newest(study)

    def _send_newest(self, study: str) -> None:
        label = self.store.label(study, FINAL)
        version = label.version
        if _sent(version):
            return
        try:
            seg = write_seg(self._in_series_order(label), self._series_folder / study, self._origin(label))
            self._client.store_instances([seg])
            state = {"state": "sent", "series": str(seg.SeriesInstanceUID), "instance": str(seg.SOPInstanceUID)}
        except (RequestException, OSError) as error:
            log.error("the label of %s could not be sent to the PACS; it is kept, and sent later: %s", study, error)
            state = {"state": "pending", "problem": str(error)[:500]}
        self.store.update_label_info(study, FINAL, {"pacs": {**state, "version": version.number}})

    def _series(self) -> dict[str, Dataset]:
        """All CT series by UID; asked for again after a while."""
        with self._listing:
            asked, found = self._listed
            if time.monotonic() - asked > _LIST_SECONDS:
                try:
                    answers = self._client.search_for_series(search_filters=self._filter, fields=["SeriesDescription"])
                except RequestException as error:
                    if not found:
                        raise StorageError("PACS", f"cannot be asked for its series ({error}).", "Is it running?") from error
                    log.warning("the PACS cannot be asked for its series: %s", error)
                    return found
                datasets = [Dataset.from_json(answer) for answer in answers]
                found = {str(ds.SeriesInstanceUID): ds for ds in datasets}
                self._listed = (time.monotonic(), found)
            return found

    def _about_series(self, series: str) -> dict[str, Any]:
        known = self._series()
        if series not in known:
            raise NotFoundError(repr(series[:80]), "is no CT series of this server.", "Ask /datastore for those there are.")
        return {tag: str(known[series].get(tag, "")) for tag in _KEPT}

    def _fetch(self, series: str) -> Path:
        about = self._about_series(series)
        self._series_folder.mkdir(exist_ok=True)
        with self._fetching:
            if series not in self.store.images():
                began = time.perf_counter()
                with tempfile.TemporaryDirectory(dir=self._series_folder, prefix=".part-") as part:
                    files = Path(part) / "files"
                    files.mkdir()
                    self._download(about["StudyInstanceUID"], series, files)
                    volume = read_volume(files)
                    write_volume(volume, Path(part) / "volume.nii.gz")
                    target = self._series_folder / series
                    if target.exists():
                        shutil.rmtree(target)
                    files.rename(target)
                    self.store.add_image(series, Path(part) / "volume.nii.gz", about)
                log.info("series %s fetched in %.1f s", series, time.perf_counter() - began)
        return self.store.image(series).file

    def _download(self, study: str, series: str, folder: Path) -> None:
        try:
            for n, ds in enumerate(self._client.iter_series(study, series)):
                ds.preamble = b"\0" * 128
                ds.save_as(folder / f"{n:05d}.dcm", write_like_original=False)
        except RequestException as error:
            raise StorageError("PACS", f"cannot be asked for the series ({error}).", "Is it running?") from error


def _sent(version: Version) -> bool:
    """Whether this very version is in the PACS; a restored one carries what was known of the earlier."""
    known = version.info.get("pacs", {})
    return known.get("state") == "sent" and known.get("version") == version.number
