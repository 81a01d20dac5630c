"""MedSAM2 prompted by a U-Net's coarse masks, alone or together with the atlas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medsam2_atlas.atlas import Atlas
from medsam2_atlas.base.errors import AtlasError, WeightsError
from medsam2_atlas.evaluation import dice_per_organ, mean_dice
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.medsam2 import Weights, find_checkpoint, load_weights
from medsam2_atlas.registration import RegistrationCache
from medsam2_atlas.segmenters.base import Options
from medsam2_atlas.segmenters.case import Case
from medsam2_atlas.segmenters.places import find_unet
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.segmenters.strategies import segment
from medsam2_atlas.unet import UNet, load_unet

FEW = (2, 6, 8)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights(find_checkpoint())


@pytest.fixture(scope="module")
def unet() -> UNet:
    return load_unet(find_unet("unet_3d"))


def test_a_unet_can_prompt_without_any_atlas(target: Volume, target_truth: Volume, weights: Weights, unet: UNet) -> None:
    case = Case(target, LoadedResources(None, weights, {"unet_3d": unet}), Options(organs=FEW, prompts="unet"))
    result = segment(case, "B")
    assert mean_dice(dice_per_organ(result.labels.array, target_truth.array, FEW)) > 0.8
    report = result.report.to_json()
    assert report["prompts_from"] == "unet"
    assert report["prompt_sources"]["liver"] == "unet: requested"
    assert report["unet"]["sha256"] == unet.sha256
    assert report["atlas"] is None
    assert "U-Net" in report["seconds"]


def test_an_organ_that_the_unet_does_not_find_has_no_prompt(target: Volume, weights: Weights, unet: UNet) -> None:
    case = Case(target, LoadedResources(None, weights, {"unet_3d": unet}), Options(organs=FEW, prompts="unet"))
    case._coarse = np.zeros(target.array.shape, np.uint8)
    report = segment(case, "A").report
    assert report.without_prompt == dict.fromkeys(("right_kidney", "liver", "aorta"), "the U-Net found nothing")


def test_each_organ_is_prompted_by_the_better_source_and_the_report_gives_the_reason(
    target: Volume, atlas: Atlas, weights: Weights, unet: UNet, registrations: RegistrationCache
) -> None:
    known = replace(unet, validation={2: 0.99, 6: 0.1, 8: 0.99}, cases={2: 30, 6: 30, 8: 3})
    case = Case(
        target,
        LoadedResources(atlas, weights, {"unet_3d": known}, registrations=registrations),
        Options(organs=FEW, prompts="both"),
    )
    sources = segment(case, "A").report.prompt_sources or {}
    assert sources["right_kidney"].startswith("unet: validation Dice of the U-Net 0.99")
    assert sources["liver"].startswith("atlas: validation Dice of the U-Net 0.10")
    assert sources["aorta"] == "atlas: the U-Net was trained on 3 cases of it, fewer than 8"


def test_a_missing_source_of_prompts_raises_an_error(target: Volume, weights: Weights, unet: UNet) -> None:
    with pytest.raises(WeightsError, match="U-Net"):
        segment(Case(target, LoadedResources(None, weights), Options(organs=FEW, prompts="unet")), "A")
    with pytest.raises(AtlasError):
        segment(Case(target, LoadedResources(None, weights, {"unet_3d": unet}), Options(organs=FEW, prompts="both")), "A")


def test_registrations_are_kept_for_the_same_space(
    target: Volume, atlas: Atlas, registrations: RegistrationCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = segment(Case(target, LoadedResources(atlas, registrations=registrations)), "atlas")

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("registered again")

    monkeypatch.setattr("medsam2_atlas.scoremaps.alignment.register", fail)
    again = segment(Case(target, LoadedResources(atlas, registrations=registrations)), "atlas")
    assert (first.labels.array == again.labels.array).all()
    with pytest.raises(AssertionError, match="registered again"):
        segment(Case(target.with_array(target.array + 1), LoadedResources(atlas, registrations=registrations)), "atlas")
