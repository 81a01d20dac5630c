"""Whether stored measures are about a study's present image; if it was replaced, it is measured again later."""

from __future__ import annotations

from medsam2_atlas.active_learning import Row
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.storage import Image
from medsam2_atlas.studies import file_stamp


def is_of_present(row: Row, image: Image | None) -> bool:
    """Returns whether measures, or the reason why there are none, are about a study's present image. Reads the file's state.

    Args:
        row: the measures.
        image: the image; None if it is not on this server. Then nothing shows that a series of a PACS has changed.
    """
    if image is None:
        return True
    try:
        return row.image == file_stamp(image.file)
    except (OSError, InputError):  # the file was just removed
        return False
