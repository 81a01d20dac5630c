"""Draws a slice as a picture for thumbnails (WADO-RS rendered and thumbnail)."""

from __future__ import annotations

from io import BytesIO
from typing import Literal

import numpy as np
from PIL import Image

from medsam2_atlas.dicom.instances.series import WINDOW, InstanceSeries

THUMBNAIL = 128
"""Max width and height of a thumbnail in pixels."""


def slice_picture(
    series: InstanceSeries, plane: np.ndarray, kind: Literal["JPEG", "PNG"] = "JPEG", size: int | None = None
) -> bytes:
    """Returns a slice in the soft-tissue window as a picture with square pixels.

    Args:
        series: the slice's series.
        plane: stored values, `[y, x]` int16.
        kind: the file format.
        size: max width and height in pixels; the slice's own by default.
    """
    width, level = WINDOW
    values = (plane.astype(np.float32) * series.slope + series.intercept - (level - width / 2)) * (255 / width)
    picture = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    dx, dy = series.geometry.spacing[:2]
    across, down = picture.width * dx / min(dx, dy), picture.height * dy / min(dx, dy)
    factor = min(1.0, (size or max(across, down)) / max(across, down))
    picture = picture.resize((max(1, round(across * factor)), max(1, round(down * factor))), Image.Resampling.BILINEAR)
    stream = BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()
