"""MONAI dictionary transforms: reading, resampling to the network's grid, and random augmentation for training.

Arrays are `[1, z, y, x]`. Their affine maps an index (z, y, x) to world (x, y, z) in mm, LPS. No transform mirrors, because
mirroring would turn a left kidney into a right one.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    ClassesToIndicesd,
    Compose,
    CropForegroundd,
    DeleteItemsd,
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandCropByLabelClassesd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSimulateLowResolutiond,
    Resized,
    ScaleIntensityRanged,
    Spacingd,
    SpatialPadd,
    SqueezeDimd,
)

from medsam2_atlas.imaging.hounsfield import HuRule, read_ct
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Geometry, Volume, read_labels
from medsam2_atlas.unet.config import UNetConfig
from medsam2_atlas.unet.resampling import ResizeLabeld, Smoothd

_CLASS_SAMPLES = 4000
"""Number of voxels per organ that are stored as possible patch centres: far more than are drawn, but few enough for disk."""
_PATCH_MARGIN = 1.1
"""Factor by which patches are cut larger than the max scaling needs, so that rotated corners still contain image."""


class ReadCased(MapTransform):
    """Reads `image` and, if the dictionary has one, `label`.

    Adds `known` (bool `[classes]`: whether a class is annotated) and `hu_offset` (the number added to the CT's values to get
    HU). The optional key `annotated` lists the organ numbers whose annotation is complete; by default, these are the organs in
    the label map. The optional key `hu` is the text of a `HuRule`; the default is `check`.
    """

    def __init__(self) -> None:
        super().__init__(("image", "label"), allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Returns the dictionary with each file replaced by a tensor `[1, z, y, x]`: HU or organ numbers.

        Raises:
            InputError: if a file cannot be used, a label is not in the organ table, or the label map is empty and
                `annotated` lists no organ.
        """
        result = dict(data)
        image = data["image"]
        if not isinstance(image, Volume):
            image = read_ct(image, HuRule.parse(data.get("hu", "check")))
        result["image"] = as_tensor(image)
        if image.hu is not None:
            result["hu_offset"] = float(image.hu["offset"])
        if "label" in data:
            label = read_labels(data["label"], image)
            result["label"] = as_tensor(label)
            held = np.unique(label.array).tolist()
            complete = data.get("annotated")
            organ_table().check(data["label"], held, empty=bool(complete))
            annotated = complete or held
            known = torch.zeros(1 + max(organ_table().indices), dtype=torch.bool)
            known[[0, *annotated]] = True
            result["known"] = known
        return result


def as_tensor(volume: Volume) -> MetaTensor:
    """Returns a volume as `[1, z, y, x]`, with the affine of `array_affine`."""
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(volume.array))[None], affine=array_affine(volume.geometry))


def array_affine(geometry: Geometry) -> torch.Tensor:
    """Returns the affine `[4, 4]` that maps an index (z, y, x) to world (x, y, z) in mm, LPS."""
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.from_numpy(geometry.matrix[:, ::-1].copy())
    affine[:3, 3] = torch.tensor(geometry.origin, dtype=torch.float64)
    return affine


def grid_transforms(config: UNetConfig, *, labels: bool) -> list[Any]:
    """Returns the transforms that read files, resample to the network's grid and scale HU to 0..1.

    With `slice_pixels`, the grid spans the CT's whole field of view. Otherwise, it is cropped to the body.

    Args:
        config: configuration of the network.
        labels: also transform the label map.
    """
    keys = ["image", "label"] if labels else ["image"]
    spacing = tuple(reversed(config.spacing))
    modes = ("bilinear", "nearest") if labels else "bilinear"
    to_spacing = Spacingd(keys, [s or -1.0 for s in spacing], mode=modes, dtype=torch.float32, ensure_same_shape=labels)
    scale = ScaleIntensityRanged(["image"], *config.window, 0.0, 1.0, clip=True)
    if config.slice_pixels is None:
        crop = CropForegroundd(keys, source_key="image", select_fn=_denser_than_window_floor, allow_smaller=True)
        return [ReadCased(), Smoothd(["image"], spacing), to_spacing, scale, crop]
    columns, rows = config.slice_pixels
    return [
        ReadCased(),
        Smoothd(["image"], spacing, (rows, columns)),
        *([to_spacing] if any(spacing) else []),
        Resized(["image"], (-1, rows, columns), mode="trilinear", dtype=torch.float32),
        ResizeLabeld(),
        scale,
    ]


def _denser_than_window_floor(image: torch.Tensor) -> torch.Tensor:
    return image > 0


def cached_transforms(config: UNetConfig) -> Compose:
    """Returns the deterministic transforms of a training case; their result is cached."""
    classes = 1 + max(organ_table().indices)
    pick = ClassesToIndicesd(["label"], num_classes=classes, max_samples_per_class=_CLASS_SAMPLES)
    return Compose([*grid_transforms(config, labels=True), pick])


def random_transforms(config: UNetConfig) -> Compose:
    """Returns the transforms that cut random patches, and vary their shape and intensity as patients and scanners do."""
    training, changes = config.training, config.augmentation
    patch = tuple(reversed(config.patch))
    # The margin is the same on both sides. With half a voxel more on one, unchanged patches would be cut between voxels.
    margins = (int(side * (1 + training.scaling) * _PATCH_MARGIN) - side for side in patch)
    wider = tuple(side + margin + margin % 2 for side, margin in zip(patch, margins, strict=True))
    turn = np.radians(training.rotation)
    flat = config.dimensions == 2
    organs = len(organ_table().organs)
    share = (1 - training.background_share) / organs
    ratios = [training.background_share] + [share] * max(organ_table().indices)
    size = (1, *wider) if flat else wider
    keys = ["image", "label"]
    steps: list[Any] = [
        RandCropByLabelClassesd(
            keys,
            "label",
            size,
            ratios=ratios,
            num_classes=len(ratios),
            num_samples=training.patches_per_case,
            indices_key="label_cls_indices",
            allow_smaller=True,
            warn=False,
        ),
        DeleteItemsd("label_cls_indices"),
        SpatialPadd(keys, size, mode="edge"),
    ]
    if flat:
        steps.append(SqueezeDimd(keys, dim=1))
    return Compose(
        [
            *steps,
            RandAffined(
                keys,
                patch,
                prob=changes.shape,
                rotate_range=[turn] if flat else [turn] * 3,
                scale_range=[training.scaling] * config.dimensions,
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            RandSimulateLowResolutiond(
                ["image"],
                prob=changes.resolution,
                upsample_mode="bilinear" if flat else "trilinear",
                zoom_range=changes.resolution_range,
            ),
            RandGaussianSmoothd(["image"], *[changes.blur_range] * 3, prob=changes.blur),
            RandGaussianNoised(["image"], prob=changes.noise, std=changes.max_noise),
            RandScaleIntensityd(["image"], changes.max_intensity_scale, prob=changes.intensity_scale),
            RandShiftIntensityd(["image"], changes.max_intensity_shift, prob=changes.intensity_shift),
            RandAdjustContrastd(["image"], prob=changes.contrast, gamma=changes.contrast_range),
        ]
    )
