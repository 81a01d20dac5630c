"""Chooses the next case to annotate: measures of each case, their storage, and the choice."""

from medsam2_atlas.active_learning.assess import Assessment, assess, disagreement, uncertainty
from medsam2_atlas.active_learning.choose import MEASURED, STRATEGIES, Choice, choose
from medsam2_atlas.active_learning.config import ActiveLearningConfig, active_learning_config
from medsam2_atlas.active_learning.table import Row, ScoreTable

__all__ = [
    "MEASURED",
    "STRATEGIES",
    "ActiveLearningConfig",
    "Assessment",
    "Choice",
    "Row",
    "ScoreTable",
    "active_learning_config",
    "assess",
    "choose",
    "disagreement",
    "uncertainty",
]
