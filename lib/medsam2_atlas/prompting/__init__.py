"""Prompts for MedSAM2, made from score maps, label maps, a U-Net, files or a person's marks."""

from medsam2_atlas.prompting.choice import SourceQuality, choose_prompts
from medsam2_atlas.prompting.confidence import ConfidenceConfig, confidence, confidence_config
from medsam2_atlas.prompting.config import PromptingConfig, prompting_config
from medsam2_atlas.prompting.jitter import Jitter, JitterKind, jittered
from medsam2_atlas.prompting.marks import MarkedOrgan, SliceMarks, marked_organ
from medsam2_atlas.prompting.masks import MaskedOrgan, masked_organ
from medsam2_atlas.prompting.overlap import unmoved
from medsam2_atlas.prompting.priors import by_stability, constrained, priors_config, resolve_laterality
from medsam2_atlas.prompting.prompt import (
    Box,
    BoxPrompt,
    OrganPrompt,
    PromptOrigin,
    Prompts,
    describe_prompts,
    prompts_from_report,
    read_prompts,
)
from medsam2_atlas.prompting.region import (
    bounding_box,
    enlarged,
    prompt_from_planes,
    prompts_from_labels,
    prompts_from_scores,
)

__all__ = [
    "Box",
    "BoxPrompt",
    "ConfidenceConfig",
    "SourceQuality",
    "Jitter",
    "JitterKind",
    "MarkedOrgan",
    "MaskedOrgan",
    "OrganPrompt",
    "PromptOrigin",
    "PromptingConfig",
    "Prompts",
    "SliceMarks",
    "bounding_box",
    "by_stability",
    "choose_prompts",
    "confidence",
    "confidence_config",
    "constrained",
    "describe_prompts",
    "enlarged",
    "jittered",
    "marked_organ",
    "masked_organ",
    "priors_config",
    "prompt_from_planes",
    "prompting_config",
    "prompts_from_labels",
    "prompts_from_report",
    "prompts_from_scores",
    "read_prompts",
    "resolve_laterality",
    "unmoved",
]
