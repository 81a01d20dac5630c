"""The better of two sources prompts each organ."""

from __future__ import annotations

import pytest

from medsam2_atlas.prompting import BoxPrompt, OrganPrompt, PromptingConfig, Prompts, SourceQuality, choice, choose_prompts


def prompt(label: int, z: int) -> OrganPrompt:
    return OrganPrompt(label, z, z, (BoxPrompt(z, (0, 0, 1, 1)),))


ATLAS = Prompts((prompt(1, 10), prompt(6, 10)), {5: "it lies outside the scan"})
UNET = Prompts((prompt(1, 20), prompt(6, 20)), {5: "the U-Net found nothing"})


@pytest.mark.parametrize(
    ("quality", "source", "why"),
    [
        (SourceQuality({6: 0.9}, {6: 7}, {6: 0.5}), "atlas", "7 cases"),
        (SourceQuality({6: 0.9}, {6: 8}, {6: 0.5}), "unet", "0.90"),
        (SourceQuality({6: 0.4}, {6: 30}, {6: 0.5}), "atlas", "0.50"),
        (SourceQuality({}, {6: 30}, {6: 0.5}), "atlas", "no validation case"),
        (SourceQuality({6: 0.4}, {6: 30}, {}), "unet", "no second reference"),
        (SourceQuality(), "atlas", "0 cases"),
    ],
)
def test_the_better_source_is_chosen_with_its_reason(quality: SourceQuality, source: str, why: str) -> None:
    chosen = choose_prompts(ATLAS, UNET, quality, [6])
    assert chosen.prompts[0].z_min == {"atlas": 10, "unet": 20}[source]
    assert chosen.origins[6].source == source
    assert why in chosen.origins[6].reason


def test_the_other_source_is_the_fallback_and_organs_of_neither_are_missing() -> None:
    trusted = SourceQuality({1: 0.9, 5: 0.9, 6: 0.9}, {1: 20, 5: 20, 6: 20}, {})
    found = Prompts((prompt(1, 20),), {6: "the U-Net found nothing", 5: "the U-Net found nothing"})
    chosen = choose_prompts(ATLAS, found, trusted, [1, 5, 6])
    assert [(p.label, p.z_min) for p in chosen.prompts] == [(1, 20), (6, 10)]
    assert "unet gave none" in chosen.origins[6].reason
    assert chosen.missing == {5: "atlas: it lies outside the scan; unet: the U-Net found nothing"}


def test_a_setting_determines_how_many_cases_a_validation_dice_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "prompting_config", lambda: PromptingConfig(min_unet_cases=31))
    chosen = choose_prompts(ATLAS, UNET, SourceQuality({6: 0.9}, {6: 30}, {6: 0.5}), [6])
    assert chosen.prompts[0].z_min == 10
    assert "fewer than 31" in chosen.origins[6].reason
