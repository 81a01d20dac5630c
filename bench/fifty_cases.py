"""Measures whether memory grows over 50 cases in one process (`python bench/fifty_cases.py`).

Each case is another generated patient: strategy D, then a box, a correction and several organs from a person's marks. The limit
on open CTs is small, so that CTs are closed from the first cases on.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from medsam2_atlas.base.console import console
from medsam2_atlas.base.resource import resource
from medsam2_atlas.demo.phantoms import draw_case
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.medsam2 import load_weights
from medsam2_atlas.prompting import MarkedOrgan, marked_organ
from medsam2_atlas.segmenters.base import Options
from medsam2_atlas.segmenters.open_images import OpenImages
from medsam2_atlas.segmenters.places import find_unet
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.studies.runner import run
from medsam2_atlas.unet import load_unet

CASES, SHOWN_EVERY, POPULATION, SPACING_MM = 50, 10, 4715, 8.0
ORGANS, REACH_MM, LIMIT = (1, 2, 4), 16.0, 32 * 2**20


def patient(number: int) -> tuple[Volume, np.ndarray]:
    """Returns a generated CT, and its label map `[z, y, x]`."""
    case = draw_case(POPULATION, number, SPACING_MM)
    shape = case.image.shape
    grid = Geometry(shape[::-1], (SPACING_MM,) * 3, (0.0, 0.0, 0.0))
    return Volume(case.image.astype(np.float32), grid, grid, f"patient {number}"), case.label


def marked(image: Volume, truth: np.ndarray, label: int, *, corrected: bool = False) -> MarkedOrgan:
    """Returns a box around an organ on its middle slice, and a point inside it two slices above."""
    mask = truth == label
    slices = np.flatnonzero(mask.any((1, 2)))
    z = int(slices[len(slices) // 2])
    rows, columns = np.nonzero(mask[z])
    box = [[columns.min(), rows.min(), z], [columns.max(), rows.max(), z]]
    points = [[columns[0], rows[0], min(z + 2, len(mask) - 1)]] if corrected else []
    return marked_organ(image, label, boxes=[box], inside=points, reach=REACH_MM)


def main() -> None:
    torch.set_num_threads(1)
    images = OpenImages(lambda _: LIMIT)
    weights, unet = load_weights(Path(resource("weights/medsam2_demo.pt"))), load_unet(find_unet("unet_3d"))
    given = LoadedResources(None, weights, {"unet_3d": unet}, images=images)
    process, used, began = psutil.Process(), [], time.monotonic()
    for n in range(int(sys.argv[1]) if len(sys.argv) > 1 else CASES):
        image, truth = patient(n)
        run(given.segmenter("D"), image, Options(organs=ORGANS, prompts="unet"), given, no_energy="not measured here")
        first, *others = [marked(image, truth, label) for label in ORGANS]
        for options in (
            Options(marks=first),
            Options(marks=marked(image, truth, ORGANS[0], corrected=True)),
            Options(marks=first, more_marks=tuple(others)),
        ):
            run(given.segmenter("medsam2"), image, options, given, no_energy="not measured here")
        used.append(process.memory_info().rss / 2**20)
        if (n + 1) % SHOWN_EVERY == 0:
            kept = f"{len(images)} CTs open, {images.bytes / 2**20:.0f} MiB"
            console.print(f"{n + 1:3d} cases, {time.monotonic() - began:5.0f} s: {used[-1]:6.0f} MiB; {kept}")
    slope = np.polyfit(np.arange(len(used[SHOWN_EVERY:])), used[SHOWN_EVERY:], 1)[0] * CASES
    console.print(f"after the first {SHOWN_EVERY}: {slope:+.1f} MiB per {CASES} cases")


if __name__ == "__main__":
    main()
