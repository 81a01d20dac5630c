"""Pictures of studies with a label map, drawn once for each version and kept in the work folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from medsam2_atlas.base.errors import InputError, NotFoundError
from medsam2_atlas.imaging.hounsfield import CHECK, HuRule, to_hu
from medsam2_atlas.imaging.preview import write_preview
from medsam2_atlas.imaging.volume import read_labels, read_volume
from medsam2_atlas.storage import Label, StudyStore


def study_picture(
    store: StudyStore, study: str, tags: Sequence[str], image_of: Callable[[str], str | Path], hu: HuRule = CHECK
) -> Path:
    """Returns the picture (PNG) of a study with its first usable label map; draws it if there is none yet.

    Args:
        store: the studies.
        study: name of the study.
        tags: tags of the label maps, the preferred one first.
        image_of: returns the file of a study's image; called only if the picture must be drawn.
        hu: rule that converts the CT's values to HU.

    Raises:
        NotFoundError: if there is no such study, or it has no usable label map.
        InputError: if the image or the label map cannot be read.
    """
    label = _shown(store, study, tags)
    key = f"{study}/{label.tag}/{label.version.sha256}" + ("" if hu == CHECK else f"/{hu}")
    file = store.work.folder("pictures") / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.png"
    if not file.exists():
        image = read_volume(image_of(study))
        with suppress(InputError):  # values that the HU check refuses are drawn unchanged
            image = to_hu(image, hu)
        write_preview(image, read_labels(label.file, image).array, file)
        try:
            store.image(study)
        except NotFoundError:  # the study was erased while the picture was drawn
            file.unlink(missing_ok=True)
            raise
    return file


def _shown(store: StudyStore, study: str, tags: Sequence[str]) -> Label:
    labels: Mapping[str, Label] = store.labels().get(study, {})
    for tag in tags:
        if tag in labels and not labels[tag].problem:
            return labels[tag]
    raise NotFoundError(repr(study[:80]), "has no label map to show yet.", "Run a model on it.")
