"""The refinement of a mask gives the same result on a GPU as on the CPU, and mixes no devices or precisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gpu_results import Gpu
from mask_dice import mask_dice
from medsam2_atlas.base.choices import Mode
from medsam2_atlas.base.resource import resource
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.medsam2 import MedSAM2Volume, load_weights
from medsam2_atlas.prompting import MaskedOrgan, SliceMarks
from medsam2_atlas.segmenters.refined import refined_mask

RIGHT_KIDNEY = 2


@pytest.fixture(scope="module")
def organ(target_truth: Volume) -> MaskedOrgan:
    """Returns five slices of a kidney with a leak on three of them, one missing slice, and a point on the leak."""
    mask = np.asarray(target_truth.array == RIGHT_KIDNEY)
    z = int(np.flatnonzero(mask.any((1, 2))).mean())
    mask[: z - 2], mask[z + 3 :] = False, False
    rows, columns = np.nonzero(mask[z])
    y, x = int(rows.mean()), int(columns.max())
    mask[z - 1 : z + 2, y - 4 : y + 5, x : x + 12] = True
    mask[z + 2] = mask[z + 2] & False
    return MaskedOrgan(RIGHT_KIDNEY, mask, (SliceMarks(z, outside=((x + 7.0, float(y)),)),), z - 2, z + 2)


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_a_refined_mask_matches_that_of_the_cpu(target: Volume, organ: MaskedOrgan, gpu: Gpu, mode: Mode) -> None:
    def refined(device: torch.device) -> np.ndarray:
        weights = load_weights(Path(resource("weights/medsam2_demo.pt")), None, device)
        found = refined_mask(target, MedSAM2Volume(weights, target.array, mode=mode), organ)
        assert all(logits.device.type == device.type for logits in found.logits.values())
        return found.mask

    on_cpu, on_gpu = gpu.both(refined)
    assert (on_cpu != organ.mask).any()
    assert mask_dice(on_cpu, on_gpu) > (0.99 if mode == "exact" else 0.95)
