"""A stored prediction stays valid while settings have their defaults, and becomes invalid when one changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medsam2_atlas.imaging.hu_config import HuCheckConfig
from medsam2_atlas.medsam2 import MedSAM2Config
from medsam2_atlas.prompting import PromptingConfig
from medsam2_atlas.segmenters import changed_settings
from medsam2_atlas.segmenters.base import Options, Provenance
from medsam2_atlas.segmenters.changed_settings import foundation_settings, marked_settings, unet_settings
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.unet.inference_config import UNetInferenceConfig


def made_by(name: str, **options: Any) -> Provenance:
    """Returns a segmenter's provenance, with weights and an atlas that have versions only."""
    unet: Any = SimpleNamespace(sha256="u", version="u", device=torch.device("cpu"), validation={}, cases={})
    atlas: Any = SimpleNamespace(version="a", options={})
    weights: Any = SimpleNamespace(sha256="w")
    return LoadedResources(atlas, weights, {"unet_3d": unet}).segmenter(name).provenance(Options(**options))


def test_default_settings_are_omitted() -> None:
    assert foundation_settings(unet=True) == unet_settings() == marked_settings() == {"settings": {}}
    for name in ("atlas", "D", "unet_3d", "medsam2"):
        assert made_by(name)["settings"] == {}


def test_the_provenance_contains_changed_settings_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changed_settings, "prompting_config", lambda: PromptingConfig(range_growth=0.3))
    monkeypatch.setattr(changed_settings, "medsam2_config", lambda: MedSAM2Config(window=(-200, 300)))
    monkeypatch.setattr(changed_settings, "unet_inference_config", lambda: UNetInferenceConfig(variants=((5, 1),)))
    prompting = {"prompting": {"range_growth": 0.3}}
    network = {"medsam2": {"window": [-200.0, 300.0]}}
    unet = {"unet": {"variants": [[5.0, 1.0]]}}
    assert made_by("atlas")["settings"] == prompting
    assert made_by("D")["settings"] == prompting | network
    assert made_by("D", prompts="both")["settings"] == prompting | network | unet
    assert made_by("unet_3d")["settings"] == unet
    assert made_by("medsam2")["settings"] == network


def test_changed_limits_of_the_hu_check_affect_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changed_settings, "hu_check_config", lambda: HuCheckConfig(min_air=0.01))
    for name in ("atlas", "D", "unet_3d", "medsam2"):
        assert made_by(name)["settings"] == {"hounsfield": {"min_air": 0.01}}
