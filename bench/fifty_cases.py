"""Measures whether memory grows over 50 cases in one process (`python bench/fifty_cases.py`).

Each case is another CT: one of five generated patients with slightly different values. It is segmented with prompts from the
ground truth, then from a person's box, correction, and boxes on several organs. The limit on open CTs is small, so that CTs are
closed from the first cases on.
"""

from __future__ import annotations

import gc
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
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.studies.runner import run

CASES, PATIENTS, SHOWN_EVERY, POPULATION, SPACING_MM = 50, 5, 10, 4715, 10.0
_NO_ENERGY = "not measured here"
ORGANS, REACH_MM, LIMIT = (1, 2, 4), 16.0, 32 * 2**20


def patient(number: int) -> tuple[Volume, np.ndarray]:
    """Returns a generated CT, and its label map `[z, y, x]`."""
    case = draw_case(POPULATION, number % PATIENTS, SPACING_MM)
    shape = case.image.shape
    grid = Geometry(shape[::-1], (SPACING_MM,) * 3, (0.0, 0.0, 0.0))
    return Volume(case.image.astype(np.float32) + number / CASES, grid, grid, f"patient {number}"), case.label


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
    given = LoadedResources(None, load_weights(Path(resource("weights/medsam2_demo.pt"))), images=images)
    process, used, began = psutil.Process(), [], time.monotonic()
    for n in range(CASES):
        image, truth = patient(n)
        automatic = Options(organs=ORGANS, truth=image.with_array(truth))
        run(given.segmenter("reference-3"), image, automatic, given, no_energy=_NO_ENERGY)
        first, *others = [marked(image, truth, label) for label in ORGANS]
        for options in (
            Options(marks=first),
            Options(marks=marked(image, truth, ORGANS[0], corrected=True)),
            Options(marks=first, more_marks=tuple(others)),
        ):
            run(given.segmenter("medsam2"), image, options, given, no_energy=_NO_ENERGY)
        gc.collect()
        used.append(process.memory_info().rss / 2**20)
        if (n + 1) % SHOWN_EVERY == 0:
            kept = f"{len(images)} CTs open, {images.bytes / 2**20:.0f} MiB"
            console.print(f"{n + 1:3d} cases, {time.monotonic() - began:5.0f} s: {used[-1]:6.0f} MiB; {kept}")
    slope = np.polyfit(np.arange(len(used[SHOWN_EVERY:])), used[SHOWN_EVERY:], 1)[0] * CASES
    console.print(f"after the first {SHOWN_EVERY}: {slope:+.1f} MiB per {CASES} cases")


if __name__ == "__main__":
    main()
