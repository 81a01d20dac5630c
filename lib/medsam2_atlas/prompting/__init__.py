"""Prompts for MedSAM2: from score maps, from label maps, from files."""

from medsam2_atlas.prompting.prompt import BoxPrompt, OrganPrompt, describe_prompts, prompts_from_report, read_prompts
from medsam2_atlas.prompting.region import (
    MIDDLE,
    THREE,
    Prompts,
    ThresholdRule,
    bounding_box,
    enlarged,
    prompt_from_planes,
    prompts_from_labels,
    prompts_from_scores,
)

__all__ = [
    "MIDDLE",
    "THREE",
    "BoxPrompt",
    "OrganPrompt",
    "Prompts",
    "ThresholdRule",
    "bounding_box",
    "describe_prompts",
    "enlarged",
    "prompt_from_planes",
    "prompts_from_labels",
    "prompts_from_report",
    "prompts_from_scores",
    "read_prompts",
]
