"""Pictures of the slices on which two label maps of a study differ, drawn once for each pair of versions.

They share the limit in bytes of all pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam2_atlas.base.errors import InputError, NotFoundError
from medsam2_atlas.imaging.dicom_order import DicomOrder
from medsam2_atlas.imaging.difference_picture import draw_difference
from medsam2_atlas.imaging.hounsfield import CHECK, HuRule, to_hu
from medsam2_atlas.imaging.volume import read_volume
from medsam2_atlas.storage import StudyStore
from medsam2_atlas.studies.pictures import Pictures


@dataclass(frozen=True)
class Shown:
    """A slice of a comparison.

    Attributes:
        organ: number of the organ whose surroundings are shown.
        slice: number of the slice in the order of viewers, from 0.
    """

    organ: int
    slice: int


def difference_picture(
    store: StudyStore,
    pictures: Pictures,
    study: str,
    pair: str,
    shown: Shown,
    load: Callable[[], tuple[Path, DicomOrder, np.ndarray, np.ndarray]],
    others: Callable[[np.ndarray, np.ndarray], Sequence[Shown]],
    hu: HuRule = CHECK,
) -> Path:
    """Returns the picture (PNG) of a slice. If it has to be drawn, those of other slices are drawn too, with the CT read once.

    Args:
        store: the studies.
        pictures: the pictures of these studies.
        study: name of the study.
        pair: a text that changes with the image and with either label map.
        shown: the slice.
        load: returns the CT's file, its order, and both label maps `[z, y, x]` in the order of viewers.
        others: returns further slices for both label maps.
        hu: rule that converts the CT's values to HU.

    Raises:
        InputError: the CT has no such slice, or cannot be read.
        NotFoundError: the study was erased meanwhile.
        OSError: a picture cannot be written.
    """

    def key_of(one: Shown) -> str:
        return f"difference/{study}/{pair}/{one.organ}/{one.slice}"

    found = pictures.find(key_of(shown))
    if found is not None:
        return found
    file, order, first, second = load()
    if shown.slice >= len(first):
        raise InputError(
            "slice", f"{shown.slice} does not exist; the CT has {len(first)}.", "Choose a slice of the comparison."
        )
    volume = read_volume(file)
    with suppress(InputError):  # values that the HU check refuses are drawn unchanged
        volume = to_hu(volume, hu)
    image, spacing = order.to_viewer(volume.array), order.grid.spacing
    drawn = {}
    for one in {shown, *others(first, second)}:
        planes = (image[one.slice], first[one.slice], second[one.slice])
        drawn[key_of(one)] = draw_difference(*planes, (spacing[0], spacing[1]), one.organ)
    pictures.put(drawn)
    try:
        store.image(study)
    except NotFoundError:  # the study was erased while the pictures were drawn
        for key in drawn:
            pictures.remove(key)
        raise
    found = pictures.find(key_of(shown))
    if found is None:  # a study was erased at this moment, which removes all pictures
        raise NotFoundError(repr(study[:80]), "lost its picture.", "Request it again.")
    return found
