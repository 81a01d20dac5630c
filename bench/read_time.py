"""Measures the overhead of reading an image in a reader process instead of the calling process (`make read-time`).

Reads a CT of clinical size and its label map alternately in both ways, and prints the median times and ratios.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from medsam2_atlas.base.console import console
from medsam2_atlas.imaging import image_reading
from medsam2_atlas.imaging.decoding import DecodingLimits, alive, configure
from medsam2_atlas.imaging.volume import read_grid, read_labels, read_volume

SHAPE, ROUNDS = (200, 512, 512), 7


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        ct, label = Path(name) / "ct.nii.gz", Path(name) / "label.nii.gz"
        voxels = np.random.default_rng(0).normal(0, 30, SHAPE).astype(np.int16)
        voxels[:, :100] = -1000
        organ = np.zeros(SHAPE, np.uint8)
        organ[50:150, 100:300, 100:300] = 6
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(ct))
        sitk.WriteImage(sitk.GetImageFromArray(organ), str(label))
        began = time.perf_counter()
        configure(DecodingLimits())
        assert not alive()
        console.print(f"readers start in {time.perf_counter() - began:.2f} s")
        kinds: list[tuple[str, Path, Callable[[str], object], Callable[[Path], object]]] = [
            ("CT", ct, image_reading.volume, read_volume),
            ("label map", label, image_reading.labels, read_labels),
            ("grid only", label, image_reading.grid, read_grid),
        ]
        for what, file, read_directly, read_in_reader in kinds:
            rows = [(seconds(read_directly, str(file)), seconds(read_in_reader, file)) for _ in range(ROUNDS)]
            own, reader = (statistics.median(column) for column in zip(*rows, strict=True))
            ratio = statistics.median(b / a for a, b in rows)
            console.print(f"{what:10}: calling process {own:.3f} s, reader process {reader:.3f} s, ratio {ratio:.2f}")


def seconds(call: Callable[..., object], argument: object) -> float:
    began = time.perf_counter()
    call(argument)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
