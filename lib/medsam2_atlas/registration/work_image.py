"""The working image of registration: a coarse, isotropic, axis-parallel copy of a CT."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from scipy import ndimage

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.masks import occupied
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.registration.config import TissueConfig, WorkImageConfig
from medsam2_atlas.registration.keypoints.keypoint import Landmarks
from medsam2_atlas.registration.mean_descriptors import MeanDescriptors
from medsam2_atlas.registration.transform import grid_points, sample

AIR = -1000.0
"""The HU outside a scan."""
_ROUNDING_MM = 0.01
"""The tolerance in mm for rounded spacings in files."""
_DEFAULT = WorkImageConfig.model_validate({})


@dataclass(frozen=True)
class WorkImage:
    """A CT on an isotropic grid parallel to the LPS axes.

    Attributes:
        hu: HU, `[z, y, x]` float32.
        valid: `[z, y, x]` bool, True where the scan has voxels.
        origin: the first voxel's centre, `[3]` (x, y, z) in mm.
        spacing: the spacing in mm.
        group: for a mean image, the mean descriptors of its images.
        config: the parameters by which the body is found.
        landmarks: for a mean image, the keypoints of its images.
    """

    hu: torch.Tensor
    valid: torch.Tensor
    origin: torch.Tensor
    spacing: float
    group: MeanDescriptors | None = None
    config: WorkImageConfig = _DEFAULT
    landmarks: Landmarks | None = None

    @classmethod
    def of(cls, volume: Volume, spacing: float, config: WorkImageConfig = _DEFAULT) -> WorkImage:
        """Smooths a volume and resamples it on its working grid.

        Args:
            volume: the CT in HU.
            spacing: the spacing of the working grid in mm.
            config: the smoothing, and the min extent of the volume and of the body.

        Raises:
            InputError: the volume is too short, or shows no body.
        """
        _check_extent(volume, config)
        last = np.array(volume.geometry.size) - 1
        corners = volume.geometry.to_world(np.array(list(np.ndindex(2, 2, 2))) * last)
        lower, upper = np.min(corners, 0), np.max(corners, 0)
        fine = volume.as_image()
        fine = sitk.BinShrink(fine, [max(1, int(spacing / 2 / step)) for step in fine.GetSpacing()])
        for axis, step in enumerate(fine.GetSpacing()):
            if step < config.smooth_below * spacing:  # SimpleITK's resampling does not smooth by itself
                fine = sitk.RecursiveGaussian(fine, config.smoothing * spacing, direction=axis)
        size = [int(np.floor((b - a) / spacing)) + 1 for a, b in zip(lower, upper, strict=True)]
        origin = [float(v) for v in (lower + upper) / 2 - (np.array(size) - 1) * spacing / 2]
        outside = -1e5
        coarse = sitk.Resample(
            fine, size, sitk.Transform(), sitk.sitkLinear, origin, (spacing,) * 3, np.eye(3).ravel().tolist(), outside
        )
        hu = torch.from_numpy(sitk.GetArrayFromImage(coarse).astype(np.float32))
        valid = hu > -2e4
        hu, start = torch.where(valid, hu.clamp(-1024, 3071), AIR), torch.tensor(origin, dtype=torch.float32)
        work = cls(hu, valid, start, spacing, config=config)
        if float(work.body.float().mean()) < config.min_body_share:
            raise InputError(volume.source, "shows no body: hardly any voxel is denser than fat.", "Give a CT in HU.")
        return work

    @property
    def shape(self) -> torch.Size:
        """The shape (z, y, x)."""
        return self.hu.shape

    def points(self) -> torch.Tensor:
        """Returns the world points of the voxels, `[z, y, x, 3]`: (x, y, z) in mm."""
        return grid_points(self.shape, self.origin, self.spacing)

    def corners(self) -> np.ndarray:
        """Returns the centres of the corner voxels, `[8, 3]`: (x, y, z) in mm."""
        corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(self.shape[::-1]) - 1)
        found: np.ndarray = corners * self.spacing + self.origin.numpy().astype(np.float64)
        return found

    def at_spacing(self, spacing: float) -> WorkImage:
        """Returns a copy on a coarser grid; the image is averaged before it is sampled. `spacing` is in mm."""
        if abs(spacing - self.spacing) < 1e-3:
            return self
        width = max(1, 2 * round((spacing / self.spacing - 1) / 2) + 1)
        smooth = F.avg_pool3d(self._with_share()[None], width, 1, width // 2, count_include_pad=False)[0]
        shape = [max(2, int((n - 1) * self.spacing / spacing) + 1) for n in self.shape]
        points = grid_points(torch.Size(shape), self.origin, spacing)
        hu, valid = _of_share(sample(smooth, points, self.origin, self.spacing))
        return WorkImage(hu, valid, self.origin, spacing, config=self.config)

    def with_config(self, config: WorkImageConfig) -> WorkImage:
        """Returns the image, or a copy if `config` differs: it determines how the body is found."""
        return self if config == self.config else replace(self, config=config)

    def warped(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the image at world points.

        Args:
            points: `[z, y, x, 3]`: (x, y, z) in mm.

        Returns:
            HU `[z, y, x]`, air outside the scan, and validity `[z, y, x]` bool, True inside the scan.
        """
        return _of_share(sample(self._with_share(), points, self.origin, self.spacing, padding="zeros"))

    def _with_share(self) -> torch.Tensor:
        """Returns `[2, z, y, x]`: HU above air, and 1, both 0 at invalid voxels.

        The quotient of the two channels' means is the mean of the valid voxels.
        """
        return torch.stack([(self.hu - AIR) * self.valid, self.valid.float()])

    def around_body(self) -> WorkImage:
        """Returns the image cropped to the body and `body_margin` mm around it; table and air would only cost time."""
        box = occupied(self.body.numpy(), margin=round(self.config.body_margin / self.spacing))
        return self if box is None else self.cropped(box)

    def around_scan(self) -> WorkImage:
        """Returns the image cropped to the box of its valid voxels."""
        box = occupied(self.valid.numpy())
        return self if box is None else self.cropped(box)

    def cropped(self, box: tuple[slice, ...]) -> WorkImage:
        """Returns a copy of the part in a box, given in voxels as one slice per axis (z, y, x)."""
        z, y, x = box
        shift = torch.tensor([x.start, y.start, z.start], dtype=torch.float32) * self.spacing
        return replace(self, hu=self.hu[box].clone(), valid=self.valid[box].clone(), origin=self.origin + shift)

    @cached_property
    def body(self) -> torch.Tensor:
        """The body, `[z, y, x]` bool: the largest component denser than lung, with the holes of each slice filled."""
        dense = ndimage.binary_opening((self.hu > self.config.body_hu).numpy(), iterations=1)
        pieces, count = ndimage.label(dense)
        if count == 0:
            return torch.zeros(self.shape, dtype=torch.bool)
        sizes = np.bincount(pieces.ravel())
        sizes[0] = 0
        body = pieces == sizes.argmax()
        for z in range(body.shape[0]):
            body[z] = ndimage.binary_fill_holes(body[z])
        return torch.from_numpy(body)


def _of_share(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns HU and validity from means of `WorkImage._with_share`; a mean over mostly valid voxels is valid."""
    total, share = values
    valid = share > 0.5
    return torch.where(valid, total / share.clamp(min=0.5) + AIR, AIR), valid


def _check_extent(volume: Volume, config: WorkImageConfig) -> None:
    """Raises an InputError if a volume is too short for registration: two thick slices register much worse than three."""
    sizes = np.array(volume.geometry.size)
    shortest = float((sizes * volume.geometry.spacing).min())
    long_enough = shortest >= config.min_length - _ROUNDING_MM
    if long_enough and sizes.min() >= config.min_slices:
        return
    few = f"has only {sizes.min()} slices" if long_enough else f"spans only {math.floor(shortest * 10) / 10} mm"
    raise InputError(
        volume.source,
        f"{few} along one axis.",
        f"Registration needs at least {config.min_length:.0f} mm of the trunk, in {config.min_slices} slices.",
    )


def hu_classes(hu: torch.Tensor, tissue: TissueConfig) -> torch.Tensor:
    """Returns the soft membership of voxels in four tissue classes.

    Args:
        hu: HU of any shape `[...]`.
        tissue: the borders between the classes.

    Returns:
        `[4, ...]`, 0..1: air, fat, soft tissue, and bone or bright contrast.
    """
    above_lung = torch.sigmoid((hu - tissue.fat_above) / tissue.fat_width)
    above_fat = torch.sigmoid((hu - tissue.soft_above) / tissue.soft_width)
    above_soft = torch.sigmoid((hu - tissue.bone_above) / tissue.bone_width)
    return torch.stack([1 - above_lung, above_lung * (1 - above_fat), above_fat * (1 - above_soft), above_soft])
