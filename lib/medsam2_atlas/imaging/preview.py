"""Draws a preview: axial, coronal and sagittal slices with coloured organs and box prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medsam2_atlas.base.files import replacing
from medsam2_atlas.imaging.labels import OrganTable, organ_table
from medsam2_atlas.imaging.volume import Volume

_WINDOW = (-160.0, 240.0)
_OPACITY = 0.45
_PANEL = 420


class SliceBox(Protocol):
    """A box on an axial slice."""

    @property
    def z(self) -> int:
        """The index of the slice."""
        ...

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The box (x_min, y_min, x_max, y_max), in voxel indices; the last voxels are included."""
        ...


class Boxed(Protocol):
    """An organ with boxes, such as `prompting.OrganPrompt`."""

    @property
    def label(self) -> int:
        """The organ's number."""
        ...

    @property
    def boxes(self) -> Sequence[SliceBox]:
        """The organ's boxes."""
        ...


def write_preview(
    image: Volume,
    labels: np.ndarray,
    path: Path,
    prompts: Sequence[Boxed] = (),
    mark: str = "",
    table: OrganTable | None = None,
) -> None:
    """Writes a preview as PNG.

    Args:
        image: the CT.
        labels: label map `[z, y, x]` on the CT's grid, organ numbers.
        path: the file to write.
        prompts: organs whose boxes are drawn; see `draw_preview`.
        mark: a warning below the picture; empty for none.
        table: names and colours of the organs; those of `configs/labels.yaml` by default.
    """
    with replacing(path) as part:
        draw_preview(image, labels, prompts, mark, table).save(part, "PNG")


def draw_preview(
    image: Volume,
    labels: np.ndarray,
    prompts: Sequence[Boxed] = (),
    mark: str = "",
    table: OrganTable | None = None,
    like: np.ndarray | None = None,
) -> Image.Image:
    """Returns a picture with an axial, a coronal and a sagittal panel through the organs' middle, and a legend.

    Args:
        image: the CT.
        labels: label map `[z, y, x]` on the CT's grid, organ numbers.
        prompts: organs whose boxes on the axial panel are drawn. The panel shows a slice with boxes if one is near the middle.
        mark: a warning below the picture, such as that the weights are demo weights; empty for none.
        table: names and colours of the organs; those of `configs/labels.yaml` by default.
        like: another label map `[z, y, x]` whose middle selects the slices, so that pictures can be compared side by side.
    """
    table = table or organ_table()
    z, y, x = _cut(labels if like is None else like)
    boxed = sorted({box.z for p in prompts for box in p.boxes}, key=lambda s: (abs(s - z), s))
    if boxed and abs(boxed[0] - z) <= 0.1 * labels.shape[0]:
        z = boxed[0]
    sx, sy, sz = image.geometry.spacing
    cuts = (
        ("axial", image.array[z], labels[z], (sx, sy)),
        ("coronal", image.array[::-1, y], labels[::-1, y], (sx, sz)),
        ("sagittal", image.array[::-1, :, x], labels[::-1, :, x], (sy, sz)),
    )
    panels = []
    for name, hu, lab, spacing in cuts:
        panel, scale = _panel(hu, lab, spacing, table)
        draw = ImageDraw.Draw(panel)
        if name == "axial":
            for prompt in prompts:
                for box in prompt.boxes:
                    if box.z == z:
                        x0, y0, x1, y1 = box.box
                        corners = [(x0 * scale[0], y0 * scale[1]), ((x1 + 1) * scale[0], (y1 + 1) * scale[1])]
                        draw.rectangle([*corners[0], *corners[1]], outline=table[prompt.label].colour, width=2)
        draw.text((6, 4), name, fill=(255, 255, 255), font=_font(14))
        panels.append(panel)
    legend = _legend(labels, table)
    height = max(p.height for p in (*panels, legend)) + (24 if mark else 0)
    sheet = Image.new("RGB", (sum(p.width for p in panels) + legend.width + 8 * len(panels), height), (16, 16, 18))
    left = 0
    for panel in (*panels, legend):
        sheet.paste(panel, (left, 0))
        left += panel.width + 8
    if mark:
        ImageDraw.Draw(sheet).text((8, height - 20), mark, fill=(255, 190, 60), font=_font(14))
    return sheet


def _cut(labels: np.ndarray) -> tuple[int, int, int]:
    """Returns (z, y, x): the axial slice with the most organs (among equals, the largest area), and the organs' middle."""
    if not labels.any():
        z, y, x = (n // 2 for n in labels.shape)
        return z, y, x
    kinds = [len(np.unique(plane)) + float((plane > 0).mean()) for plane in labels]
    where = np.argwhere(labels > 0)
    _, y, x = np.median(where, axis=0).astype(int)
    return int(np.argmax(kinds)), int(y), int(x)


def _panel(
    hu: np.ndarray, labels: np.ndarray, spacing: tuple[float, float], table: OrganTable
) -> tuple[Image.Image, tuple[float, float]]:
    low, high = _WINDOW
    grey = np.clip((hu - low) / (high - low), 0, 1) * 255
    colour = np.repeat(grey[..., None], 3, 2)
    for organ in table.organs:
        here = labels == organ.index
        colour[here] = (1 - _OPACITY) * colour[here] + _OPACITY * np.array(organ.colour)
    rows, columns = labels.shape
    per_mm = _PANEL / max(columns * spacing[0], rows * spacing[1])
    scale = (spacing[0] * per_mm, spacing[1] * per_mm)
    picture = Image.fromarray(colour.astype(np.uint8))
    size = (max(1, round(columns * scale[0])), max(1, round(rows * scale[1])))
    return picture.resize(size, Image.Resampling.BILINEAR), scale


def _legend(labels: np.ndarray, table: OrganTable) -> Image.Image:
    shown = [o for o in table.organs if (labels == o.index).any()]
    picture = Image.new("RGB", (190, 22 * max(1, len(shown)) + 8), (16, 16, 18))
    draw = ImageDraw.Draw(picture)
    for row, organ in enumerate(shown):
        top = 6 + 22 * row
        draw.rectangle([4, top, 18, top + 14], fill=organ.colour)
        draw.text((26, top - 1), organ.display, fill=(230, 230, 230), font=_font(14))
    return picture


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
