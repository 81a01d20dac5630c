"""Measures time and memory of MedSAM2 on a CT of 512 × 512 × 300 voxels with 15 organs (`python bench/large_engine.py`).

The prompts come from the label map of the generated patient; two passes, as in strategy D. Arguments: network (`demo`, or
`official` for seeded weights of the official shape), number of slices, and number of passes. With fewer slices, the same
patient has thicker ones. Seeded weights segment nothing useful, but need the memory and time of trained ones.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from legacy import seeded_state
from medsam2_atlas.base.console import console
from medsam2_atlas.base.peak_memory import peak_memory
from medsam2_atlas.base.resource import resource
from medsam2_atlas.demo.phantoms import draw_case
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.medsam2 import OFFICIAL, Weights, build_network, describe_engine, load_config, load_weights
from medsam2_atlas.segmenters.base import Options
from medsam2_atlas.segmenters.case import Case
from medsam2_atlas.segmenters.places import find_unet
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.segmenters.strategies import segment
from medsam2_atlas.unet import load_unet

ROWS, HEIGHT_MM, POPULATION = 512, 440.0, 99
STRATEGIES = {1: "B", 2: "D"}


def patient(slices: int) -> tuple[Volume, np.ndarray]:
    """Returns a generated CT of 512 × 512 pixels, and its label map `[z, y, x]`."""
    case = draw_case(POPULATION, 0, 4.0)
    shape = (slices, ROWS, ROWS)
    factors = [n / m for n, m in zip(shape, case.image.shape, strict=True)]
    grid = Geometry(shape[::-1], (0.78, 0.78, HEIGHT_MM / slices), (0.0, 0.0, 0.0))
    image = Volume(ndimage.zoom(case.image.astype(np.float32), factors, order=1), grid, grid, "large CT")
    return image, ndimage.zoom(case.label, factors, order=0)


def weights_of(network: str) -> Weights:
    if network == "demo":
        return load_weights(Path(resource("weights/medsam2_demo.pt")))
    config = load_config(OFFICIAL)
    made = build_network(config)
    made.load_state_dict(seeded_state(config))
    return Weights(made, config, Path("seeded"), "", "seeded weights")


def main() -> None:
    network, slices, passes = (*sys.argv[1:], *("demo", "300", "2")[len(sys.argv) - 1 :])
    torch.set_num_threads(1)
    image, truth = patient(int(slices))
    organs = np.unique(truth[truth > 0])
    reach = [int(np.ptp(np.flatnonzero((truth == k).any((1, 2))))) + 1 for k in organs]
    given = LoadedResources(None, weights_of(network), {"unet_3d": load_unet(find_unet("unet_3d"))})
    case = Case(image, given, Options(prompts="unet"))
    case._coarse = truth
    began, cpu = time.perf_counter(), time.process_time()
    with peak_memory() as peaks:
        report = segment(case, STRATEGIES[int(passes)]).report
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    console.print(
        f"{network}, {ROWS} × {ROWS} × {slices}, {len(organs)} of {len(organ_table().organs)} organs of {sum(reach)} slices in "
        f"sum, {passes} passes, 1 thread, {describe_engine(given.weights().device)}"
    )
    stages = {name: peak["mib"] for name, peak in peaks["stages"].items()}
    console.print(f"{cpu:.0f} CPU s, {seconds:.0f} s; peak memory {peaks['mib']:.0f} MiB; by stage, MiB: {stages}")
    console.print(f"kept open afterwards: {given.images.bytes / 2**20:.0f} MiB; {report.mark}")


if __name__ == "__main__":
    main()
