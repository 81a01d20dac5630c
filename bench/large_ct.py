"""Measures time and memory of `unet_3d` on a CT of 512 × 512 × 200 voxels (`make large-ct`)."""

from __future__ import annotations

import resource as system
import time

import numpy as np
import torch
from scipy import ndimage

from medsam2_atlas.demo.phantoms import draw_case
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.segmenters.places import find_unet
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.unet import load_unet

SIZE, SPACING = (512, 512, 200), (0.78, 0.78, 2.2)
POPULATION = 99
RUNS = 3


def large_ct() -> Volume:
    """Returns a generated patient, enlarged to the matrix of a clinical CT of 400 × 400 × 440 mm."""
    case = draw_case(POPULATION, 0, 4.0)
    grown = ndimage.zoom(
        case.image.astype(np.float32), [n / m for n, m in zip(SIZE[::-1], case.image.shape, strict=True)], order=1
    )
    grid = Geometry(SIZE, SPACING, (0.0, 0.0, 0.0))
    return Volume(grown, grid, grid, "large CT")


def main() -> None:
    torch.set_num_threads(2)
    image, unet = large_ct(), load_unet(find_unet("unet_3d"))
    segmenter, seconds = LoadedResources(unets={"unet_3d": unet}).segmenter("unet_3d"), []
    for _ in range(RUNS):
        began = time.perf_counter()
        result = segmenter.segment(image)
        seconds.append(time.perf_counter() - began)
    peak = system.getrusage(system.RUSAGE_SELF).ru_maxrss / 1024**2
    found = sum(volume > 0 for volume in result.report.volumes_ml.values())
    print(f"{SIZE} voxels, {unet.config.spacing[0]} mm network, 2 threads: median {np.median(seconds):.1f} s of {RUNS} runs")
    print(f"peak memory of the process {peak:.2f} GiB; {found} organs found. {unet.mark}")


if __name__ == "__main__":
    main()
