"""Finds usable label maps of a MONAI Label datastore, for training and comparison."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from datastores.study_datastore import StudyDatastore
from medsam2_atlas.atlas import ReferenceFiles
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.storage import FINAL

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finals:
    """The signed-off studies for a training.

    Attributes:
        files: image and label map of each usable study, sorted by name.
        problems: reasons why the other signed-off studies cannot be used, by study.
    """

    files: tuple[ReferenceFiles, ...]
    problems: dict[str, str]


def usable_label(datastore: Datastore, study: str, tag: str) -> Path | None:
    """Returns the file of a study's label map with the given tag; None if there is none.

    Raises:
        InputError: the label map cannot be used, or its image has changed.
    """
    label = datastore.get_label_by_image_id(study, DefaultLabelTag(tag) if tag in set(DefaultLabelTag) else tag)
    if not label:
        return None
    problem = datastore.get_label_info(label, tag).get("problem")
    if problem:
        raise InputError(f"the label map of {study} with tag {tag}", problem)
    return Path(datastore.get_label_uri(label, tag))


def training_finals(datastore: StudyDatastore) -> Finals:
    """Returns the signed-off studies that models may be trained on.

    If the review stage is on, only studies whose label map a reviewer has accepted are returned. Studies whose files are
    unavailable, for example while a PACS does not answer, are left out.
    """
    found, problems = [], {}
    for study in sorted(datastore.get_labeled_images()):
        try:
            label = datastore.store.label(study, FINAL)
            problem = datastore.store.held_back(label)
            if problem:
                raise InputError(f"the label map of {study} with tag {FINAL}", problem)
            found.append(ReferenceFiles(study, Path(datastore.get_image_uri(study)), label.file))
        except Exception as error:  # noqa: BLE001 - one unusable study must not stop the training on the others
            problems[study] = str(error)
            log.warning("the label map of %s is left out: %s", study, error)
    return Finals(tuple(found), problems)
