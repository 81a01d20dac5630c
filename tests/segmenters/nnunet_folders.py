"""Writes folders of tiny, untrained nnU-Nets in the form of `nnUNetv2_train`: plans, data set, checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

LABELS = {"background": 0, "liver": 1, "kidney_left": 2, "femur": 3}
THRESHOLDS = (50.0, 100.0, 300.0)
"""Lower HU limits of the labels of `by_thresholds`."""


def plans(dimensions: int = 3, spacing: tuple[float, ...] = (6.0, 6.0, 6.0), **fields: Any) -> dict[str, Any]:
    """Returns plans with one configuration in the form of nnunetv2 2.8: a network of two levels, without normalisation."""
    patch, axes = [16, 16, 16][:dimensions], [1, 2]
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [4, 6],
            "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
            "kernel_sizes": [[3] * dimensions] * 2,
            "strides": [[1] * dimensions, [2] * dimensions],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": None,
            "norm_op_kwargs": {},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "nnUNetPlans_tiny",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch,
        "median_image_size_in_voxels": [30.0, 30.0, 40.0],
        "spacing": list(spacing)[-dimensions:],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
        "architecture": architecture,
        "batch_dice": True,
    }
    intensities = {
        "max": 1500.0,
        "mean": 0.0,
        "median": 0.0,
        "min": -1000.0,
        "percentile_00_5": -1000.0,
        "percentile_99_5": 1000.0,
    }
    return {
        "dataset_name": "Dataset900_Tiny",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": list(spacing),
        "original_median_shape_after_transp": [30, 30, 40],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, *axes],
        "transpose_backward": [0, *axes],
        "configurations": {"tiny": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities | {"std": 100.0}},
    } | fields


def dataset(**fields: Any) -> dict[str, Any]:
    """Returns the content of `dataset.json`."""
    return {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": 8, "file_ending": ".nii.gz"} | fields


def checkpoint(weights: dict[str, torch.Tensor], **fields: Any) -> dict[str, Any]:
    """Returns a checkpoint as nnU-Net's trainer saves it, with NumPy numbers in addition to the weights."""
    return {
        "network_weights": weights,
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "dice_per_class_or_region": [[np.float64(0.5), np.float32(0.25)]]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {"configuration": "tiny", "fold": 0, "device": torch.device("cpu"), "plans": plans(), "dataset_json": {}},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    } | fields


def write_folder(
    folder: Path,
    about: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    folds: dict[str, dict[str, Any]] | None = None,
) -> Path:
    """Writes a model folder; without `folds`, its checkpoint contains no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans() if about is None else about))
    (folder / "dataset.json").write_text(json.dumps(dataset() if data is None else data))
    for name, content in ({"0": checkpoint({})} if folds is None else folds).items():
        (folder / f"fold_{name}").mkdir(exist_ok=True)
        torch.save(content, folder / f"fold_{name}" / "checkpoint_final.pth")
    return folder


def network(about: dict[str, Any], heads: int, seed: int = 0) -> torch.nn.Module:
    """Returns the network of plans, built by nnU-Net, with seeded weights."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    parts = about["configurations"]["tiny"]["architecture"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: torch.nn.Module = get_network_from_plans(
            parts["network_class_name"], parts["arch_kwargs"], parts["_kw_requires_import"], 1, heads, deep_supervision=False
        )
    return made


def seeded(about: dict[str, Any], heads: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Returns weights whose results depend on neighbouring voxels, so that a mirrored or shifted image gives other labels."""
    return network(about, heads, seed).state_dict()


def by_thresholds(about: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Returns weights that label each voxel by its own HU: 1 above the first of `THRESHOLDS`, 2 above the second, and so on.

    Logits differ by 2 or more, because the small weights of windows' corners would lose smaller differences in float16.
    """
    weights = {name: torch.zeros_like(value) for name, value in network(about, len(THRESHOLDS) + 1).state_dict().items()}
    middle = (slice(None), slice(None), 1, 1, 1)
    for name, value in weights.items():
        if "encoder.stages.0" in name and value.ndim == 5:
            value[middle][0, 0] = 1
        elif name.startswith("decoder.stages.0") and value.ndim == 5:
            value[middle][0, value.shape[1] // 2] = 1  # the skip connection's channels come after those from the lower level
        elif name.startswith("decoder.seg_layers.0") and value.ndim == 5:
            value[:, 0, 0, 0, 0] = 10 * torch.arange(len(THRESHOLDS) + 1)
        elif name.startswith("decoder.seg_layers.0"):
            value[1:] = -10 * torch.cumsum(torch.tensor(THRESHOLDS) / 100, 0)
    return weights
