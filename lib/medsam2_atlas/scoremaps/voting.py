"""Label fusion in the common space: how much each reference says about each place of a target.

The target is carried into the common space once; there, each reference's picture is compared with it around every voxel.
So the cost for a target is a few filters a reference, not a registration.

`mean`   all references alike: the published method.
`local`  locally weighted voting (Artaechevarria et al., IEEE TMI 2009): weight = local squared distance to the power of −p.
`joint`  joint label fusion (Wang et al., IEEE TPAMI 2013): weights that minimise the expected error of the vote, given that
         references may err alike; M w = 1 with M(i, j) = (mean of |T − Rᵢ| |T − Rⱼ| around the voxel)^β.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from medsam2_atlas.atlas.atlas import Atlas, ProbabilityMap
from medsam2_atlas.atlas.reference import MAP_SPACING, NOWHERE, Reference, map_shape, thumbnail_distance, thumbnail_of
from medsam2_atlas.base.choices import Fusion
from medsam2_atlas.base.configuration import read_config
from medsam2_atlas.base.resource import resource
from medsam2_atlas.registration import Transform, WorkImage, box_mean, grid_points, sample
from medsam2_atlas.scoremaps.appearance import AppearanceConfig

_LOW_HU, _HIGH_HU = -160.0, 240.0
_UNSEEN = 1.0
"""Difference that stands for a place that a reference does not show: as large as can be."""
_LEAST_DISTANCE = 1e-4
_CHUNK = 1 << 18


class FusionConfig(BaseModel):
    """How references vote."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Fusion = Field("local", description="mean, local or joint")
    references: int = Field(15, ge=1, description="most references that vote: those that resemble the target most")
    radius: int = Field(2, ge=0, description="voxels of the common space to each side that are compared")
    power: float = Field(2.0, ge=0, description="local: weight = distance to this negative power")
    beta: float = Field(2.0, gt=0, description="joint: exponent of the expected common error")
    ridge: float = Field(0.1, gt=0, description="joint: share of the mean error that is added to the diagonal")
    appearance: AppearanceConfig = Field(
        AppearanceConfig.model_validate({}), description="what the target's intensities then correct"
    )


@cache
def fusion_config(file: Path | None = None) -> FusionConfig:
    """The parameters in `configs/fusion.yaml`, or in another file.

    Raises:
        InputError: the file does not hold valid parameters.
    """
    return read_config(FusionConfig, file or resource("configs/fusion.yaml"), "fusion configuration")


def vote(
    target: WorkImage, inverse: Transform, atlas: Atlas, config: FusionConfig, organs: Iterable[int] | None = None
) -> dict[int, ProbabilityMap]:
    """Probability maps of the common space for one target.

    Args:
        target: the CT on its working grid.
        inverse: from the common space's world points to the target's.
        atlas: its references vote.
        config: how.
        organs: numbers; all of the atlas by default.
    """
    wanted = [k for k in (atlas.maps if organs is None else organs) if k in atlas.maps]
    if config.method == "mean" or len(atlas.references) < 2:
        return {k: atlas.maps[k] for k in wanted}
    references = nearest(thumbnail_of(target, inverse, atlas.template), atlas.references, config.references)
    hu, valid = target.warped(inverse(atlas.template.points()))
    return vote_on(hu, valid, references, atlas, config, wanted)


def vote_on(
    hu: torch.Tensor,
    valid: torch.Tensor,
    references: Sequence[Reference],
    atlas: Atlas,
    config: FusionConfig,
    organs: Iterable[int],
) -> dict[int, ProbabilityMap]:
    """The votes of some references of an atlas about a CT that lies in the common space already.

    Args:
        hu: `[z, y, x]` on the template's grid.
        valid: where it has voxels.
        references: that vote.
        atlas: of the references.
        config: how.
        organs: numbers, of the atlas' maps.
    """
    weights = _weights(hu, valid, references, config)
    covers = [reference.covers(map_shape(atlas.template)) for reference in references]
    missing_is_absent = atlas.options.get("missing") == "absent"
    return {k: _fused(atlas.maps[k], k, atlas.template, references, covers, weights, missing_is_absent) for k in organs}


def nearest(thumbnail: np.ndarray, references: Iterable[Reference], count: int) -> list[Reference]:
    """The references whose thumbnails resemble one most, the most similar first."""
    return sorted(references, key=lambda reference: thumbnail_distance(thumbnail, reference.thumbnail))[:count]


def _weights(hu: torch.Tensor, valid: torch.Tensor, references: Sequence[Reference], config: FusionConfig) -> torch.Tensor:
    """`[references, z, y, x]` on the template's grid."""
    if config.method == "mean":
        return torch.ones(len(references), *hu.shape)
    wanted = scaled(hu)
    apart = torch.empty(len(references), *hu.shape)
    for n, reference in enumerate(references):
        picture = torch.from_numpy(reference.picture.astype(np.float32))
        both = valid & (picture > NOWHERE)
        apart[n] = torch.where(both, (wanted - scaled(picture)).abs(), _UNSEEN)
    if config.method == "local":
        return (box_mean(apart**2, config.radius) + _LEAST_DISTANCE) ** -config.power
    return _joint_weights(apart, config)


def _joint_weights(apart: torch.Tensor, config: FusionConfig) -> torch.Tensor:
    count, shape = len(apart), apart.shape[1:]
    together = torch.empty(count, count, apart[0].numel())
    for i in range(count):
        for j in range(i + 1):
            together[i, j] = together[j, i] = box_mean((apart[i] * apart[j])[None], config.radius)[0].reshape(-1)
    together = (together + _LEAST_DISTANCE) ** config.beta
    weights = torch.empty(count, together.shape[-1])
    one, unit = torch.ones(count, 1), torch.eye(count)
    for start in range(0, together.shape[-1], _CHUNK):
        m = together[..., start : start + _CHUNK].movedim(-1, 0)
        typical = m.diagonal(dim1=1, dim2=2).mean(1).view(-1, 1, 1)
        weights[:, start : start + _CHUNK] = torch.linalg.solve(m + config.ridge * typical * unit, one.expand(len(m), -1, -1))[
            ..., 0
        ].T
    return weights.clamp(min=0).reshape(count, *shape)


def _fused(
    known: ProbabilityMap,
    k: int,
    template: WorkImage,
    references: Sequence[Reference],
    covers: Sequence[np.ndarray],
    weights: torch.Tensor,
    missing_is_absent: bool,
) -> ProbabilityMap:
    """An organ's map over the box of the atlas' own."""
    box = known.spans(template)
    points = grid_points(torch.Size(known.values.shape), torch.from_numpy(known.origin), MAP_SPACING)
    here = sample(weights, points, template.origin, template.spacing).numpy()
    total, seen = np.zeros(known.values.shape, np.float32), np.zeros(known.values.shape, np.float32)
    for reference, covered, weight in zip(references, covers, here, strict=True):
        if k in reference.organs or missing_is_absent:
            seen += weight * covered[box]
        if k in reference.shares:
            total += weight * covered[box] * _in_box(reference, k, box)
    values = np.rint(np.divide(total, seen, out=np.zeros_like(total), where=seen > 0)).astype(np.uint8)
    return ProbabilityMap(values, known.origin, known.count)


def _in_box(reference: Reference, k: int, box: tuple[slice, ...]) -> np.ndarray:
    """A reference's share of an organ within a box of the map grid."""
    share = reference.shares[k]
    part = np.zeros([span.stop - span.start for span in box], np.float32)
    common = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(box, share.spans, strict=True)]
    if all(span.start < span.stop for span in common):
        there = tuple(slice(c.start - b.start, c.stop - b.start) for c, b in zip(common, box, strict=True))
        from_share = tuple(slice(c.start - s.start, c.stop - s.start) for c, s in zip(common, share.spans, strict=True))
        part[there] = share.values[from_share]
    return part


def scaled(hu: torch.Tensor) -> torch.Tensor:
    """HU as pictures are compared by: −160..240 as 0..1."""
    return (hu.clamp(_LOW_HU, _HIGH_HU) - _LOW_HU) / (_HIGH_HU - _LOW_HU)
