"""The registrations that `bench/prompts.py` compares. Each returns the transform from a target to a template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from medsam2_atlas.base.choices import RegistrationMethod
from medsam2_atlas.registration import (
    Affine,
    Displacement,
    RegistrationConfig,
    Transform,
    WorkImage,
    prealign,
    refine_affine,
    register,
)
from medsam2_atlas.scoremaps import FusionConfig, fusion_config

Method = Callable[[WorkImage, WorkImage, RegistrationConfig], Transform]
_PACKAGE_SPACING = 3.0


def affine_only(fixed: WorkImage, moving: WorkImage, config: RegistrationConfig) -> Transform:
    """Returns the result of pre-alignment and affine registration, from which all other methods start."""
    return Transform((_start(fixed, moving, config),))


def b_spline(fixed: WorkImage, moving: WorkImage, config: RegistrationConfig) -> Transform:
    """Registers with SimpleITK's B-splines on a 40 mm lattice, by mutual information, after the affine registration.

    It runs 30 iterations on a twentieth of the voxels: 60 iterations on a fifth are less accurate and take five times as long.
    """
    fixed = fixed.around_body()
    start = _start(fixed, moving, config)
    target = _image(fixed.hu, fixed)
    warped, valid = moving.warped(start(fixed.points()))
    source, seen = _image(warped, fixed), _image(valid.float(), fixed)
    lattice = [max(2, round(n * s / 40)) for n, s in zip(target.GetSize(), target.GetSpacing(), strict=True)]
    spline = sitk.BSplineTransformInitializer(target, lattice)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(48)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.05, seed=1)
    method.SetMetricMovingMask(sitk.Cast(seen > 0.5, sitk.sitkUInt8))
    method.SetOptimizerAsLBFGSB(numberOfIterations=30)
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([1, 0])
    method.SetInitialTransform(spline, inPlace=True)
    method.SetInterpolator(sitk.sitkLinear)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(2)
    method.Execute(target, source)
    field = sitk.TransformToDisplacementField(
        spline, sitk.sitkVectorFloat64, target.GetSize(), target.GetOrigin(), target.GetSpacing(), target.GetDirection()
    )
    millimetres = torch.from_numpy(np.moveaxis(sitk.GetArrayFromImage(field), -1, 0).astype(np.float32))
    return Transform((Displacement(millimetres, fixed.origin, fixed.spacing), start))


def convexadam_package(fixed: WorkImage, moving: WorkImage, config: RegistrationConfig) -> Transform:
    """Registers with the authors' package (`pip install convexAdam`), its own settings and 3 mm, after the affine map."""
    from convexAdam.convex_adam_MIND import convex_adam_pt

    start = _start(fixed, moving, config)
    fine = _resampled(fixed, _PACKAGE_SPACING)
    warped, _ = moving.warped(start(fine.points()))
    found = convex_adam_pt(fine.hu, warped, device=torch.device("cpu"), dtype=torch.float32)
    voxels = torch.from_numpy(np.moveaxis(found, -1, 0).astype(np.float32))
    return Transform((Displacement(voxels.flip(0) * fine.spacing, fine.origin, fine.spacing), start))


@cache
def by(method: RegistrationMethod) -> Method:
    """Returns one of the app's registrations."""

    def registered(fixed: WorkImage, moving: WorkImage, config: RegistrationConfig) -> Transform:
        return register(fixed, moving, config.model_copy(update={"method": method}))

    registered.__name__ = method
    return registered


def _with(changes: Mapping[str, Any]) -> FusionConfig:
    """Returns the settings of the app with some changes, by dotted name."""
    settings = fusion_config().model_dump()
    for name, value in changes.items():
        *sections, last = name.split(".")
        section = settings
        for each in sections:
            section = section[each]
        section[last] = value
    return FusionConfig.model_validate(settings)


OFF: dict[str, dict[str, Any]] = {
    "voting": {"vote.method": "mean"},
    "sex": {"vote.sex.enabled": False},
    "sex-doubt": {"vote.sex.min_certainty": 0.5},
    "restore": {"restore.enabled": False},
    "bend": {"bend.enabled": False},
    "correct": {"correct.enabled": False},
    "tissues": {"histograms.tissues.enabled": False},
    "pixel-blur": {"histograms.pixel_blur": 0.0},
    "bin-blur": {"histograms.bin_blur": 0.0},
    "rounding": {"correct.rounding": 0.0},
    "thinning": {"correct.max_thinning": 1.0},
    "extrapolation": {"correct.cut_score": 0.999},
    "minor-pieces": {"correct.pieces.min_minor": 0.25},
}
"""What switches off one part of the score maps; the method `without-NAME` measures it."""
_REGISTERED = fusion_config().as_registered()

METHODS: dict[str, tuple[Method, FusionConfig]] = {
    "affine": (affine_only, _REGISTERED.with_method("mean")),
    "b-spline": (b_spline, _REGISTERED.with_method("mean")),
    "convexadam": (convexadam_package, _REGISTERED.with_method("mean")),
    "frog-mean": (by("keypoints"), _REGISTERED.with_method("mean")),
    "frog": (by("keypoints"), fusion_config()),
    "both-mean": (by("both"), _REGISTERED.with_method("mean")),
    "both": (by("both"), fusion_config()),
    "ours-mean": (by("dense"), _REGISTERED.with_method("mean")),
    "ours-joint": (by("dense"), _REGISTERED.with_method("joint")),
    "ours-local": (by("dense"), _REGISTERED.with_method("local")),
    "ours-unadapted": (by("dense"), _with(OFF["sex"] | OFF["restore"] | OFF["tissues"])),
    "ours": (by("dense"), fusion_config()),
    **{f"without-{name}": (by("dense"), _with(changes)) for name, changes in OFF.items()},
}
"""Registration and label fusion by name; `ours` is the app's method. `ours-unadapted` lacks what adapts it to the target's
contrast phase and sex, and `without-NAME` lacks one part."""

DEFAULT_METHODS = tuple(name for name in METHODS if not name.startswith("without-"))
"""The methods that are measured if none is named."""

ATLASES: dict[str, RegistrationMethod] = {
    "frog-mean": "keypoints",
    "frog": "keypoints",
    "both-mean": "both",
    "both": "both",
}
"""The method that registers the references to each other, by name in `METHODS`; `dense` for all others."""


def same_registration(methods: Sequence[str]) -> list[list[str]]:
    """Groups methods by registration and atlas, so that each target is registered once for a group."""
    groups: dict[tuple[Method, RegistrationMethod], list[str]] = {}
    for name in methods:
        groups.setdefault((METHODS[name][0], ATLASES.get(name, "dense")), []).append(name)
    return list(groups.values())


def _start(fixed: WorkImage, moving: WorkImage, config: RegistrationConfig) -> Affine:
    return refine_affine(fixed, moving, prealign(fixed, moving, config), config)


def _image(values: torch.Tensor, like: WorkImage) -> sitk.Image:
    image = sitk.GetImageFromArray(values.numpy().astype(np.float32))
    image.SetSpacing((like.spacing,) * 3)
    image.SetOrigin([float(v) for v in like.origin])
    return image


def _resampled(image: WorkImage, spacing: float) -> WorkImage:
    shape = torch.Size([int((n - 1) * image.spacing / spacing) + 1 for n in image.shape])
    grid = WorkImage(torch.zeros(shape), torch.ones(shape, dtype=torch.bool), image.origin, spacing)
    hu, valid = image.warped(grid.points())
    return WorkImage(hu, valid, image.origin, spacing)
