"""Strategies give the same label maps on a GPU as on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpu_results import Gpu
from medsam2_atlas.atlas import Atlas
from medsam2_atlas.base.resource import resource
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.medsam2 import load_weights
from medsam2_atlas.registration import RegistrationCache
from medsam2_atlas.segmenters.base import Options
from medsam2_atlas.segmenters.case import Case
from medsam2_atlas.segmenters.places import find_unet
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.segmenters.strategies import STRATEGIES, segment
from medsam2_atlas.unet import load_unet

DEMO_WEIGHTS = Path(resource("weights/medsam2_demo.pt"))
SPLEEN, RIGHT_KIDNEY, RIGHT_ADRENAL = 1, 2, 11


def test_two_passes_give_the_same_organ_as_on_the_cpu(target: Volume, target_truth: Volume, gpu: Gpu) -> None:
    coarse = target_truth.array.copy()  # replaces the U-Net's label map, which has its own test
    slices = np.flatnonzero((coarse == RIGHT_ADRENAL).any((1, 2)))
    coarse[slices[3] :] = 0

    def labels(device: torch.device) -> Any:
        options = Options(organs=(RIGHT_ADRENAL,), prompts="unet")
        given = LoadedResources(None, load_weights(DEMO_WEIGHTS), {"unet_3d": load_unet(find_unet("unet_3d"))}, device=device)
        case = Case(target, given, options)
        case._coarse = coarse
        return segment(case, "D")

    on_cpu, on_gpu = gpu.both(labels)
    gpu.assert_same_labels(on_cpu.labels.array, on_gpu.labels.array)
    assert (on_gpu.report.device or "").startswith("cuda")


@pytest.mark.slow
@pytest.mark.parametrize("prompts", ["atlas", "both"])
def test_each_strategy_gives_the_same_organs_as_on_the_cpu(
    prompts: Any, target: Volume, target_truth: Volume, atlas: Atlas, registrations: RegistrationCache, gpu: Gpu
) -> None:
    options = Options(organs=(SPLEEN, RIGHT_KIDNEY, RIGHT_ADRENAL), prompts=prompts, truth=target_truth)

    def labels(device: torch.device) -> dict[str, Any]:
        weights, unets = load_weights(DEMO_WEIGHTS), {"unet_3d": load_unet(find_unet("unet_3d"))}
        case = Case(target, LoadedResources(atlas, weights, unets, device=device, registrations=registrations), options)
        return {strategy: segment(case, strategy).labels.array for strategy in STRATEGIES}

    on_cpu, on_gpu = gpu.both(labels)
    for strategy in STRATEGIES:
        gpu.assert_same_labels(on_cpu[strategy], on_gpu[strategy], rounded=prompts == "both")
