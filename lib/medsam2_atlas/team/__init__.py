"""Figures of a team's work: sign-offs, active time, edits, how much predictions had to be changed, agreement of people."""

from medsam2_atlas.team.figures import team_figures
from medsam2_atlas.team.measuring import measure_next
from medsam2_atlas.team.record import Pair, Record
from medsam2_atlas.team.sources import first_source, independent_of, own_versions, source_of, unseen_prediction
from medsam2_atlas.team.table import FigureTable

__all__ = [
    "FigureTable",
    "Pair",
    "Record",
    "first_source",
    "independent_of",
    "measure_next",
    "own_versions",
    "source_of",
    "team_figures",
    "unseen_prediction",
]
