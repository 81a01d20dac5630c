"""MONAI Label's datastore interface over a `StudyStore`.

In place of MONAI Label's own `LocalDatastore`, whose index a kill leaves unreadable, whose labels overwrite each other, and
whose ids lead out of the folder. Through this interface label maps are saved as a person's; models' predictions go to the
store itself.
"""

from __future__ import annotations

import copy
import json
import tempfile
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from medsam2_atlas.errors import InputError, NotFoundError
from medsam2_atlas.files import write_json
from medsam2_atlas.storage import FINAL, Label, Saved, StudyStore, suffix_of


class StudyDatastore(Datastore):
    """Studies in a local folder."""

    def __init__(self, path: Path, models: Collection[str] = ()) -> None:
        """
        Args:
            path: of the folder.
            models: whose names are tags that people do not save under.

        Raises:
            StorageError: the folder cannot be used.
        """
        self._models = frozenset(models)
        self.store = StudyStore(path)
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
        """Files of images and their `final` labels."""
        images, labels = self.store.images(), self.store.labels()
        return [
            {"image": str(images[study].file), "label": str(tags[FINAL].file)}
            for study, tags in sorted(labels.items())
            if FINAL in tags and study in images
        ]

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Tags that a study has labels under; a label's id is its study's."""
        return dict.fromkeys(self.store.labels().get(image_id, {}), image_id)

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """The label's id; empty where there is none."""
        try:
            return self.store.label(image_id, _text(tag)).study
        except NotFoundError:
            return ""

    def get_image(self, image_id: str, params: Any = None) -> bytes:
        """The file's content."""
        return self.store.image(image_id).file.read_bytes()

    def get_image_uri(self, image_id: str) -> str:
        """The file.

        Raises:
            NotFoundError: no such study.
        """
        return str(self.store.image(image_id).file)

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> bytes:
        """The file's content."""
        return self.store.label(label_id, _text(label_tag)).file.read_bytes()

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """The file.

        Raises:
            NotFoundError: no such label.
        """
        return str(self.store.label(label_id, _text(label_tag)).file)

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is kept with an image.

        Raises:
            NotFoundError: no such study.
        """
        image = self.store.image(image_id)
        return copy.deepcopy({**image.info, "name": image.file.name})

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is kept with a label: what its client sent, number, author, time and origin of its version.

        Raises:
            NotFoundError: no such label.
        """
        return label_info(self.store.label(label_id, _text(label_tag)))

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Studies with a label under the tag, `final` by default."""
        tag = _text(label_tag or FINAL)
        return sorted(study for study, tags in self.store.labels().items() if tag in tags)

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Studies without a label under the tag, `final` by default."""
        done = set(self.get_labeled_images(label_tag))
        return [study for study in self.store.images() if study not in done]

    def list_images(self) -> list[str]:
        """All studies."""
        return list(self.store.images())

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """A ZIP file of images and their `final` labels; who asks for it removes it.

        Raises:
            NotFoundError: nothing is signed off yet.
        """
        pairs = self.datalist()[: limit_cases or None]
        if not pairs:
            raise NotFoundError(self.store.path.name, "has no signed-off labels yet.", "Sign off a case first.")
        with tempfile.NamedTemporaryFile(suffix=".zip", delete=False) as stream, zipfile.ZipFile(stream, "w") as archive:
            for pair in pairs:
                for kind, file in pair.items():
                    archive.write(file, f"{kind}/{Path(file).name}")
            archive.writestr("metadata.json", json.dumps(self.json(), indent=2, default=str))
        return stream.name

    def refresh(self) -> None:
        """Takes in what other programs have put into the folder."""
        self.store.refresh()

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Takes an image in; its id by default is the file's name without suffix."""
        file = Path(image_filename)
        return self.store.add_image(image_id or file.name.removesuffix(suffix_of(file.name)), file, image_info or {}).study

    def remove_image(self, image_id: str) -> None:
        """Sets an image aside, with its labels."""
        self.store.remove_image(image_id)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Takes a person's label in; see `save_person_label`."""
        return self.save_person_label(image_id, Path(label_filename), label_tag, label_info).label.study

    def save_person_label(self, study: str, file: Path, label_tag: str, info: Mapping[str, Any]) -> Saved:
        """Takes a person's label in. `expected_version` and `user` in the info are who saves, and on top of what."""
        if _text(label_tag) in self._models:
            raise InputError(_text(label_tag), "is a model's tag.", "Save as final, or under a tag of your own.")
        info = dict(info or {})
        expected, author = info.pop("expected_version", None), str(info.get("user") or "")
        try:
            expected = None if expected is None else int(expected)
        except (TypeError, ValueError):
            raise InputError(repr(expected), "is not a version.", "Send the number that /datastore/label/info gave.") from None
        return self.store.save_label(study, _text(label_tag), file, author=author, info=info, expected_version=expected)

    def restore_label(self, study: str, tag: str, number: int, author: str) -> Saved:
        """Makes an earlier version the current one again, as a new version."""
        return self.store.restore_label(study, tag, number, author=author)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Takes the current label away; its versions stay."""
        self.store.remove_label(label_id, _text(label_tag))

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Adds to what is kept with an image."""
        self.store.update_image_info(image_id, info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Adds to what is kept with a label."""
        self.store.update_label_info(label_id, _text(label_tag), info)

    def status(self) -> dict[str, Any]:
        """Counts, as `/info` shows them."""
        total, tags = self.store.counts()
        return {"total": total, "completed": tags.get(FINAL, 0), "label_tags": tags}

    def json(self) -> dict[str, Any]:
        """Everything, in the shape of MONAI Label's own index."""
        labels = self.store.labels()
        objects = {
            study: {
                "image": {"ext": suffix_of(image.file.name), "info": {**image.info, "name": image.file.name}},
                "labels": {
                    tag: {"ext": suffix_of(label.file.name), "info": label_info(label)}
                    for tag, label in sorted(labels.get(study, {}).items())
                },
            }
            for study, image in self.store.images().items()
        }
        about = {"name": self.name(), "description": self.description(), "images_dir": ".", "labels_dir": "labels"}
        return about | {"objects": objects}

    def _about(self) -> dict[str, Any]:
        try:
            about: dict[str, Any] = json.loads(self._about_file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return about


def label_info(label: Label) -> dict[str, Any]:
    """What clients are told of a label."""
    version = label.version
    return {
        **copy.deepcopy(dict(version.info)),
        "name": label.file.name,
        "version": version.number,
        "origin": version.origin,
        "author": version.author,
        "made": version.made,
        "sha256": version.sha256,
    }


def _text(tag: str) -> str:
    return tag.value if isinstance(tag, DefaultLabelTag) else str(tag)
