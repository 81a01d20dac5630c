"""Which case to annotate next: what is measured of each, where it is kept, and the choice."""

from medsam2_atlas.active_learning.assess import Assessment, assess, disagreement, uncertainty
from medsam2_atlas.active_learning.choose import STRATEGIES, Choice, choose
from medsam2_atlas.active_learning.table import Row, ScoreTable

__all__ = ["STRATEGIES", "Assessment", "Choice", "Row", "ScoreTable", "assess", "choose", "disagreement", "uncertainty"]
