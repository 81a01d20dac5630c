"""Signed-off labels of a MONAI Label datastore, as the rooms of `medsam2_atlas` take them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from medsam2_atlas.atlas import ReferenceFiles

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finals:
    """Studies with a `final` label. files: by name. problems: why the others cannot be used, by study."""

    files: tuple[ReferenceFiles, ...]
    problems: dict[str, str]


def signed_off(datastore: Datastore) -> Finals:
    """Returns the signed-off studies; one whose files cannot be had, such as a series of a PACS that is away, is left out."""
    found, problems = [], {}
    for study in sorted(datastore.get_labeled_images()):
        try:
            label = datastore.get_label_by_image_id(study, DefaultLabelTag.FINAL)
            if label:
                image, file = datastore.get_image_uri(study), datastore.get_label_uri(label, DefaultLabelTag.FINAL)
                found.append(ReferenceFiles(study, Path(image), Path(file)))
        except Exception as error:  # noqa: BLE001 - one bad study must not keep the others from being learned from
            problems[study] = str(error)
            log.warning("the label of %s is left out: %s", study, error)
    return Finals(tuple(found), problems)
