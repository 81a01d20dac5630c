"""Prompts for MedSAM2: from score maps, from label maps, from a U-Net, from files, from a person's marks."""

from medsam2_atlas.prompting.choice import Evidence, choose_prompts
from medsam2_atlas.prompting.marks import MarkedOrgan, SliceMarks, marked_organ
from medsam2_atlas.prompting.prompt import Box, BoxPrompt, OrganPrompt, describe_prompts, prompts_from_report, read_prompts
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
    "Box",
    "BoxPrompt",
    "Evidence",
    "MarkedOrgan",
    "OrganPrompt",
    "Prompts",
    "SliceMarks",
    "ThresholdRule",
    "bounding_box",
    "choose_prompts",
    "describe_prompts",
    "enlarged",
    "marked_organ",
    "prompt_from_planes",
    "prompts_from_labels",
    "prompts_from_report",
    "prompts_from_scores",
    "read_prompts",
]
