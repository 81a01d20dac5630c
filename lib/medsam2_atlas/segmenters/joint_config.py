"""Settings of the joint fusion of strategy F; `configs/joint_fusion.yaml` has their values."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource


class JointConfidenceConfig(Settings):
    """The model ln(p / (1 − p)) = bias + prompt · ln(c / (1 − c)) + disagreement · d of an organ's confidence p in strategy F.

    p is the probability that the organ's Dice is at least 0.85, c the confidence of its prompt, and d the share of its voxels
    on which score map and network differ.
    """

    bias: float = Field(-0.354, description="log odds without disagreement, if c is .5; fitted by bench/fusion_confidence.py")
    prompt: float = Field(1.284, description="log odds per unit of the log odds of c; fitted by bench/fusion_confidence.py")
    disagreement: float = Field(-2.267, description="log odds per unit of d; fitted by bench/fusion_confidence.py")


class JointFusionConfig(Settings):
    """How strategy F fuses the logits of MedSAM2 with the corrected score maps."""

    logit_scale: float = Field(
        4.0, gt=0, description="median of the positive logits of a case after division by its temperature"
    )
    max_logit: float = Field(
        4.0, gt=0, description="max magnitude of a logit after that division, so that score maps can overrule every logit"
    )
    spread: float = Field(2.0, ge=0, description="mm; expected error of a score map's surface")
    spread_share: float = Field(
        0.05, ge=0, description="max `spread`, as a share of the organ's size: thin organs would be lost otherwise"
    )
    min_score: float = Field(0.01, gt=0, lt=0.5, description="min score and min background score: limits log odds")
    reach: float = Field(
        12.0, ge=0, description="mm; max distance from a score map in which the network may add voxels to the organ"
    )
    min_found: float = Field(
        0.1, ge=0, lt=1, description="an organ is lost if the network's mask has less than this share of its score map's volume"
    )
    agreement_power: float = Field(
        0.0,
        ge=0,
        description="how much less the network counts if it agrees less with the score map than in the learning: its weight is "
        "multiplied by (agreement / usual agreement) to this power; 1 is safer for CTs that differ from the references",
    )
    learn_voxels: int = Field(4000, gt=0, description="learning: number of voxels per organ and case")
    learn_margin: float = Field(
        1.0, gt=0, description="learning: log odds above the lowest ones from which on voxels count as near an organ"
    )
    learn_penalty: float = Field(
        0.01, ge=0, description="learning: weight of the mean squared logarithm of the weights, against overfitting"
    )
    max_weight: float = Field(4.0, gt=1, description="learning: max weight; the min weight is 1 divided by it")
    confidence: JointConfidenceConfig = Field(
        JointConfidenceConfig.model_validate({}), description="how the confidence of an organ follows from both sources"
    )


@read_once
def joint_fusion_config(file: Path | None = None) -> JointFusionConfig:
    """Returns the settings in `configs/joint_fusion.yaml`, or in another file.

    Raises:
        InputError: the file does not contain valid settings.
    """
    return read_config(JointFusionConfig, file or resource("configs/joint_fusion.yaml"), "joint fusion configuration")
