"""Draws one slice of a CT as a small picture, with the organs of its label map in their colours."""

from __future__ import annotations

from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image

from medsam2_atlas.imaging.labels import OrganTable, organ_table

SIZE = 320
"""Max width and height of a picture in pixels."""
_LOW, _HIGH = -160.0, 240.0
"""The values that are drawn black and white: a window of 400 HU around 40 HU, which is usual for the abdomen."""
_OPACITY = 0.45


def draw_thumbnail(
    values: np.ndarray, spacing: tuple[float, float], labels: np.ndarray | None = None, table: OrganTable | None = None
) -> Image.Image:
    """Returns a picture of at most `SIZE` x `SIZE` pixels, in grey if there is no label map.

    Args:
        values: the slice, `[rows, columns]`, HU.
        spacing: the distances between rows and between columns, in mm.
        labels: its organ numbers, `[rows, columns]`; None for no label map.
        table: the colours of the organs; those of `configs/labels.yaml` by default.
    """
    grey = (np.clip((values - _LOW) / (_HIGH - _LOW), 0, 1) * 255).astype(np.uint8)
    height, width = grey.shape[0] * spacing[0], grey.shape[1] * spacing[1]
    size = (max(1, round(SIZE * width / max(width, height))), max(1, round(SIZE * height / max(width, height))))
    picture = Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR)
    if labels is None or not labels.any():
        return picture
    drawn = np.asarray(Image.fromarray(labels.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
    colour = np.repeat(np.asarray(picture, np.float32)[..., None], 3, 2)
    for organ in (table or organ_table()).organs:
        here = drawn == organ.index
        colour[here] = (1 - _OPACITY) * colour[here] + _OPACITY * np.array(organ.colour, np.float32)
    return Image.fromarray(colour.astype(np.uint8))


@cache
def empty_picture() -> bytes:
    """Returns an empty grey picture (PNG), in place of one that cannot be drawn."""
    stream = BytesIO()
    Image.new("L", (SIZE // 2, SIZE // 2), 48).save(stream, "PNG")
    return stream.getvalue()
