"""Signed-off labels of a MONAI Label datastore, as the rooms of `medsam2_atlas` take them."""

from __future__ import annotations

from pathlib import Path

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from medsam2_atlas.atlas import ReferenceFiles


def signed_off(datastore: Datastore) -> list[ReferenceFiles]:
    """Studies with a `final` label, by name."""
    found = []
    for study in sorted(datastore.get_labeled_images()):
        label = datastore.get_label_by_image_id(study, DefaultLabelTag.FINAL)
        if label:
            image, file = datastore.get_image_uri(study), datastore.get_label_uri(label, DefaultLabelTag.FINAL)
            found.append(ReferenceFiles(study, Path(image), Path(file)))
    return found
