"""MedSAM2's engine gives the same logits on a GPU as on the CPU, and mixes no devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpu_results import Gpu
from legacy import seeded_state
from mask_dice import mask_dice
from medsam2_atlas.base.choices import MODES
from medsam2_atlas.base.resource import resource
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.medsam2 import OFFICIAL, MedSAM2Volume, Weights, build_network, load_config, load_weights
from medsam2_atlas.prompting import BoxPrompt, OrganPrompt, marked_organ, prompting_config, prompts_from_labels
from medsam2_atlas.segmenters.marked import segment_marked

DEMO_WEIGHTS = Path(resource("weights/medsam2_demo.pt"))
RIGHT_KIDNEY, LIVER = 2, 6


def shortened(prompt: OrganPrompt, reach: int) -> OrganPrompt:
    """Returns the prompt, limited to the slices around its middle box."""
    low, high = prompt.middle.z - reach, prompt.middle.z + reach
    ends = BoxPrompt(low, prompt.middle.box), BoxPrompt(high, prompt.middle.box)
    return replace(prompt, z_min=low, z_max=high, boxes=(ends[0], prompt.middle, ends[1]))


@pytest.fixture(scope="module")
def prompts(target_truth: Volume) -> list[OrganPrompt]:
    found = prompts_from_labels(target_truth.array, [RIGHT_KIDNEY, LIVER], prompting_config().three_boxes, "not there").prompts
    return [shortened(prompt, 1) for prompt in found]


def test_logits_match_those_of_the_cpu(target: Volume, prompts: list[OrganPrompt], gpu: Gpu) -> None:
    """Compares organs in one batch, and a single organ that is corrected on the way, with holes filled."""

    def logits(device: torch.device) -> torch.Tensor:
        weights = load_weights(DEMO_WEIGHTS, None, device)
        together = MedSAM2Volume(weights, target.array).segment(prompts)
        alone = MedSAM2Volume(weights, target.array, batch=1).segment(prompts[:1], loop="published", fill_holes=True)
        return torch.cat([found.values for found in (*together.values(), *alone.values())])

    gpu.assert_same_logits(*gpu.both(logits))


def test_masks_of_fast_mode_hardly_differ_from_those_of_exact_mode(
    target: Volume, prompts: list[OrganPrompt], gpu: Gpu
) -> None:
    with gpu() as device:
        weights = load_weights(DEMO_WEIGHTS, None, device)
        exact, fast = (MedSAM2Volume(weights, target.array, mode=mode).segment(prompts) for mode in MODES)
    for label, found in exact.items():
        assert not torch.equal(fast[label].values, found.values)
        assert mask_dice((fast[label].values > 0).numpy(), (found.values > 0).numpy()) > 0.97


def test_a_corrected_organ_matches_that_of_the_cpu(target: Volume, target_truth: Volume, gpu: Gpu) -> None:
    """Compares an organ with points on it and off it on several slices; some points contradict the mask, so it is corrected."""
    organ = target_truth.array == RIGHT_KIDNEY
    z = int(np.flatnonzero(organ.any((1, 2))).mean())
    ys, xs = np.nonzero(organ[z])
    inside, edge = [int(xs.mean()), int(ys.mean())], [int(xs.max()), int(ys[xs.argmax()])]

    def segmented(device: torch.device) -> Any:
        weights = load_weights(DEMO_WEIGHTS, None, device)
        marked = marked_organ(
            target,
            RIGHT_KIDNEY,
            boxes=[],
            inside=[[*inside, z], [2, 2, z + 1]],
            outside=[[*edge, z], [*inside, z - 1]],
            reach=target.geometry.spacing[2],
        )
        return segment_marked(target, MedSAM2Volume(weights, target.array), weights, marked)

    on_cpu, on_gpu = gpu.both(segmented)
    assert on_cpu.report.overruled
    assert (on_gpu.report.device or "").startswith("cuda")
    gpu.assert_same_labels(on_cpu.labels.array, on_gpu.labels.array)


@pytest.mark.slow
def test_the_official_network_gives_the_same_logits_as_on_the_cpu(target: Volume, prompts: list[OrganPrompt], gpu: Gpu) -> None:
    config = load_config(OFFICIAL)
    state = seeded_state(config)

    def logits(device: torch.device) -> torch.Tensor:
        network = build_network(config)
        network.load_state_dict(state)
        weights = Weights(network.to(device), config, Path("seeded"), "", "")
        return MedSAM2Volume(weights, target.array, batch=1).segment(prompts[:1])[RIGHT_KIDNEY].values

    gpu.assert_same_logits(*gpu.both(logits))
