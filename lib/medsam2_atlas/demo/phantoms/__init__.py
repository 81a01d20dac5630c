"""Synthetic abdominal CTs with label maps, drawn from a population by a seed, or painted over given label maps."""

from medsam2_atlas.demo.phantoms.dataset import PhantomCase, draw_case, write_dataset
from medsam2_atlas.demo.phantoms.painted import deformed, painted
from medsam2_atlas.demo.phantoms.patient import ENHANCEMENT, Phase

__all__ = ["ENHANCEMENT", "Phase", "PhantomCase", "deformed", "draw_case", "painted", "write_dataset"]
