"""The datastore of a studies folder: MONAI Label's datastore interface for a `StudyStore`.

It replaces MONAI Label's `LocalDatastore`, which has three faults: a killed process can leave its index unreadable, label maps
overwrite each other, and ids can be paths that lead out of the folder. Label maps that are saved through this interface count
as a person's; models' predictions are saved to the store directly.

A study whose image or label map cannot be used is listed neither as labelled nor as unlabelled; `problems` returns the reason.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from datastores.archive import dataset_archive
from datastores.case_claims import CaseClaims
from datastores.confirmations import Confirmations, Refusal
from datastores.descriptions import assignments, described_studies, image_info, label_info, stored_about
from datastores.save_options import save_options
from medsam2_atlas.base.errors import ConfirmError, InputError, NotFoundError
from medsam2_atlas.base.files import write_json
from medsam2_atlas.imaging.decoding import unreadable
from medsam2_atlas.storage import CLAIMS, FIGURES, FINAL, Label, Saved, StudyStore, Version, suffix_of
from medsam2_atlas.team import FigureTable

log = logging.getLogger(__name__)


class StudyDatastore(Datastore):
    """The datastore of a studies folder."""

    def __init__(
        self,
        path: Path,
        models: Collection[str] = (),
        *,
        roots: Sequence[str | Path] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens the studies folder.

        Args:
            path: the studies folder.
            models: names of the models, which are tags that people cannot save under.
            roots: folders outside of the studies folder that symbolic links in it may lead to.
            clock: returns the time in seconds and must never go back; measures the age of refused label maps.

        Raises:
            StorageError: the folder cannot be used.
        """
        self._models = frozenset(models)
        self._confirmations = Confirmations(clock)
        self.store = StudyStore(path, roots=tuple(Path(root) for root in roots))
        self.work = self.store.work  # the work folder of the studies, with the reports of predictions
        self.signed_off = threading.Event()
        folder = self.work.folder(".")
        self.claims = CaseClaims(folder / CLAIMS, erased=self.store.erased.just_now)
        self.figures = FigureTable(folder / FIGURES)
        self._about_file = self.work.path / "about.json"

    def name(self) -> str:
        """Returns the name of the datastore that clients show; the name of the folder by default."""
        return str(stored_about(self._about_file).get("name", self.store.path.name))

    def set_name(self, name: str) -> None:
        """Changes the name of the datastore."""
        write_json(stored_about(self._about_file) | {"name": name}, self._about_file)

    def description(self) -> str:
        """Returns the description of the datastore; empty by default."""
        return str(stored_about(self._about_file).get("description", ""))

    def set_description(self, description: str) -> None:
        """Changes the description of the datastore."""
        write_json(stored_about(self._about_file) | {"description": description}, self._about_file)

    def datalist(self) -> list[dict[str, Any]]:
        """Returns the images and final label maps that models may be trained on, for MONAI Label's own train tasks."""
        labels, found = self.store.labels(), []
        for study, (image, label) in self._signed_off().items():
            final = labels.get(study, {}).get(FINAL)
            if final is not None and not self.store.held_back(final):
                found.append({"image": str(image), "label": str(label)})
        return found

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Returns the ids of a study's label maps by tag; the id of a label map is the name of its study."""
        return dict.fromkeys(self.store.labels().get(image_id, {}), image_id)

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """Returns the id of a study's label map with the given tag; empty if there is none."""
        try:
            return self.store.label(image_id, _text(tag)).study
        except NotFoundError:
            return ""

    def get_image(self, image_id: str, params: Any = None) -> bytes:
        """Returns the content of an image's file."""
        return self.store.image(image_id).file.read_bytes()

    def get_image_uri(self, image_id: str) -> str:
        """Returns the path of an image's file.

        Raises:
            NotFoundError: the study is unknown.
        """
        return str(self.store.image(image_id).file)

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> bytes:
        """Returns the content of a label map's file."""
        return self.store.label(label_id, _text(label_tag)).file.read_bytes()

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Returns the path of a label map's file.

        Raises:
            NotFoundError: the study has no label map of that tag.
        """
        return str(self.store.label(label_id, _text(label_tag)).file)

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Returns the information stored with an image.

        Raises:
            NotFoundError: the study is unknown.
        """
        return image_info(self.store.image(image_id))

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """Returns the number, author, time and origin of a label map's version, and the information from its client.

        Raises:
            NotFoundError: the study has no label map of that tag.
        """
        return label_info(self.store.label(label_id, _text(label_tag)))

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Returns the studies with a usable image and a usable label map of the given tag, `final` by default."""
        return sorted(self._usable_labels(_text(label_tag or FINAL)))

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Returns the studies with a usable image but no usable label map of the given tag, `final` by default."""
        done = {*self.get_labeled_images(label_tag), *self._without_image()}
        return [study for study in self.store.images() if study not in done]

    def list_images(self) -> list[str]:
        """Returns the names of all studies."""
        return list(self.store.images())

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Writes a temporary ZIP file with the images and final label maps of the signed-off studies.

        A case whose files cannot be read is left out; `metadata.json` contains the reason (`left_out`).

        Args:
            limit_cases: max number of cases; all if None or 0.

        Returns:
            The path of the file, which the caller removes.

        Raises:
            NotFoundError: no study is signed off, or none can be read.
            StorageError: the archive cannot be written.
        """
        pairs = dict(list(self._signed_off().items())[: limit_cases or None])
        return str(dataset_archive(self.store.path.name, pairs, self.json()))

    def refresh(self) -> None:
        """Adds the files that other programs have written into the folder."""
        self.store.refresh()

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Adds an image as a study and returns its id; by default, the id is the file name without suffix."""
        file = Path(image_filename)
        return self.store.add_image(image_id or file.name[: -len(suffix_of(file.name))], file, image_info or {}).study

    def remove_image(self, image_id: str) -> None:
        """Moves an image and its label maps out of the studies, without deleting them."""
        self.store.remove_image(image_id)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Saves a person's label map and returns its id; see `save_person_label`."""
        return self.save_person_label(image_id, Path(label_filename), label_tag, label_info).label.study

    def save_person_label(self, study: str, file: Path, label_tag: str, info: Mapping[str, Any], author_id: str = "") -> Saved:
        """Saves a person's label map as a new version.

        Args:
            study: name of the study.
            file: the label map.
            label_tag: tag of the label map; not a model's name.
            info: information to store with the version, and options for saving. `user` is the name of the author.
                `expected_version` is the number of the version that the person has edited. `confirm` (true) confirms that a
                `final` label map is empty, or lacks organs of the previous version. A client that can ask the person sends
                `confirm` false first. Without `confirm`, sending the same label map again within ten minutes confirms it.
            author_id: id that distinguishes the author from other people of the same name.

        Raises:
            InputError: the tag is a model's name, an option is invalid, or the label map cannot be accepted.
            ConfirmError: organs would be lost, and the person has not confirmed that.
            ConflictError: the current version is not the expected one.
            StorageError: the label map cannot be written.
        """
        tag = _text(label_tag)
        if tag in self._models:
            raise InputError(tag, "is a model's tag.", "Save the label map as final, or with a tag of your own.")
        options, kept = save_options(info)

        def save(confirmed: bool) -> Saved:
            about = {"author": options.author, "author_id": author_id}
            expected = options.expected_version
            saved = self.store.save_label(study, tag, file, **about, info=kept, expected_version=expected, confirmed=confirmed)
            if tag == FINAL:
                self.claims.finish(study, author_id)
                self.signed_off.set()
            return saved

        try:
            return save(options.confirmed)
        except ConfirmError as error:
            refusal = Refusal(study, tag, author_id or options.author, error.digest, error.organs)
            if options.client_asks or not self._confirmations.confirms(refusal):
                raise
            log.info("%s by %s is saved, because it was sent twice", study, options.author or "an unknown person")
            return save(True)

    def restore_label(self, study: str, tag: str, number: int, author: str, author_id: str = "") -> Saved:
        """Makes an earlier version the current one, as a new version.

        Args:
            study: name of the study.
            tag: tag of the label map.
            number: number of the earlier version.
            author: name of the person who restores it.
            author_id: id of that person.
        """
        return self.store.restore_label(study, tag, number, author=author, author_id=author_id)

    def confirm_label(self, study: str, tag: str, author: str, author_id: str = "") -> Saved:
        """Saves the current label map as a new version, which a person has confirmed for the present image.

        Args:
            study: name of the study.
            tag: tag of the label map; not a model's name.
            author: name of the person who confirms it.
            author_id: id of that person.

        Raises:
            InputError: the tag is a model's name, or the label map does not fit the image.
            NotFoundError: the study has no label map of that tag.
        """
        if tag in self._models:
            raise InputError(tag, "is a model's tag.", "Run the model again.")
        return self.store.confirm_label(study, tag, author=author, author_id=author_id)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Removes the current label map; its versions are kept."""
        self.store.remove_label(label_id, _text(label_tag))

    def update_image_info(
        self, image_id: str, info: dict[str, Any], accept: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        """Adds information to an image.

        Args:
            image_id: name of the study.
            info: the new entries.
            accept: called with all entries that would be stored; raises an error to refuse them.
        """
        if "strategy" in info:  # MONAI Label stores the client's name with an assignment, at any length
            short = {name: {"ts": e["ts"], "client_id": str(e.get("client_id"))[:200]} for name, e in assignments(info).items()}
            info = {**info, "strategy": short}
        self.store.update_image_info(image_id, info, accept)

    def update_label_info(
        self, label_id: str, label_tag: str, info: dict[str, Any], accept: Callable[[Version], None] | None = None
    ) -> None:
        """Adds information to the current version of a label map.

        Args:
            label_id: name of the study.
            label_tag: tag of the label map.
            info: the new entries.
            accept: called with the version that would be stored; raises an error to refuse it.
        """
        self.store.update_label_info(label_id, _text(label_tag), info, accept)

    def status(self) -> dict[str, Any]:
        """Returns the counts for `/info`; a signed-off study that cannot be used does not count as completed."""
        total, tags = self.store.counts()
        completed = len(self.get_labeled_images(FINAL)) if self._without_image() else tags.get(FINAL, 0)
        return {"total": total, "completed": completed, "label_tags": tags}

    def problems(self) -> dict[str, dict[str, str]]:
        """Returns the problems of images and label maps, including files that crashed a reader process.

        Returns:
            Problems by study, each a mapping from `image` or a tag to the problem in words.
        """
        found, ended = self.store.problems(), unreadable()
        if ended:
            for study, image in self.store.images().items():
                if image.file in ended:
                    found.setdefault(study, {})["image"] = ended[image.file]
            for study, tags in self.store.labels().items():
                for label in tags.values():
                    if label.file in ended:
                        found.setdefault(study, {})[label.tag] = ended[label.file]
        return found

    def json(self) -> dict[str, Any]:
        """Returns all images and label maps, in the format of MONAI Label's own index."""
        objects = described_studies(self.store.images(), self.store.labels())
        about = {"name": self.name(), "description": self.description(), "images_dir": ".", "labels_dir": "labels"}
        return about | {"objects": objects, "problems": self.problems()}

    def forget(self) -> None:
        """Drops data of CTs in memory, for example after an erasure; a studies store keeps none."""

    def _signed_off(self) -> dict[str, tuple[Path, Path]]:
        """Returns the image and the final label map of the studies in which both can be used, by study."""
        images, labels = self.store.images(), self._usable_labels(FINAL)
        return {study: (images[study].file, labels[study].file) for study in sorted(labels) if study in images}

    def _usable_labels(self, tag: str) -> dict[str, Label]:
        """Returns the usable label maps of a tag, of studies with a usable image, by study."""
        broken, found = self._without_image(), self.store.labels()
        return {
            study: tags[tag] for study, tags in found.items() if tag in tags and not tags[tag].problem and study not in broken
        }

    def _without_image(self) -> set[str]:
        """Returns the studies whose image cannot be used."""
        return {study for study, wrong in self.problems().items() if "image" in wrong}


def _text(tag: str) -> str:
    return tag.value if isinstance(tag, DefaultLabelTag) else str(tag)
