"""MedSAM2: the network, its weights, and the engine that propagates boxes through a volume."""

from medsam2_atlas.medsam2.about_engine import describe_engine
from medsam2_atlas.medsam2.checkpoint import Weights, find_checkpoint, load_weights
from medsam2_atlas.medsam2.config import MedSAM2Config, medsam2_config
from medsam2_atlas.medsam2.engine import MedSAM2Volume, OrganLogits
from medsam2_atlas.medsam2.network import DEMO, OFFICIAL, build_network, load_config, parameter_shapes

__all__ = [
    "DEMO",
    "OFFICIAL",
    "MedSAM2Config",
    "MedSAM2Volume",
    "OrganLogits",
    "Weights",
    "build_network",
    "describe_engine",
    "find_checkpoint",
    "load_config",
    "load_weights",
    "medsam2_config",
    "parameter_shapes",
]
