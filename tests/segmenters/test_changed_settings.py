"""A stored prediction is found again while settings have their defaults, and not after one was changed."""

from __future__ import annotations

import pytest

from medsam2_atlas.imaging.hu_config import HuCheckConfig
from medsam2_atlas.medsam2 import MedSAM2Config
from medsam2_atlas.prompting import PromptingConfig
from medsam2_atlas.segmenters import changed_settings
from medsam2_atlas.segmenters.changed_settings import foundation_settings, marked_settings, unet_settings
from medsam2_atlas.studies.predictions import foundation_provenance, unet_provenance
from medsam2_atlas.unet.inference_config import UNetInferenceConfig


def test_defaults_leave_no_trace() -> None:
    assert foundation_settings(unet=True) == unet_settings() == marked_settings() == {}
    assert "settings" not in foundation_provenance(strategy="D", atlas="a", weights="w", unet="u")
    assert "settings" not in unet_provenance(weights="w")


def test_what_a_result_depends_on_holds_changed_settings_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changed_settings, "prompting_config", lambda: PromptingConfig(range_growth=0.3))
    monkeypatch.setattr(changed_settings, "medsam2_config", lambda: MedSAM2Config(window=(-200, 300)))
    monkeypatch.setattr(changed_settings, "unet_inference_config", lambda: UNetInferenceConfig(variants=((5, 1),)))
    prompting = {"prompting": {"range_growth": 0.3}}
    network = {"medsam2": {"window": [-200.0, 300.0]}}
    unet = {"unet": {"variants": [[5.0, 1.0]]}}
    assert foundation_provenance(strategy="atlas", atlas="a")["settings"] == prompting
    assert foundation_provenance(strategy="D", atlas="a", weights="w")["settings"] == prompting | network
    both = foundation_provenance(strategy="D", atlas="a", weights="w", prompts="both", unet="u")
    assert both["settings"] == prompting | network | unet
    assert unet_provenance(weights="w")["settings"] == unet
    assert marked_settings()["settings"] == network


def test_other_limits_of_the_check_of_hu_concern_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changed_settings, "hu_check_config", lambda: HuCheckConfig(min_air=0.01))
    hounsfield = {"settings": {"hounsfield": {"min_air": 0.01}}}
    assert foundation_settings() == unet_settings() == marked_settings() == hounsfield
