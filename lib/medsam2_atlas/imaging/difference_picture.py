"""Draws where two label maps of a CT differ on a slice: the first label map, the second one, and their differences."""

from __future__ import annotations

import numpy as np
from PIL import Image

from medsam2_atlas.imaging.labels import OrganTable, organ_table

DIFFERENCE_COLOURS = {1: (0, 220, 120), 2: (255, 70, 200), 3: (255, 200, 0)}
"""Colours of the values of a map of differences, as in the annotator's viewer: only in the first label map, only in the second
one, different organs."""

_WINDOW = (-160.0, 240.0)
_OPACITY = 0.5
_PANEL = 300
_GAP = 6
_MARGIN_MM = 20.0
_LEAST_MM = 90.0


def draw_difference(
    hu: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    spacing: tuple[float, float],
    organ: int,
    table: OrganTable | None = None,
) -> Image.Image:
    """Returns three square panels side by side, cropped to the surroundings of an organ.

    Args:
        hu: a slice of the CT `[y, x]`, HU.
        first: the same slice of the first label map `[y, x]`, organ numbers.
        second: the same slice of the second label map `[y, x]`.
        spacing: size of a pixel along x and y in mm.
        organ: number of the organ; its surroundings are those in either label map.
        table: colours of the organs; those of `configs/labels.yaml` by default.
    """
    table = table or organ_table()
    y, x = _crop((first == organ) | (second == organ), spacing)
    grey, one, two = hu[y, x], first[y, x], second[y, x]
    organs = {entry.index: entry.colour for entry in table.organs}
    differences = np.select([one == two, two == 0, one == 0], [0, 1, 2], 3)
    sheet = Image.new("RGB", (3 * _PANEL + 2 * _GAP, _PANEL), (16, 16, 18))
    for column, (labels, colours) in enumerate(((one, organs), (two, organs), (differences, DIFFERENCE_COLOURS))):
        sheet.paste(_panel(grey, labels, spacing, colours), (column * (_PANEL + _GAP), 0))
    return sheet


def _crop(mask: np.ndarray, spacing: tuple[float, float]) -> tuple[slice, slice]:
    """Returns the rows and columns around a mask `[y, x]`, about a square in mm; the whole slice if the mask is empty."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    ends = ((rows.min(), rows.max(), spacing[1]), (columns.min(), columns.max(), spacing[0]))
    half = max(_LEAST_MM, *((high - low + 1) * size + 2 * _MARGIN_MM for low, high, size in ends)) / 2
    cuts = []
    for (low, high, size), length in zip(ends, mask.shape, strict=True):
        middle, reach = (low + high + 1) / 2, half / size
        cuts.append(slice(max(0, round(middle - reach)), min(length, round(middle + reach) + 1)))
    return cuts[0], cuts[1]


def _panel(
    hu: np.ndarray, labels: np.ndarray, spacing: tuple[float, float], colours: dict[int, tuple[int, int, int]]
) -> Image.Image:
    low, high = _WINDOW
    grey = np.clip((hu - low) / (high - low), 0, 1) * 255
    picture = np.repeat(grey[..., None], 3, 2)
    for value, colour in colours.items():
        here = labels == value
        picture[here] = (1 - _OPACITY) * picture[here] + _OPACITY * np.array(colour)
    width, height = labels.shape[1] * spacing[0], labels.shape[0] * spacing[1]
    scale = _PANEL / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    panel = Image.new("RGB", (_PANEL, _PANEL), (16, 16, 18))
    shown = Image.fromarray(picture.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    panel.paste(shown, ((_PANEL - size[0]) // 2, (_PANEL - size[1]) // 2))
    return panel
