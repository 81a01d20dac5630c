"""Chooses the source of each organ's prompt if both the atlas and a U-Net are available."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from medsam2_atlas.prompting.config import prompting_config
from medsam2_atlas.prompting.prompt import OrganPrompt, PromptOrigin, Prompts

Source = Literal["atlas", "unet"]


@dataclass(frozen=True)
class SourceQuality:
    """The measured quality of each source, by organ number.

    Attributes:
        unet: the U-Net's Dice on validation cases.
        unet_cases: the number of cases that the U-Net was trained on.
        atlas: the mean Dice between a reference and the other references.
    """

    unet: Mapping[int, float] = field(default_factory=dict)
    unet_cases: Mapping[int, int] = field(default_factory=dict)
    atlas: Mapping[int, float] = field(default_factory=dict)

    def prefers(self, organ: int) -> tuple[Source, str]:
        """Returns the preferred source of an organ, and the reason."""
        cases, required = self.unet_cases.get(organ, 0), prompting_config().min_unet_cases
        if cases < required:
            return "atlas", f"the U-Net was trained on {cases} cases of it, fewer than {required}"
        if organ not in self.unet:
            return "atlas", "no validation case of the U-Net has it"
        mine, other = self.unet[organ], self.atlas.get(organ)
        if other is None:
            return "unet", f"the U-Net's validation Dice is {mine:.2f}; the atlas has no second reference to judge it by"
        text = f"validation Dice of the U-Net {mine:.2f}, of the atlas between its references {other:.2f}"
        return ("unet", text) if mine > other else ("atlas", text)


def choose_prompts(atlas: Prompts, unet: Prompts, quality: SourceQuality, organs: Iterable[int]) -> Prompts:
    """Returns each organ's prompt from the better source, or from the other source if the better one has no prompt.

    Args:
        atlas: the atlas' prompts.
        unet: the U-Net's prompts.
        quality: the measured quality of both sources.
        organs: the numbers of the organs to prompt.
    """
    available: dict[Source, dict[int, OrganPrompt]] = {
        "atlas": {p.label: p for p in atlas.prompts},
        "unet": {p.label: p for p in unet.prompts},
    }
    prompts: list[OrganPrompt] = []
    missing: dict[int, str] = {}
    origins: dict[int, PromptOrigin] = {}
    for k in organs:
        first, why = quality.prefers(k)
        second: Source = "unet" if first == "atlas" else "atlas"
        reasons = {"atlas": atlas.missing.get(k, ""), "unet": unet.missing.get(k, "")}
        if k in available[first]:
            chosen = first
        elif k in available[second]:
            chosen, why = second, f"{first} gave none ({reasons[first]})"
        else:
            missing[k] = f"atlas: {reasons['atlas']}; unet: {reasons['unet']}"
            continue
        prompts.append(available[chosen][k])
        origins[k] = PromptOrigin(chosen, why)
    return Prompts(tuple(prompts), missing, origins)
