"""Registration to the mean descriptors of a group is registration to all of its images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from medsam2_atlas.registration import Affine, WorkImage, mean_descriptors, registration_config
from medsam2_atlas.registration.config import GroupConfig
from medsam2_atlas.registration.deformable import deform
from medsam2_atlas.registration.features import deformable_features, descriptors
from medsam2_atlas.registration.mean_descriptors import STEPS_PER_UNIT

SHAPE = (24, 26, 28)
SPACING = 4.0
CONFIG = registration_config()
ROUNDING = 0.5 / STEPS_PER_UNIT


def body(middle: float = 56.0, seed: int = 0) -> WorkImage:
    """Returns soft tissue with a dense ball of 24 mm radius, centred at `middle` mm along x."""
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) * 5
    blank = WorkImage(noise, torch.ones(SHAPE, dtype=torch.bool), torch.tensor([3.0, -7.0, 11.0]), SPACING)
    offset = blank.points() - blank.origin - torch.tensor([middle, 52.0, 48.0])
    ball = torch.sigmoid((24 - offset.norm(dim=-1)) / 3)
    return replace(blank, hu=noise - 60 + 220 * ball)


def with_group(image: WorkImage, members: list[WorkImage], min_coverage: float = 0.2) -> WorkImage:
    config = CONFIG.model_copy(update={"group": GroupConfig.model_validate({"min_coverage": min_coverage})})
    return replace(image, group=mean_descriptors(((m.hu, m.valid) for m in members), image, config))


def test_the_mean_squared_distance_to_all_is_the_distance_to_the_mean_plus_the_variance() -> None:
    members = [body(56 + 4 * n, n) for n in range(4)]
    expected, target = [descriptors(m.hu, CONFIG) for m in members], descriptors(body(48, 9).hu, CONFIG)
    template = with_group(members[0], members)
    assert template.group is not None
    mean = template.group.at(template.points(), fallback=torch.full_like(target, torch.nan))
    to_all = torch.stack([(target - w) ** 2 for w in expected]).mean(0)
    variance = torch.stack(expected).var(0, unbiased=False)
    assert (to_all - variance - (target - mean) ** 2).abs().max() < 4 * ROUNDING


def test_fallback_descriptors_replace_those_that_too_few_images_show() -> None:
    whole = body()
    half = replace(whole, valid=whole.valid & (torch.arange(SHAPE[0]) < 12).view(-1, 1, 1))
    template = with_group(whole, [half, half, half, body(80)], min_coverage=0.5)
    own = torch.full((len(descriptors(whole.hu, CONFIG)), *SHAPE), -1.0)
    assert template.group is not None
    found = template.group.at(template.points(), fallback=own)
    assert (found[:, 13:] == -1).all()
    assert (found[:, 2:10, 2:-2, 2:-2] >= 0).all()


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_a_part_of_the_template_has_the_same_descriptors(weight: float) -> None:
    template = with_group(body(), [body(60), body(64)])
    part = (slice(4, 20), slice(5, 20), slice(6, 22))
    crop = template.cropped(part)
    config = CONFIG.model_copy(update={"class_weight": weight})
    whole = deformable_features(template.hu, template, template.points(), config)
    found = deformable_features(crop.hu, crop, crop.points(), config)
    assert len(whole) == (12 if weight == 0 else 17)
    assert torch.allclose(found, whole[(slice(None), *part)], atol=1e-4)


@pytest.mark.parametrize("group_moves", [True, False])
def test_registration_follows_the_group_rather_than_the_mean_image(group_moves: bool) -> None:
    template, target = with_group(body(56), [body(68), body(68, 1)]), body(56, 2)
    still = Affine(torch.eye(3), torch.zeros(3))
    fixed, moving = (target, template) if group_moves else (template, target)
    transform = deform(fixed, moving, still, CONFIG)
    middle = 56.0 if group_moves else 68.0
    centre = fixed.origin + torch.tensor([[middle, 52.0, 48.0]])
    along, *across = (transform(centre) - centre)[0].tolist()
    assert along == pytest.approx(12.0 if group_moves else -12.0, abs=4)
    assert max(map(abs, across)) < 4
