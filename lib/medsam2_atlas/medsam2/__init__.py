"""MedSAM2: the network, its weights, and the engine that propagates boxes through a volume."""

from medsam2_atlas.medsam2.about_engine import describe_engine, engine_mode
from medsam2_atlas.medsam2.checkpoint import Weights, find_checkpoint, load_weights
from medsam2_atlas.medsam2.config import MedSAM2Config, medsam2_config
from medsam2_atlas.medsam2.engine import MedSAM2Volume, OrganLogits
from medsam2_atlas.medsam2.mask_changes import Change, ChangeFilter
from medsam2_atlas.medsam2.network import DEMO, OFFICIAL, build_network, load_config, parameter_shapes
from medsam2_atlas.medsam2.refining import RefinedMask, RefineRules

__all__ = [
    "DEMO",
    "OFFICIAL",
    "Change",
    "ChangeFilter",
    "MedSAM2Config",
    "MedSAM2Volume",
    "OrganLogits",
    "RefineRules",
    "RefinedMask",
    "Weights",
    "build_network",
    "describe_engine",
    "engine_mode",
    "find_checkpoint",
    "load_config",
    "load_weights",
    "medsam2_config",
    "parameter_shapes",
]
