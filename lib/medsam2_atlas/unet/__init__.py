"""The U-Net baselines: networks, transforms, training, inference.

Importing MONAI takes seconds, and everything except the configuration needs it. So those names are imported at first use.
"""

from typing import TYPE_CHECKING

from medsam2_atlas.base.lazy import lazy_exports
from medsam2_atlas.unet.config import UNetConfig, unet_config, with_training

if TYPE_CHECKING:
    from medsam2_atlas.unet.data import TrainingCase, split_cases
    from medsam2_atlas.unet.energy import TrainingEnergy, training_energy
    from medsam2_atlas.unet.inference import UNetInferer, UNetPrediction, predict, preprocess, restore
    from medsam2_atlas.unet.network import UNet, build_unet, load_unet, save_unet
    from medsam2_atlas.unet.trained_on import training_cases_of
    from medsam2_atlas.unet.training import UNetTraining
    from medsam2_atlas.unet.transforms import cached_transforms, grid_transforms, random_transforms

__getattr__ = lazy_exports(
    __name__,
    {
        "TrainingCase": "data",
        "TrainingEnergy": "energy",
        "UNet": "network",
        "UNetInferer": "inference",
        "UNetPrediction": "inference",
        "UNetTraining": "training",
        "build_unet": "network",
        "cached_transforms": "transforms",
        "grid_transforms": "transforms",
        "load_unet": "network",
        "predict": "inference",
        "preprocess": "inference",
        "random_transforms": "transforms",
        "restore": "inference",
        "save_unet": "network",
        "split_cases": "data",
        "training_cases_of": "trained_on",
        "training_energy": "energy",
    },
)

__all__ = [
    "TrainingCase",
    "TrainingEnergy",
    "UNet",
    "UNetConfig",
    "UNetInferer",
    "UNetPrediction",
    "UNetTraining",
    "build_unet",
    "cached_transforms",
    "grid_transforms",
    "load_unet",
    "predict",
    "preprocess",
    "random_transforms",
    "restore",
    "save_unet",
    "split_cases",
    "training_cases_of",
    "training_energy",
    "unet_config",
    "with_training",
]
