"""Erases all stored data of a study after a patient withdraws consent."""

from medsam2_atlas.erasing.erase import Erasure, erase, finish_erasures, preview, readmit

__all__ = ["Erasure", "erase", "finish_erasures", "preview", "readmit"]
