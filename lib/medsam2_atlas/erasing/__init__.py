"""Erases what is kept of a study, after a patient's withdrawal."""

from medsam2_atlas.erasing.erase import Erasure, erase, finish_erasures, look, readmit

__all__ = ["Erasure", "erase", "finish_erasures", "look", "readmit"]
