"""Sliding windows, test-time augmentation, and resampling to the image's grid."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medsam2_atlas.base.choices import Memory
from medsam2_atlas.base.stages import observing
from medsam2_atlas.evaluation import dice_per_organ, mean_dice
from medsam2_atlas.imaging.volume import Geometry, Volume, from_sitk
from medsam2_atlas.segmenters.places import find_unet
from medsam2_atlas.unet import UNet, UNetConfig, UNetInferer, build_unet, inference, load_unet, predict, restore, unet_config
from medsam2_atlas.unet.inference import _turned
from medsam2_atlas.unet.inference_config import UNetInferenceConfig
from medsam2_atlas.unet.transforms import array_affine
from pretended_gpu import pretended_gpu
from stage_record import NETWORK, StageRecord

Gpu = Callable[[], AbstractContextManager[torch.device]]


@pytest.fixture(scope="module")
def unet() -> UNet:
    return load_unet(find_unet("unet_3d"))


def ball(grid: Geometry, radius: float = 30.0) -> np.ndarray:
    z, y, x = np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij")
    world = grid.to_world(np.stack([x, y, z], -1))
    return np.linalg.norm(world, axis=-1) < radius


def test_probabilities_are_restored_to_a_finer_oblique_grid_at_the_right_position() -> None:
    turn = np.radians(10)
    direction = (np.cos(turn), -np.sin(turn), 0.0, np.sin(turn), np.cos(turn), 0.0, 0.0, 0.0, 1.0)
    fine = Geometry((90, 80, 50), (1.1, 1.1, 2.0), (-45.0, -48.0, -50.0), tuple(float(v) for v in direction))
    coarse = Geometry((34, 30, 34), (3.0, 3.0, 3.0), fine.origin, fine.direction)
    inside = torch.from_numpy(ball(coarse).astype(np.float32))
    probabilities = torch.zeros(16, *coarse.shape)
    probabilities[6], probabilities[0] = 0.9 * inside, 1 - 0.9 * inside
    found = restore(probabilities, array_affine(coarse), fine)
    assert found.labels.shape == fine.shape
    assert set(np.unique(found.labels)) == {0, 6}
    assert dice_per_organ(found.labels, ball(fine).astype(np.uint8) * 6, [6])[6] > 0.95
    assert 0.6 < found.confidence[6] < 0.9


def test_voxels_outside_the_networks_grid_are_background() -> None:
    fine = Geometry((40, 40, 40), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    part = Geometry((5, 5, 5), (2.0, 2.0, 2.0), (10.0, 12.0, 14.0))
    probabilities = torch.zeros(16, *part.shape)
    probabilities[3] = 1
    z, y, x = np.nonzero(restore(probabilities, array_affine(part), fine).labels)
    assert (x.min(), y.min(), z.min()) == (10, 12, 14)
    assert (x.max(), y.max(), z.max()) == (18, 20, 22)


def test_rotating_and_scaling_back_restores_the_image() -> None:
    _, y, x = np.meshgrid(np.arange(4), np.linspace(-1, 1, 60), np.linspace(-1, 1, 90), indexing="ij")
    image = torch.from_numpy(np.exp(-4 * (x**2 + y**2)) * (1 + 0.3 * x)).float()[None, None]
    for degrees, scale in ((6.0, 1.0), (0.0, 1.07), (0.0, 0.93)):
        turned = _turned(image, degrees, scale)
        assert (turned - image).abs().max() > 0.03
        assert (_turned(turned, degrees, scale, inverse=True) - image).abs().max() < 0.02


def test_augmentation_averages_over_rotated_and_scaled_copies() -> None:
    config = unet_config("unet_3d").model_copy(update={"patch": (16, 16, 16), "filters": (4, 8, 16)})
    seen: list[torch.Tensor] = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.cat([torch.zeros_like(x), 40 * (x - 0.5)], 1)

    image = torch.from_numpy(ball(Geometry((40, 40, 20), (3.0, 3.0, 3.0), (-60.0, -60.0, -30.0))).astype(np.float32))
    plain = UNetInferer(config)(image[None, None], network)
    windows = len(seen)
    augmented = UNetInferer(config, augment=True)(image[None, None], network)
    assert len(seen) == 6 * windows
    assert augmented.shape == plain.shape == (1, 2, 20, 40, 40)
    assert torch.allclose(augmented.sum(1), torch.ones(1, 20, 40, 40), atol=1e-4)
    both = (augmented[0, 1] > 0.5) & (plain[0, 1] > 0.5)
    assert 2 * both.sum() / ((augmented[0, 1] > 0.5).sum() + (plain[0, 1] > 0.5).sum()) > 0.95


def test_the_demo_weights_find_organs_in_any_file_orientation(unet: UNet, target: Volume, target_truth: Volume) -> None:
    labels = predict(target, unet).labels
    dice = dice_per_organ(labels, target_truth.array, range(1, 16))
    assert dice[6] > 0.9
    assert dice[2] > 0.85
    assert dice[3] > 0.85
    turned = from_sitk(sitk.DICOMOrient(target.as_image(), "ASR"), target.source)
    again = predict(turned, unet).labels
    assert (again == labels).mean() > 0.999


@pytest.mark.parametrize("slices", [slice(71, 87), slice(102, 118)])
def test_the_demo_weights_find_organs_in_a_scan_that_is_shorter_than_a_window(
    slices: slice, unet: UNet, target: Volume, target_truth: Volume
) -> None:
    slab, truth = (from_sitk(volume.as_image()[:, :, slices]) for volume in (target, target_truth))
    held = [k for k in range(1, 16) if (truth.array == k).sum() * truth.geometry.voxel_ml > 5]
    assert len(held) >= 4
    assert mean_dice(dice_per_organ(predict(slab, unet).labels, truth.array, held)) > 0.7


def test_the_windows_are_a_stage(unet: UNet, tiny: Volume) -> None:
    record, seen = StageRecord(), list[str]()
    handle = unet.network.register_forward_pre_hook(lambda *_: seen.append(record.running))
    try:
        with observing(record):
            predict(tiny, unet)
    finally:
        handle.remove()
    assert record.changes == NETWORK
    assert set(seen) == {"network"}


def test_a_two_dimensional_network_gets_single_slices() -> None:
    config = unet_config("unet_2d").model_copy(update={"patch": (16, 16)})
    shapes = set()

    def network(x: torch.Tensor) -> torch.Tensor:
        shapes.add(tuple(x.shape[1:]))
        return torch.cat([torch.zeros_like(x), x], 1)

    result = UNetInferer(config)(torch.rand(1, 1, 5, 20, 30), network)
    assert result.shape == (1, 2, 5, 20, 30)
    assert shapes == {(1, 16, 16)}


TINY = unet_config("unet_3d").model_copy(update={"patch": (16, 16, 16), "filters": (4, 8, 16), "heads": 0})
FLAT = unet_config("unet_2d").model_copy(update={"patch": (16, 16), "filters": (4, 8, 16), "heads": 0})


def test_mixed_precision_does_not_shift_rotated_copies(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed: list[bool] = []  # checked in addition, because the pretended GPU keeps coordinates precise and a real one does not

    def turned(*arguments: Any, **options: Any) -> torch.Tensor:
        mixed.append(torch.is_autocast_enabled("cuda") or torch.is_autocast_enabled("cpu"))
        return _turned(*arguments, **options)

    monkeypatch.setattr(inference, "_turned", turned)
    across = torch.arange(40.0).expand(1, 1, 4, 40, 40) / 40
    seen: list[torch.Tensor] = []

    def network(patch: torch.Tensor) -> torch.Tensor:
        seen.append(patch.float().cpu())
        return torch.zeros_like(patch)

    UNetInferer(TINY, augment=True)(across, network)
    expected, seen = seen, []
    with gpu() as device:
        image = across.contiguous().to(device)
        UNetInferer(TINY, augment=True)(image, network)
        with torch.autocast("cuda"):  # as in the validation of a training
            UNetInferer(TINY, augment=True)(image, network)
    assert mixed and not any(mixed)
    assert len(seen) == 2 * len(expected)
    assert max((a - b).abs().max() * 40 for a, b in zip(seen, expected * 2, strict=True)) < 0.01  # voxels


def test_in_smaller_steps_the_gpu_does_not_store_the_probabilities_of_a_volume() -> None:
    torch.manual_seed(0)
    network, image, peaks = build_unet(TINY).eval(), torch.rand(1, 1, 16, 28, 40), {}
    stack = 16 * image.numel() * 4
    for memory in ("", "small"):
        with pretended_gpu() as machine:
            copy = deepcopy(network).to("cuda")
            UNetInferer(TINY, memory=memory)(image if memory else image.to("cuda"), copy)
            peaks[memory] = machine.cards[0].peak
            del copy
    assert peaks[""] > 2 * stack  # logits and probabilities
    assert peaks["small"] < 0.8 * stack


def test_mixed_precision_does_not_blend_windows_with_rounded_weights() -> None:
    def network(patch: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(patch), torch.full_like(patch, 0.7)], 1).bfloat16()

    found = UNetInferer(TINY)(torch.rand(1, 1, 20, 30, 40), network)
    expected = torch.tensor([0.0, 0.7]).bfloat16().float().softmax(0)[1]
    assert (found[0, 1] - expected).abs().max() < 1e-5


@pytest.mark.parametrize("config", [TINY, FLAT])
@pytest.mark.parametrize("augment", [False, True])
def test_sparing_memory_does_not_change_probabilities(config: UNetConfig, augment: bool) -> None:
    torch.manual_seed(0)
    network, image = build_unet(config).eval(), torch.rand(1, 1, 9, 20, 30)
    usual, small = (UNetInferer(config, augment=augment, memory=memory)(image, network) for memory in ("", "small"))
    assert torch.allclose(usual, small, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "memory", "windows"),
    [
        (FLAT, "", {(8, 1, 16, 16), (6, 1, 16, 16)}),
        (FLAT, "small", {(1, 1, 16, 16)}),
        (FLAT, "smallest", {(1, 1, 16, 16)}),
        (TINY, "", {(1, 1, 16, 16, 16)}),
        (TINY, "cpu", {(1, 1, 16, 16, 16)}),
        (TINY, "small", {(1, 1, 16, 16, 16)}),
        (TINY, "smallest", {(1, 1, 12, 16, 16)}),
        (TINY.model_copy(update={"patch": (16, 12, 12)}), "smallest", {(1, 1, 8, 12, 16)}),  # multiples of 4
        (TINY.model_copy(update={"patch": (16, 12, 4)}), "smallest", {(1, 1, 4, 12, 16)}),
    ],
)
def test_windows_have_sizes_that_the_network_accepts(config: UNetConfig, memory: Memory, windows: set[tuple[int, ...]]) -> None:
    network, seen = build_unet(config).eval(), set()
    network.register_forward_pre_hook(lambda _, patches: seen.add(tuple(patches[0].shape)))
    found = UNetInferer(config, memory=memory)(torch.rand(1, 1, 9, 20, 30), network)
    assert found.shape == (1, 16, 9, 20, 30)
    assert seen == windows


def test_settings_choose_the_averaged_copies_and_the_size_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = UNetInferenceConfig(variants=((3.0, 1.0),), window_batch=3, reduced_slices=0.5)
    monkeypatch.setattr(inference, "unet_inference_config", lambda: changed)
    seen: list[tuple[int, ...]] = []

    def network(patch: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(patch.shape))
        return torch.cat([torch.zeros_like(patch), patch], 1)

    UNetInferer(FLAT, augment=True)(torch.rand(1, 1, 3, 16, 16), network)
    assert seen == [(3, 1, 16, 16)] * 2
    seen.clear()
    UNetInferer(TINY, memory="smallest")(torch.rand(1, 1, 8, 16, 16), network)
    assert seen == [(1, 1, 8, 16, 16)]
