"""DICOM series: which files and frames make a volume, in which order and on which grid, and their values in HU.

Only reader processes (see `decoding`) and commands that write DICOM objects use it.
"""

from medsam2_atlas.dicom.series.find import Series, find_series
from medsam2_atlas.dicom.series.slices import Slice

__all__ = ["Series", "Slice", "find_series"]
