"""The step `vote`: label fusion in the common space, with a weight for each reference at each voxel.

The target is warped to the common space once. There, it is compared with each reference's picture around every voxel. So each
reference costs a few filters, not a registration.

`mean`   equal weights, as in the published method.
`local`  locally weighted voting (Artaechevarria et al., IEEE TMI 2009): weight = local squared distance to the power −`power`.
`joint`  joint label fusion (Wang et al., IEEE TPAMI 2013): weights that minimise the expected error of the vote if references
         make the same errors; M w = 1 with M(i, j) = (mean of |T − Rᵢ| |T − Rⱼ| around the voxel)^β.

To add a label fusion, write a function from differences to weights and add it to `_WEIGHTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field

from medsam2_atlas.atlas.atlas import Atlas, ProbabilityMap
from medsam2_atlas.atlas.reference import MAP_SPACING, NO_VOXEL, Reference, map_shape, thumbnail_distance, thumbnail_of
from medsam2_atlas.base.choices import Fusion, MissingOrgan
from medsam2_atlas.registration import WorkImage, box_mean, grid_points, sample
from medsam2_atlas.scoremaps.alignment import Alignment
from medsam2_atlas.scoremaps.sex import PROSTATE_OR_UTERUS, AssumedSex, SexConfig, sex_of
from medsam2_atlas.scoremaps.step import StepConfig

_UNSEEN = 1.0
"""The difference at a voxel outside the field of view of the target or the reference: the max difference."""
_CHUNK = 1 << 18
"""Voxels for which the weights of `joint` are solved at once."""


class VoteConfig(StepConfig):
    """How references vote. If the step is disabled, the result is their plain mean, as for the method `mean`."""

    method: Fusion = Field("local", description="label fusion: mean (as published), local or joint")
    unseen: MissingOrgan = Field(
        "unknown",
        description="meaning of a voxel outside a reference's field of view, and of an organ that its label map lacks: unknown "
        "(the reference does not vote) or absent (it votes against the organ, as published)",
    )
    references: int = Field(15, ge=1, description="max number of references that vote: the most similar to the target")
    radius: int = Field(2, ge=0, description="voxels of the common space; radius of the compared neighbourhood")
    power: float = Field(2.0, ge=0, description="local: weight = squared distance to this negative power")
    beta: float = Field(2.0, gt=0, description="joint: exponent of the expected common error")
    ridge: float = Field(0.1, gt=0, description="joint: share of the mean error that is added to the diagonal")
    min_hu: float = Field(-160.0, description="HU that count as 0; lower values too, so that fat and air are not compared")
    max_hu: float = Field(240.0, description="HU that count as 1; higher values too, so that bone is not compared")
    sex: SexConfig = Field(SexConfig.model_validate({}), description="which references vote on organ 15: prostate or uterus")
    min_distance: float = Field(1e-4, gt=0, description="added to squared distances: noise of 0.01 of the HU range, squared")

    @property
    def label_fusion(self) -> Fusion:
        """The effective label fusion: `mean` if the step is disabled."""
        return self.method if self.enabled else "mean"

    @property
    def name(self) -> str:
        """The name of the effective label fusion in stored thresholds, which are valid for maps of one fusion only."""
        return f"{self.label_fusion}, unseen {self.unseen}" if self.enabled and self.unseen != "unknown" else self.label_fusion


@dataclass(frozen=True)
class Votes:
    """The references' votes on a target, in the common space.

    Attributes:
        alignment: the target's alignment.
        maps: the votes by organ number.
        field_of_view: 1 where at least one reference has voxels.
        sex: the target's estimated sex; None if it was not estimated.
    """

    alignment: Alignment
    maps: dict[int, ProbabilityMap]
    field_of_view: ProbabilityMap
    sex: AssumedSex | None = None


def vote(alignment: Alignment, config: VoteConfig) -> Votes:
    """Fuses the labels of an atlas' references for a target, in the common space."""
    atlas = alignment.atlas
    references: Sequence[Reference] = atlas.references
    mean = config.label_fusion == "mean" or len(references) < 2
    if mean and config.unseen == "unknown":
        return plain_mean(alignment)
    if not mean:
        thumbnail = thumbnail_of(alignment.work, alignment.inverse, atlas.template)
        references = nearest(thumbnail, references, config.references)
    hu, valid = alignment.work.warped(alignment.inverse(atlas.template.points()))
    maps, sex = vote_on(hu, valid, references, atlas, config)
    return Votes(alignment, maps, atlas.coverage, sex)


def plain_mean(alignment: Alignment) -> Votes:
    """Returns the atlas' own maps as votes: at each voxel, the mean over the references that show it."""
    return Votes(alignment, alignment.atlas.maps, alignment.atlas.coverage)


def vote_on(
    hu: torch.Tensor,
    valid: torch.Tensor,
    references: Sequence[Reference],
    atlas: Atlas,
    config: VoteConfig,
) -> tuple[dict[int, ProbabilityMap], AssumedSex | None]:
    """Returns the votes of references on a CT in the common space, by organ number, and the estimated sex; see `sex`.

    Args:
        hu: the CT in HU, `[z, y, x]` on the template's grid.
        valid: `[z, y, x]` bool, True where the CT has voxels.
        references: the references that vote.
        atlas: the atlas of the references.
        config: how they vote.
    """
    weights = _weights(hu, valid, references, config)
    covers = [reference.covers(map_shape(atlas.template)) for reference in references]
    missing_is_absent = atlas.options.get("missing") == "absent"
    if config.unseen == "absent":  # shares end with the field of view, so it suffices that all references count everywhere
        covers, missing_is_absent = [np.ones_like(covered) for covered in covers], True

    def fused(k: int, voters: Sequence[int]) -> ProbabilityMap:
        chosen, seen = [references[n] for n in voters], [covers[n] for n in voters]
        return _fused(atlas.maps[k], k, atlas.template, chosen, seen, weights[list(voters)], missing_is_absent)

    everyone = range(len(references))
    sex = None if config.label_fusion == "mean" else sex_of(hu, valid, references, atlas.template, config.sex)
    maps = {k: fused(k, everyone) for k in atlas.maps}
    if sex is not None and sex.used:
        k = PROSTATE_OR_UTERUS
        maps[k] = fused(k, [n for n in everyone if references[n].sex == sex.sex and k in references[n].shares])
    return maps, sex


def nearest(thumbnail: np.ndarray, references: Iterable[Reference], count: int) -> list[Reference]:
    """Returns the references with the most similar thumbnails, the most similar first.

    Args:
        thumbnail: a CT's thumbnail in the common space, `[z, y, x]` int16 in HU.
        references: the references to choose from.
        count: the max number of references to return.
    """
    return sorted(references, key=lambda reference: thumbnail_distance(thumbnail, reference.thumbnail))[:count]


def _weights(hu: torch.Tensor, valid: torch.Tensor, references: Sequence[Reference], config: VoteConfig) -> torch.Tensor:
    """Returns the references' weights `[references, z, y, x]` on the template's grid."""
    if config.label_fusion == "mean":
        return torch.ones(len(references), *hu.shape)
    target = scaled(hu, config.min_hu, config.max_hu)
    differences = torch.empty(len(references), *hu.shape)
    for n, reference in enumerate(references):
        picture = torch.from_numpy(reference.picture.astype(np.float32))
        both = valid & (picture > NO_VOXEL)
        difference = (target - scaled(picture, config.min_hu, config.max_hu)).abs()
        differences[n] = torch.where(both, difference, _UNSEEN)
    return _WEIGHTS[config.label_fusion](differences, config)


def _local_weights(differences: torch.Tensor, config: VoteConfig) -> torch.Tensor:
    return (box_mean(differences**2, config.radius) + config.min_distance) ** -config.power


def _joint_weights(differences: torch.Tensor, config: VoteConfig) -> torch.Tensor:
    count, shape = len(differences), differences.shape[1:]
    common = torch.empty(count, count, differences[0].numel())
    for i in range(count):
        for j in range(i + 1):
            error = box_mean((differences[i] * differences[j])[None], config.radius)[0].reshape(-1)
            common[i, j] = common[j, i] = error
    common = (common + config.min_distance) ** config.beta
    weights = torch.empty(count, common.shape[-1])
    one, unit = torch.ones(count, 1), torch.eye(count)
    for start in range(0, common.shape[-1], _CHUNK):
        m = common[..., start : start + _CHUNK].movedim(-1, 0)
        typical = m.diagonal(dim1=1, dim2=2).mean(1).view(-1, 1, 1)
        weights[:, start : start + _CHUNK] = torch.linalg.solve(m + config.ridge * typical * unit, one.expand(len(m), -1, -1))[
            ..., 0
        ].T
    return weights.clamp(min=0).reshape(count, *shape)


_WEIGHTS: dict[Fusion, Callable[[torch.Tensor, VoteConfig], torch.Tensor]] = {"local": _local_weights, "joint": _joint_weights}
"""Functions from differences between references and target `[references, z, y, x]`, 0..1, to weights of the same shape."""


def _fused(
    known: ProbabilityMap,
    k: int,
    template: WorkImage,
    references: Sequence[Reference],
    covers: Sequence[np.ndarray],
    weights: torch.Tensor,
    missing_is_absent: bool,
) -> ProbabilityMap:
    """Returns an organ's votes over the box of the atlas' own map."""
    box = known.on_grid(template).spans
    points = grid_points(torch.Size(known.values.shape), torch.from_numpy(known.origin), MAP_SPACING)
    here = sample(weights, points, template.origin, template.spacing).numpy()
    total, seen = np.zeros(known.values.shape, np.float32), np.zeros(known.values.shape, np.float32)
    for reference, covered, weight in zip(references, covers, here, strict=True):
        if k in reference.organs or missing_is_absent:
            seen += weight * covered[box]
        if k in reference.shares:
            total += weight * covered[box] * reference.shares[k].part(box)
    values = np.rint(np.divide(total, seen, out=np.zeros_like(total), where=seen > 0)).astype(np.uint8)
    return ProbabilityMap(values, known.origin, known.count)


def scaled(hu: torch.Tensor, min_hu: float, max_hu: float) -> torch.Tensor:
    """Scales HU linearly to 0..1.

    Args:
        hu: HU of any shape.
        min_hu: the HU that becomes 0, as do lower values.
        max_hu: the HU that becomes 1, as do higher values.

    Returns:
        0..1, of the same shape.

    Examples:
        >>> scaled(torch.tensor([-1000.0, 40.0, 240.0]), -160.0, 240.0).tolist()
        [0.0, 0.5, 1.0]
    """
    return (hu.clamp(min_hu, max_hu) - min_hu) / (max_hu - min_hu)
