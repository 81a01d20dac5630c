"""DICOM series: finds the files and frames of a volume, their order and grid, and their values in HU.

Only reader processes (see `decoding`) and commands that write DICOM objects use this package.
"""

from medsam2_atlas.dicom.series.find import Series, find_series
from medsam2_atlas.dicom.series.slices import Slice

__all__ = ["Series", "Slice", "find_series"]
