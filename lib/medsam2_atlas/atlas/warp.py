"""Warps an annotated CT to the common space."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from medsam2_atlas.atlas.reading import AnnotatedCT, PackedLabels
from medsam2_atlas.atlas.reference import MAP_SPACING, OrganShare, Origin, Reference, map_shape, picture_of, thumbnail_of
from medsam2_atlas.atlas.sex import guessed_sex
from medsam2_atlas.base.choices import Sex
from medsam2_atlas.imaging.cropped_map import Box, CroppedMap, lower_corner, shape_of
from medsam2_atlas.imaging.masks import occupied
from medsam2_atlas.imaging.volume import Geometry
from medsam2_atlas.registration import Transform, WorkImage, grid_points

_CHUNK = 1 << 19
"""Points of the map grid that are warped at once: a few megabytes."""


def warp_reference(case: AnnotatedCT, transform: Transform, template: WorkImage, origin: Origin = "base") -> Reference:
    """Warps an annotated CT to the common space and returns it as a reference.

    Args:
        case: the annotated CT.
        transform: the transform from the common space's world points to the CT's (x, y, z in mm, LPS).
        template: the mean image of the common space.
        origin: the origin of the reference; see `Reference`.
    """
    shares, covered = _shares(case.labels, transform, template)
    return Reference(
        case.name,
        case.sha256,
        case.labels.organs,
        transform,
        shares,
        np.packbits(covered),
        picture_of(*case.work.warped(transform(template.points()))),
        thumbnail_of(case.work, transform, template),
        origin,
        image_sha256=case.image_sha256,
        given_sex=case.sex or _own_sex(case.labels),
    )


def _own_sex(labels: PackedLabels) -> Sex | None:
    """Guesses the sex on the label map's own grid; in the common space, an organ at the scan's end may be misplaced."""
    voxels = labels.voxels()
    own = {
        k: CroppedMap(((voxels[labels.within(box)] == k) * np.uint8(255)), lower_corner(box)) for k, box in labels.boxes.items()
    }
    return guessed_sex(own)


def _shares(labels: PackedLabels, transform: Transform, template: WorkImage) -> tuple[dict[int, OrganShare], np.ndarray]:
    """Returns the organs' shares, and a flat bool array that is True for voxels of the map grid in the field of view."""
    shape = map_shape(template)
    points = grid_points(torch.Size(shape), template.origin, MAP_SPACING).reshape(-1, 3)
    voxels = labels.voxels()
    dense = {k: np.zeros(len(points), np.uint8) for k in labels.organs}
    covered = np.zeros(len(points), bool)
    for start in range(0, len(points), _CHUNK):
        part = slice(start, min(start + _CHUNK, len(points)))
        index, covered[part] = _index_in(labels.geometry, transform(points[part]))
        for k, box in labels.boxes.items():
            dense[k][part] = np.rint(255 * _mask_values(voxels[labels.within(box)] == k, box, index))
    shares = {}
    for k in labels.organs:
        values = dense.pop(k).reshape(shape)
        occupied_box = occupied(values)
        if occupied_box is not None:
            shares[k] = OrganShare(np.ascontiguousarray(values[occupied_box]), lower_corner(occupied_box))
    return shares, covered


def _index_in(grid: Geometry, world: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
    """Returns the continuous voxel indices `[n, 3]` (x, y, z) of world points, and whether each lies in the field of view."""
    to_index = torch.from_numpy(np.linalg.inv(grid.matrix)).float()
    index = (world - torch.tensor(grid.origin, dtype=torch.float32)) @ to_index.T
    last = torch.tensor(grid.size, dtype=torch.float32) - 1
    return index, ((index >= -0.5) & (index <= last + 0.5)).all(-1).numpy()


def _mask_values(organ: np.ndarray, box: Box, index: torch.Tensor) -> np.ndarray:
    """Returns trilinear samples of an organ's mask, `[n]`, 0..1.

    Args:
        organ: the mask inside its box, `[z, y, x]` bool.
        box: the box (z, y, x) on the label map's grid.
        index: continuous voxel indices on that grid, `[n, 3]` (x, y, z).
    """
    lower = torch.tensor(lower_corner(box)[::-1], dtype=torch.float32)
    last = torch.tensor(shape_of(box)[::-1], dtype=torch.float32) - 1
    near = ((index >= lower - 1) & (index <= lower + last + 1)).all(-1)
    values = np.zeros(len(index), np.float32)
    if near.any():
        unit = (index[near] - lower) / last.clamp(min=1) * 2 - 1
        mask = torch.from_numpy(organ.astype(np.float32))[None, None]
        sampled = F.grid_sample(mask, unit.view(1, 1, 1, -1, 3), padding_mode="zeros", align_corners=True)
        values[near.numpy()] = sampled.ravel().numpy()
    return values
