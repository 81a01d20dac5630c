"""Prepares public data sets for evaluations, and reads which organs a prepared data set annotates."""

from medsam2_atlas.datasets.layout import Layout, Numbers, Split, layout_names, read_layout
from medsam2_atlas.datasets.preparing import Prepared, PrepareOptions, prepare
from medsam2_atlas.datasets.record import FOLDERS, RECORD, CaseRecord, Dataset, SourceFile, read_dataset
from medsam2_atlas.datasets.roles import Choice, Role

__all__ = [
    "FOLDERS",
    "RECORD",
    "CaseRecord",
    "Choice",
    "Dataset",
    "Layout",
    "Numbers",
    "PrepareOptions",
    "Prepared",
    "Role",
    "SourceFile",
    "Split",
    "layout_names",
    "prepare",
    "read_dataset",
    "read_layout",
]
