"""Synthetic abdominal CTs with label maps: a population of patients, scanned and labelled, from a seed."""

from medsam2_atlas.phantoms.dataset import PhantomCase, draw_case, write_dataset

__all__ = ["PhantomCase", "draw_case", "write_dataset"]
