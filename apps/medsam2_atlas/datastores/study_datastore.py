"""MONAI Label's datastore interface over a `StudyStore`.

In place of MONAI Label's own `LocalDatastore`, whose index a kill leaves unreadable, whose labels overwrite each other, and
whose ids lead out of the folder. Through this interface label maps are saved as a person's; models' predictions go to the
store itself.

A label map or an image that cannot be used counts as neither done nor available; `problems` holds the reason.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from datastores.archive import dataset_archive
from datastores.confirmations import Confirmations, Refusal
from datastores.descriptions import described_studies, given_to, image_info, label_info
from datastores.save_options import save_options
from medsam2_atlas.base.errors import ConfirmError, InputError, NotFoundError
from medsam2_atlas.base.files import write_json
from medsam2_atlas.imaging.decoding import unreadable
from medsam2_atlas.storage import FINAL, Label, Saved, StudyStore, Version, suffix_of

log = logging.getLogger(__name__)


class StudyDatastore(Datastore):
    """Studies in a local folder."""

    def __init__(
        self,
        path: Path,
        models: Collection[str] = (),
        *,
        roots: Sequence[str | Path] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            path: of the folder.
            models: whose names are tags that people do not save under.
            roots: folders outside of it that its symbolic links may lead to.
            clock: returns seconds that never go back; how long a refused label map is remembered is measured by it.

        Raises:
            StorageError: the folder cannot be used.
        """
        self._models = frozenset(models)
        self._confirmations = Confirmations(clock)
        self.store = StudyStore(path, roots=tuple(Path(root) for root in roots))
        self._about_file = self.store.work.path / "about.json"

    def name(self) -> str:
        """What people call the studies; the folder's name by default."""
        return str(self._about().get("name", self.store.path.name))

    def set_name(self, name: str) -> None:
        """Changes the name."""
        write_json(self._about() | {"name": name}, self._about_file)

    def description(self) -> str:
        """What the studies are."""
        return str(self._about().get("description", ""))

    def set_description(self, description: str) -> None:
        """Changes the description."""
        write_json(self._about() | {"description": description}, self._about_file)

    def datalist(self) -> list[dict[str, Any]]:
        """Files of images and their `final` labels that models may learn from: MONAI Label's own train tasks ask for them."""
        labels, found = self.store.labels(), []
        for study, (image, label) in self._signed_off().items():
            final = labels.get(study, {}).get(FINAL)
            if final is not None and not self.store.held_back(final):
                found.append({"image": str(image), "label": str(label)})
        return found

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Returns the tags that a study has labels under; a label's id is its study's."""
        return dict.fromkeys(self.store.labels().get(image_id, {}), image_id)

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """Returns the label's id; empty where there is none."""
        try:
            return self.store.label(image_id, _text(tag)).study
        except NotFoundError:
            return ""

    def get_image(self, image_id: str, params: Any = None) -> bytes:
        """Returns the file's content."""
        return self.store.image(image_id).file.read_bytes()

    def get_image_uri(self, image_id: str) -> str:
        """Returns the file.

        Raises:
            NotFoundError: no such study.
        """
        return str(self.store.image(image_id).file)

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> bytes:
        """Returns the file's content."""
        return self.store.label(label_id, _text(label_tag)).file.read_bytes()

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Returns the file.

        Raises:
            NotFoundError: no such label.
        """
        return str(self.store.label(label_id, _text(label_tag)).file)

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is kept with an image.

        Raises:
            NotFoundError: no such study.
        """
        return image_info(self.store.image(image_id))

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is kept with a label: what its client sent, number, author, time and origin of its version.

        Raises:
            NotFoundError: no such label.
        """
        return label_info(self.store.label(label_id, _text(label_tag)))

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Returns studies with a label under the tag, `final` by default; one that cannot be used does not count."""
        return sorted(self._usable_labels(_text(label_tag or FINAL)))

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Returns studies with a usable image and without a usable label under the tag, `final` by default."""
        done = {*self.get_labeled_images(label_tag), *self._without_image()}
        return [study for study in self.store.images() if study not in done]

    def list_images(self) -> list[str]:
        """Returns all studies."""
        return list(self.store.images())

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Returns a ZIP file of images and their `final` labels; the caller removes it.

        A case whose files cannot be read is left out, and `metadata.json` says why (`left_out`).

        Raises:
            NotFoundError: nothing is signed off yet, or nothing of it can be read.
            StorageError: no room.
        """
        pairs = dict(list(self._signed_off().items())[: limit_cases or None])
        return str(dataset_archive(self.store.path.name, pairs, self.json()))

    def refresh(self) -> None:
        """Takes in what other programs have put into the folder."""
        self.store.refresh()

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Takes an image in; its id by default is the file's name without suffix."""
        file = Path(image_filename)
        return self.store.add_image(image_id or file.name[: -len(suffix_of(file.name))], file, image_info or {}).study

    def remove_image(self, image_id: str) -> None:
        """Sets an image aside, with its labels."""
        self.store.remove_image(image_id)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Takes a person's label in; see `save_person_label`."""
        return self.save_person_label(image_id, Path(label_filename), label_tag, label_info).label.study

    def save_person_label(self, study: str, file: Path, label_tag: str, info: Mapping[str, Any], author_id: str = "") -> Saved:
        """Saves a person's label.

        Args:
            study: name of the study.
            file: the label map.
            label_tag: its tag; not a model's.
            info: kept with the version, besides what tells how to save: `user`, who saves; `expected_version`, the version that
                the change rests on; `confirm`, that a `final` label map is meant to be empty, or to lack organs that the
                version before held. Without it, sending the same label map again within ten minutes confirms it; a client that
                asks the person itself sends false, and true once the person has agreed.
            author_id: tells the person from others of that name.

        Raises:
            InputError: a model's tag, an invalid option, or a label map that cannot be accepted.
            ConfirmError: organs would be lost, and the person has not confirmed that.
            ConflictError: the current version is not the expected one.
            StorageError: it cannot be written.
        """
        tag = _text(label_tag)
        if tag in self._models:
            raise InputError(tag, "is a model's tag.", "Save as final, or under a tag of your own.")
        options, kept = save_options(info)

        def save(confirmed: bool) -> Saved:
            return self.store.save_label(
                study,
                tag,
                file,
                author=options.author,
                author_id=author_id,
                info=kept,
                expected_version=options.expected_version,
                confirmed=confirmed,
            )

        try:
            return save(options.confirmed)
        except ConfirmError as error:
            refusal = Refusal(study, tag, author_id or options.author, error.digest, error.organs)
            if options.asks or not self._confirmations.confirms(refusal):
                raise
            log.info("%s by %s is saved: it was sent twice", study, options.author or "nobody in particular")
            return save(True)

    def restore_label(self, study: str, tag: str, number: int, author: str, author_id: str = "") -> Saved:
        """Makes an earlier version the current one again, as a new version."""
        return self.store.restore_label(study, tag, number, author=author, author_id=author_id)

    def confirm_label(self, study: str, tag: str, author: str, author_id: str = "") -> Saved:
        """Makes the current label map a new version that a person has confirmed for the image that is there now.

        Raises:
            InputError: a model's tag, or the label map does not fit the image.
            NotFoundError: no such label.
        """
        if tag in self._models:
            raise InputError(tag, "is a model's tag.", "Run the model again.")
        return self.store.confirm_label(study, tag, author=author, author_id=author_id)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Takes the current label away; its versions stay."""
        self.store.remove_label(label_id, _text(label_tag))

    def update_image_info(
        self, image_id: str, info: dict[str, Any], accept: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        """Adds to what is kept with an image. accept: called with all that would be kept; raises if it must not be."""
        if "strategy" in info:  # MONAI Label keeps whatever a client calls itself when it asks for the next case
            short = {name: {"ts": e["ts"], "client_id": str(e.get("client_id"))[:200]} for name, e in given_to(info).items()}
            info = {**info, "strategy": short}
        self.store.update_image_info(image_id, info, accept)

    def update_label_info(
        self, label_id: str, label_tag: str, info: dict[str, Any], accept: Callable[[Version], None] | None = None
    ) -> None:
        """Adds to what is kept with a label. accept: called with the version as it would be; raises if it must not be."""
        self.store.update_label_info(label_id, _text(label_tag), info, accept)

    def status(self) -> dict[str, Any]:
        """Returns the counts for `/info`; a signed-off label that cannot be used does not count as completed."""
        total, tags = self.store.counts()
        completed = len(self.get_labeled_images(FINAL)) if self._without_image() else tags.get(FINAL, 0)
        return {"total": total, "completed": completed, "label_tags": tags}

    def problems(self) -> dict[str, dict[str, str]]:
        """Returns problems of images and labels, also of files that ended their readers: study → {"image" or tag: text}."""
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
        """Everything, in the shape of MONAI Label's own index."""
        objects = described_studies(self.store.images(), self.store.labels())
        about = {"name": self.name(), "description": self.description(), "images_dir": ".", "labels_dir": "labels"}
        return about | {"objects": objects, "problems": self.problems()}

    def _about(self) -> dict[str, Any]:
        try:
            about = json.loads(self._about_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # a missing or damaged name is not fatal
            return {}
        return about if isinstance(about, dict) else {}

    def _signed_off(self) -> dict[str, tuple[Path, Path]]:
        """Returns image and `final` label of the studies that have both in a usable state, by study."""
        images, labels = self.store.images(), self._usable_labels(FINAL)
        return {study: (images[study].file, labels[study].file) for study in sorted(labels) if study in images}

    def _usable_labels(self, tag: str) -> dict[str, Label]:
        """Returns labels under a tag that can be used, of studies whose image can be, by study."""
        broken, found = self._without_image(), self.store.labels()
        return {
            study: tags[tag] for study, tags in found.items() if tag in tags and not tags[tag].problem and study not in broken
        }

    def _without_image(self) -> set[str]:
        return {study for study, wrong in self.problems().items() if "image" in wrong}


def _text(tag: str) -> str:
    return tag.value if isinstance(tag, DefaultLabelTag) else str(tag)
