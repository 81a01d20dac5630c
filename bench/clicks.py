"""Measures how long a person waits for a box, a correction or a second organ on a CT that is open (`python bench/clicks.py`).

Prints CPU seconds per slice on one core in both modes, for the demo weights and for seeded weights of the official shape. The
waiting time is the same if no other work is running. Seeded weights give masks that fill most of a slice, so true masks replace
them: the time of fast mode depends on their size.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from engine_cases import seeded
from engine_loops import true_masks

from medsam2_atlas.atlas import find_references
from medsam2_atlas.base.choices import MODES, Mode
from medsam2_atlas.base.console import console
from medsam2_atlas.base.resource import resource
from medsam2_atlas.imaging.volume import Volume, read_labels, read_volume
from medsam2_atlas.medsam2 import OFFICIAL, Weights, load_config, load_weights
from medsam2_atlas.prompting import MarkedOrgan, marked_organ
from medsam2_atlas.segmenters.marked import segment_marked
from medsam2_atlas.segmenters.open_images import OpenImages

LIVER, KIDNEY, REACH_SLICES = 6, 2, 10
COLUMNS = (
    "liver: a box on a new CT",
    "a box on an open CT",
    "a box and a correction",
    "with the right kidney, not yet encoded",
    "right kidney: a box on an open CT",
)
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def demo() -> Weights:
    return load_weights(Path(resource("weights/medsam2_demo.pt")))


def boxed(image: Volume, truth: np.ndarray, label: int, *, smaller: int = 0, corrected: bool = False) -> MarkedOrgan:
    """Returns a box on an organ's middle slice, and a point at its centre five slices above."""
    mask = truth == label
    slices = np.flatnonzero(mask.any((1, 2)))
    z = int(slices[len(slices) // 2])
    rows, columns = np.nonzero(mask[z])
    low, high = [columns.min() + smaller, rows.min() + smaller, z], [columns.max() - smaller, rows.max() - smaller, z]
    ys, xs = np.nonzero(mask[z + 5])
    points = image.to_file_index(np.array([[xs[len(xs) // 2], ys[len(ys) // 2], z + 5]], float)) if corrected else []
    reach = REACH_SLICES * image.geometry.spacing[2]
    box = image.to_file_index(np.array([low, high], float))
    return marked_organ(image, label, boxes=[box], inside=points, reach=reach)


def measure(image: Volume, truth: np.ndarray, weights: Weights, mode: Mode) -> list[float]:
    """Returns CPU seconds per slice of successive requests on a CT, in the order of `COLUMNS`."""
    opened, seconds = OpenImages().open(image, weights, mode=mode), []
    first, second = boxed(image, truth, LIVER), boxed(image, truth, LIVER, smaller=1)

    def section(label: int, z: int) -> np.ndarray:
        return truth[z] == label

    with opened.used() as prepared, nullcontext() if weights.sha256 else true_masks(prepared, section):
        kidney = boxed(image, truth, KIDNEY)
        corrected = boxed(image, truth, LIVER, corrected=True)
        for organs in ([first], [second], [corrected], [second, kidney], [boxed(image, truth, KIDNEY, smaller=1)]):
            began = time.process_time()
            report = segment_marked(image, prepared, weights, organs, results=opened.results).report
            z_min, z_max = report.range
            seconds.append((time.process_time() - began) / (z_max - z_min + 1))
    return seconds


def main() -> None:
    files = find_references(resource("sample-data") / "targets")[0]
    image = read_volume(files.image)
    truth = read_labels(files.label, image).array
    table = Table("network", "mode", *COLUMNS, title=f"CPU s per slice, {torch.get_num_threads()} thread(s)")
    networks: dict[str, Callable[[], Weights]] = {"demo": demo, "official shape": seeded(load_config(OFFICIAL))}
    for name in sys.argv[1:] or ("demo", "official shape"):
        for mode in MODES:
            table.add_row(name, mode, *(f"{value:.3f}" for value in measure(image, truth, networks[name](), mode)))
    console.print(table)


if __name__ == "__main__":
    main()
