"""Writes tiny MONAI bundles in the layout of the model zoo. Their result is known: each label is a range of HU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

CHANNELS = {"0": "background", "1": "Liver", "2": "vertebrae"}
LIVER_HU, BONE_HU = 80.0, 300.0
"""The min HU of liver and of vertebrae, which are not an organ of the table, in the bundle's result."""


def threshold_weights(sharpness: float = 1000.0) -> dict[str, torch.Tensor]:
    """Returns weights of a 1 x 1 x 1 convolution whose highest channel is the range of an HU, scaled to 0..1."""
    first, second = (LIVER_HU + 1000) / 2000, (BONE_HU + 1000) / 2000
    slopes = torch.tensor([0.0, 1.0, 2.0]) * sharpness
    offsets = torch.tensor([0.0, -first, -first - second]) * sharpness
    return {"weight": slopes.reshape(3, 1, 1, 1, 1), "bias": offsets}


def inference_config(spacing: Sequence[float] = (6.0, 6.0, 6.0)) -> dict[str, Any]:
    """Returns a configuration of inference like those of the model zoo's bundles."""
    device = "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')"
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "image_key": "image",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "/workspace/data",
        "datalist": "$list(sorted(glob.glob(@dataset_dir + '/*.nii.gz')))",
        "device": device,
        "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 3, "kernel_size": 1},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "@image_key"},
                {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
                {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
                {"_target_": "Spacingd", "keys": "@image_key", "pixdim": list(spacing), "mode": "bilinear"},
                {
                    "_target_": "ScaleIntensityRanged",
                    "keys": "@image_key",
                    "a_min": -1000,
                    "a_max": 1000,
                    "b_min": 0.0,
                    "b_max": 1.0,
                    "clip": True,
                },
                {"_target_": "EnsureTyped", "keys": "@image_key", "device": "@device"},
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in @datalist]", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "shuffle": False, "num_workers": 0},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [24, 24, 24],
            "sw_batch_size": 4,
            "overlap": 0.5,
            "device": device,
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "@image_key",
                    "nearest_interp": False,
                    "to_tensor": True,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "separate_folder": False},
            ],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "amp": False,
        },
        "checkpointloader": {
            "_target_": "CheckpointLoader",
            "load_path": "$@bundle_root + '/models/model.pt'",
            "load_dict": {"model": "@network"},
        },
        "initialize": ["$monai.utils.set_determinism(seed=123)", "$@checkpointloader(@evaluator)"],
        "run": ["$@evaluator.run()"],
    }


def tiny_bundle(
    folder: Path,
    config: dict[str, Any] | None = None,
    channels: dict[str, str] | None = None,
    weights: Any = None,
) -> Path:
    """Writes a bundle, and returns its folder.

    Args:
        folder: the folder to create.
        config: configuration of inference; `inference_config()` by default.
        channels: names of the network's channels; `CHANNELS` by default.
        weights: content of `models/model.pt`; `threshold_weights()` by default.
    """
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True)
    output = {"type": "image", "format": "segmentation", "num_channels": 3, "channel_def": channels or CHANNELS}
    about = {
        "version": "0.1.0",
        "monai_version": "1.5.1",
        "task": "Test",
        "network_data_format": {"inputs": {"image": {"modality": "CT", "num_channels": 1}}, "outputs": {"pred": output}},
    }
    (folder / "configs" / "metadata.json").write_text(json.dumps(about))
    (folder / "configs" / "inference.json").write_text(json.dumps(config or inference_config()))
    (folder / "docs" / "README.md").write_text("A bundle for tests.")
    torch.save(threshold_weights() if weights is None else weights, folder / "models" / "model.pt")
    return folder
