"""A case as the annotator's viewer shows it: its label maps in the viewer's voxel order, its versions, what to offer first."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from datastores.pacs_datastore import PacsDatastore
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, NotFoundError, StorageError
from medsam2_atlas.demo.samples import is_sample
from medsam2_atlas.dicom.texts import date
from medsam2_atlas.imaging.dicom_order import DicomOrder, read_dicom_order
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.storage import FINAL, Draft, Drafts, Label, Version
from medsam2_atlas.studies import PredictionStore

log = logging.getLogger(__name__)

DRAFT = "draft"
"""The tag that stands for the person's draft if no version is named. With a version, it is an ordinary tag."""


@dataclass(frozen=True)
class Chosen:
    """A label map that a request names.

    Attributes:
        tag: its tag; `DRAFT` without a version for the person's draft.
        version: number of the version; None for the newest one.
    """

    tag: str
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> Chosen:
        """Returns the label map in a text such as `final/3`, `atlas` or `draft`.

        Raises:
            InputError: the text has another form.

        >>> Chosen.parse("final/3")
        Chosen(tag='final', version=3)
        """
        tag, slash, number = text.partition("/")
        if not tag or (slash and not (number.isascii() and number.isdecimal() and 0 < len(number) < 10)):
            raise InputError(repr(text[:80]), "names no label map.", "Write TAG/VERSION, such as final/3.")
        return cls(tag, int(number) if slash else None)


class AnnotatedCase:
    """A case of the server's studies."""

    def __init__(self, datastore: StudyDatastore, drafts: Drafts, study: str) -> None:
        """Reads nothing yet.

        Args:
            datastore: the studies.
            drafts: the drafts of all people.
            study: name of the study, which exists.
        """
        self.study, self._datastore, self._drafts = study, datastore, drafts

    @property
    def image(self) -> Path:
        """The file of the CT; a series of a PACS is fetched first."""
        return Path(self._datastore.get_image_uri(self.study))

    @cached_property
    def order(self) -> DicomOrder:
        """The voxel order of the CT in viewers."""
        return read_dicom_order(self.image, of_series=isinstance(self._datastore, PacsDatastore))

    def labels(self, chosen: Chosen, person: str) -> tuple[Any, int | None]:
        """Returns a label map in the viewer's order, `[z, y, x]` uint8, and its version; None for a draft.

        Args:
            chosen: the label map.
            person: id of the person, for the draft.

        Raises:
            NotFoundError: there is no such label map.
            ConflictError: the draft was drawn on another image.
            InputError: the label map does not fit the CT.
            StorageError: its file cannot be read, or has changed.
        """
        if chosen.tag == DRAFT and chosen.version is None:
            draft = self._drafts.current(self.study, person)
            if draft.shape != self.order.grid.shape:
                raise StorageError(draft.file, "has another size than the CT.", "Discard the draft.")
            return draft.labels(), None
        _ = self.image  # a series of a PACS is fetched first
        store = self._datastore.store
        number = chosen.version or store.label(self.study, chosen.tag).version.number
        return self.order.read_labels(store.version_file(self.study, chosen.tag, number)), number

    def version(self, chosen: Chosen) -> Version:
        """Returns the record of a version.

        Raises:
            NotFoundError: there is no such version.
        """
        for version in self._datastore.store.versions(self.study, chosen.tag):
            if version.number == chosen.version:
                return version
        raise NotFoundError(
            repr(self.study), f"has no version {chosen.version} under {chosen.tag[:80]!r}.", "Load another one."
        )

    def newest_final(self) -> Version | None:
        """Returns the newest version under `final`, which may be a removal; None if there never was one."""
        store = self._datastore.store
        try:
            return store.label(self.study, FINAL).version
        except NotFoundError:
            return store.versions(self.study, FINAL)[-1] if FINAL in store.tags(self.study) else None

    def versions(self) -> list[dict[str, Any]]:
        """Returns all versions that can be loaded, the newest first. A removed label map has no newest version."""
        store, found = self._datastore.store, []
        reports = PredictionStore(self._datastore.work, store)
        for tag in store.tags(self.study):
            label = self._label(tag)
            for version in store.versions(self.study, tag):
                newest = label is not None and version.number == label.version.number
                about = {
                    "tag": tag,
                    "version": version.number,
                    "author": version.author,
                    "time": version.made,
                    "model": tag if version.origin == "model" else None,
                    "newest": newest,
                    "problem": label.problem if label is not None and newest and label.problem else None,
                    "confidence": _confidence(reports.report(tag, self.study))
                    if newest and version.origin == "model"
                    else None,
                }
                if not version.removed:
                    found.append(about)
        return sorted(found, key=lambda about: (str(about["time"]), int(str(about["version"]))), reverse=True)

    def draft(self, person: str) -> dict[str, Any] | None:
        """Returns the description of a person's draft; None if there is none.

        `problem` states why it cannot be loaded. A draft that cannot be read can only be discarded.
        """
        try:
            draft = self._drafts.find(self.study, person)
            if draft is None:
                return None
            usable = self._drafts.usable(self.study, draft)
            return _described(draft) | {"problem": None if usable else "It was drawn on another image."}
        except StorageError as error:
            log.error("%s", error)
            return {"time": None, "base": None, "known": 0, "problem": f"It cannot be read. {error.remedy}"}

    @property
    def fetched(self) -> bool:
        """Whether the CT is on this server; a series of a PACS is fetched when it is first used."""
        try:
            self._datastore.store.image(self.study)
        except NotFoundError:
            return False
        return True

    @property
    def image_mark(self) -> str:
        """A text that changes with the image: the SHA-256 of its file, which is on this server. Empty if it cannot be read."""
        try:
            return self._datastore.store.checksum(self.study)
        except StorageError as error:
            log.error("%s", error)
            return ""

    def check_image(self, mark: str) -> None:
        """Checks that the case still has the image that a label map was drawn on.

        Args:
            mark: the `image_mark` of that image; empty if it is unknown, which passes.

        Raises:
            ConflictError: the case has another image now.
        """
        self._drafts.check_image(self.study, mark)

    @property
    def phantom(self) -> bool | None:
        """True if the CT is one of the sample phantoms; None if that is unknown."""
        try:
            store = self._datastore.store
            known = is_sample(store.image(self.study).file, lambda: store.checksum(self.study))
            return True if known else None
        except (OSError, MedSAM2AtlasError):
            return None

    @property
    def title(self) -> str:
        """The name for people; see `title_of`."""
        return title_of(self._datastore, self.study)

    def _label(self, tag: str) -> Label | None:
        try:
            return self._datastore.store.label(self.study, tag)
        except NotFoundError:
            return None


def title_of(datastore: StudyDatastore, study: str) -> str:
    """Returns the name of a case for people: the study, or for a series of a PACS its patient, description and date."""
    if not isinstance(datastore, PacsDatastore):
        return study
    try:
        info = datastore.get_image_info(study)
    except MedSAM2AtlasError:
        return study
    parts = [str(info.get(key) or "").strip() for key in ("PatientID", "SeriesDescription")]
    day = date(info.get("StudyDate"))
    parts.append(f"{day[:4]}-{day[4:6]}-{day[6:]}" if day else "")
    return " · ".join(part for part in parts if part) or study


def start_of(versions: list[dict[str, Any]], offered: str | None) -> dict[str, Any] | None:
    """Returns the version that a viewer opens: the newest final one, else the offered model's, else any model's; None if none.

    Args:
        versions: see `AnnotatedCase.versions`.
        offered: name of the offered model.
    """
    usable = [about for about in versions if about["newest"] and not about["problem"]]
    for accepted in (
        lambda about: about["tag"] == FINAL,
        lambda about: about["model"] and about["tag"] == offered,
        lambda about: about["model"],
    ):
        found = next(filter(accepted, usable), None)
        if found is not None:
            return {"tag": found["tag"], "version": found["version"]}
    return None


def offered_model(models: Mapping[str, Any], missing: Mapping[str, str], *, atlas_first: bool) -> str | None:
    """Returns the name of the model to offer: the first one that can run; None if none can.

    Args:
        models: the models whose predictions are stored, by name, in the order of the registry.
        missing: reasons why models cannot run, by name.
        atlas_first: whether the atlas alone is better than the networks, because these have demo weights and the CT is real.
    """
    able = [name for name in models if name not in missing]
    if atlas_first and "atlas" in able:
        return "atlas"
    return able[0] if able else None


def has_demo_weights(task: Any) -> bool:
    """Returns whether the weights of a model carry a mark, as demo weights do; False if the model cannot run."""
    try:
        return bool(task.info().get("weights_mark"))
    except (MedSAM2AtlasError, OSError, ValueError) as error:
        log.debug("the weights are unknown: %s", error)
        return False


def organs() -> list[dict[str, Any]]:
    """Returns number, name, title and colour of each organ, in the order of the table."""
    return [
        {"label": organ.index, "name": organ.name, "title": organ.display, "colour": list(organ.colour)}
        for organ in organ_table().organs
    ]


def _described(draft: Draft) -> dict[str, Any]:
    base = None if draft.base is None else {"tag": draft.base[0], "version": draft.base[1]}
    return {"time": draft.made, "base": base, "known": draft.known}


def _confidence(report: Mapping[str, Any]) -> dict[str, float] | None:
    """Returns the confidence of each organ, 0..1, by organ number as text; None if the report has none."""
    known, numbers = report.get("confidence"), {organ.name: organ.index for organ in organ_table().organs}
    if not isinstance(known, Mapping):
        return None
    found = {str(numbers[name]): value for name, value in known.items() if name in numbers and isinstance(value, (int, float))}
    return found or None
