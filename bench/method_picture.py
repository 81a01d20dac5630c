"""Draws the figure of docs/method.md from the sample data: `make pictures`.

The panels show a coronal plane and an axial slice of a sample target: the CT, the score maps, the prompting regions with their
box prompts, and the label map of strategy B with the demo weights.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from medsam2_atlas.atlas import build_atlas, find_references
from medsam2_atlas.base.files import replacing
from medsam2_atlas.base.resource import resource
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import read_volume
from medsam2_atlas.medsam2 import find_checkpoint, load_weights
from medsam2_atlas.prompting import prompting_config
from medsam2_atlas.segmenters.case import Case, Clock
from medsam2_atlas.segmenters.resources import Given

PICTURE = Path(__file__).parent.parent / "docs" / "method.png"
TITLES = ("1  target CT", "2  score maps", "3  prompting regions and box prompts", "4  label map")


def main() -> None:
    """Writes docs/method.png."""
    sample = resource("sample-data")
    target = find_references(sample / "targets")[0]
    atlas = build_atlas(find_references(sample / "references"))
    case = Case(read_volume(target.image), Given(atlas, load_weights(find_checkpoint())))
    clock = Clock()
    scores, prompts = case.scores(clock), case.first_prompts(prompting_config().three_boxes, clock)
    labels = case.prompted(prompts, clock)
    organs = case.organs
    maps = np.stack([[scores.plane(organ, z) for z in range(len(labels))] for organ in organs])

    table, image = organ_table(), case.image
    sx, sy, sz = image.geometry.spacing
    y = int(np.argmax([len(np.unique(labels[:, row])) for row in range(labels.shape[1])]))
    z = max((box.z for p in prompts.prompts for box in p.boxes), key=lambda z: len(np.unique(labels[z])))
    colours = {organ: np.array(table[organ].colour) / 255 for organ in organs}
    figure = Figure(figsize=(13, 7.2), layout="constrained")
    axes = figure.subplots(2, 4, height_ratios=[1.35, 1])
    planes = (((slice(None), y), sz / sx), ((z,), sy / sx))
    for row, (plane, aspect) in enumerate(planes):
        grey = np.clip((image.array[plane] + 160) / 400, 0, 1)[..., None].repeat(3, 2)
        voted = grey
        for organ, score in zip(organs, maps, strict=True):
            alpha = 0.75 * score[plane][..., None]
            voted = voted * (1 - alpha) + alpha * colours[organ]
        painted = grey.copy()
        for organ in organs:
            mask = labels[plane] == organ
            painted[mask] = 0.35 * painted[mask] + 0.65 * colours[organ]
        for axis, picture in zip(axes[row], (grey, voted, grey, painted), strict=True):
            axis.imshow(picture, origin="lower" if row == 0 else "upper", aspect=aspect, interpolation="bilinear")
            axis.set_axis_off()
    for axis, title in zip(axes[0], TITLES, strict=True):
        axis.set_title(title, loc="left", fontsize=12)
    for prompt in prompts.prompts:
        colour = colours[prompt.label]
        boxes = np.array([box.box for box in prompt.boxes])
        x0, x1 = boxes[:, 0].min(), boxes[:, 2].max()
        if boxes[:, 1].min() <= y <= boxes[:, 3].max():
            region = Rectangle((x0, prompt.z_min), x1 - x0, prompt.z_max - prompt.z_min, color=colour, alpha=0.25)
            axes[0, 2].add_patch(region)
            for box in prompt.boxes:
                axes[0, 2].plot([box.box[0], box.box[2]], [box.z, box.z], color=colour, linewidth=1.5)
        nearest = min(prompt.boxes, key=lambda box: abs(box.z - z))
        if abs(nearest.z - z) <= 3:
            x0, y0, x1, y1 = nearest.box
            axes[1, 2].add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=colour, linewidth=1.5))
    with replacing(PICTURE) as part:
        figure.savefig(part, format="png", dpi=80)


if __name__ == "__main__":
    main()
