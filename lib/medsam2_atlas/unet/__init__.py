"""The U-Net baselines: networks, transforms, training, inference."""

from medsam2_atlas.unet.config import UNetConfig, unet_config, with_training
from medsam2_atlas.unet.data import TrainingCase, split_cases
from medsam2_atlas.unet.inference import UNetInferer, UNetPrediction, predict, preprocess, restore
from medsam2_atlas.unet.network import UNet, build_unet, load_unet, save_unet
from medsam2_atlas.unet.segment import segment_with_unet, unet_segmentation
from medsam2_atlas.unet.training import UNetTraining
from medsam2_atlas.unet.transforms import cached_transforms, grid_transforms, random_transforms

__all__ = [
    "TrainingCase",
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
    "segment_with_unet",
    "split_cases",
    "unet_config",
    "unet_segmentation",
    "with_training",
]
