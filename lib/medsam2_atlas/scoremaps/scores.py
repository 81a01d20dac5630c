"""Score maps: the atlas' probability maps carried onto a target by one registration and one warp, and corrected there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch

from medsam2_atlas.atlas.atlas import Atlas, ProbabilityMap
from medsam2_atlas.atlas.reference import MAP_SPACING
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.registration import (
    RegistrationCache,
    RegistrationConfig,
    Transform,
    WorkImage,
    register,
    registration_config,
    sample,
)
from medsam2_atlas.scoremaps.appearance import corrected
from medsam2_atlas.scoremaps.evidence import with_evidence
from medsam2_atlas.scoremaps.maps import ScoreMap, ScoreMaps, reduced_shape
from medsam2_atlas.scoremaps.thresholds import thresholds_of
from medsam2_atlas.scoremaps.voting import FusionConfig, fusion_config, vote

_PIXEL_MM = 2.0
_COARSE = 4
"""Every fourth pixel tells which part of a slice a map reaches."""
_KNOWN = 0
"""Stands among the organs' numbers for the references' fields of view."""
_CHUNK = 1 << 20


def score_maps(
    target: Volume,
    atlas: Atlas,
    organs: Iterable[int] | None = None,
    config: RegistrationConfig | None = None,
    progress: Progress = silent,
    cache: RegistrationCache | None = None,
    fusion: FusionConfig | None = None,
) -> ScoreMaps:
    """Registers a target to the atlas' common space, lets the references vote there, warps the maps onto the target, and
    corrects them by its intensities.

    Args:
        target: the CT.
        atlas: to compare it with.
        organs: numbers; all of the atlas by default.
        config: registration parameters; those of `configs/registration.yaml` by default.
        progress: told stages and shares.
        cache: where the registration is kept for other atlases of the same common space.
        fusion: how the references vote; as `configs/fusion.yaml` says by default.

    Raises:
        InputError: the target shows no body, or too little of it.
    """
    config, fusion = config or registration_config(), fusion or fusion_config()
    work = WorkImage.of(target, config.spacing, config.image)

    def make() -> Transform:
        return register(work, atlas.template, config, progress)

    if cache is None:
        transform = make()
        inverse = transform.inverse()
    else:
        key = f"{atlas.template_version}-{config.digest}/{target.digest}"
        transform = cache.get(key, make)
        inverse = cache.get(f"{key}-inverse", transform.inverse)
    return fused_scores(target, work, atlas, fusion, transform, inverse, organs, progress)


def fused_scores(
    target: Volume,
    work: WorkImage,
    atlas: Atlas,
    fusion: FusionConfig,
    transform: Transform,
    inverse: Transform,
    organs: Iterable[int] | None = None,
    progress: Progress = silent,
) -> ScoreMaps:
    """Score maps of a target that has been registered.

    Args:
        target: the CT.
        work: the same on its working grid.
        atlas: it was registered to.
        fusion: how the references vote, and how the target's intensities correct them.
        transform: from the target's world points to the common space's.
        inverse: the way back.
        organs: numbers; all of the atlas by default.
        progress: told the share done.
    """
    wanted = [k for k in (atlas.maps if organs is None else organs) if k in atlas.maps]
    if fusion.appearance.rounds == 0:
        scores = warp_maps(target.geometry, vote(work, inverse, atlas, fusion, wanted), transform, inverse, progress)
        return replace(with_evidence(scores, scores, work, atlas), thresholds=thresholds_of(atlas, fusion))
    # Organs compete for voxels: all of them, whichever are asked for.
    maps = vote(work, inverse, atlas, fusion) | {_KNOWN: atlas.coverage}
    warped = warp_maps(target.geometry, maps, transform, inverse, progress)
    known = warped.maps.pop(_KNOWN)
    scores = with_evidence(corrected(warped, target, known, fusion.appearance, organ_table().pairs), warped, work, atlas)
    return replace(scores, maps={k: scores.maps[k] for k in wanted}, thresholds=thresholds_of(atlas, fusion))


def warp_maps(
    geometry: Geometry,
    maps: Mapping[int, ProbabilityMap],
    transform: Transform,
    inverse: Transform | None = None,
    progress: Progress = silent,
) -> ScoreMaps:
    """Probability maps of the common space on a target's grid.

    Args:
        geometry: of the target.
        maps: per organ number.
        transform: from the target's world points to the common space's.
        inverse: the way back, where that is known already.
        progress: told the share done.
    """
    stride = max(1, int(_PIXEL_MM / min(geometry.spacing[:2])))
    shape = reduced_shape(geometry, stride)
    dense = {k: np.zeros(shape, np.uint8) for k in maps}
    thick = max(1, _CHUNK // (shape[1] * shape[2]))
    for first in range(0, shape[0], thick):
        planes = range(first, min(first + thick, shape[0]))
        common = transform(_reduced_points(geometry, stride, planes))
        for k in maps:
            dense[k][planes.start : planes.stop] = _sampled(maps[k], common)
        progress("score maps", planes.stop / shape[0])
    back = inverse or transform.inverse()
    found = {k: ScoreMap(dense.pop(k), (0, 0, 0), _visible_share(maps[k], back, geometry)).cropped() for k in maps}
    return ScoreMaps(found, geometry, stride, transform, back)


def _reduced_points(geometry: Geometry, stride: int, planes: range) -> torch.Tensor:
    _, rows, columns = reduced_shape(geometry, stride)
    middle = (stride - 1) / 2  # a reduced pixel stands for the middle of its block
    z, y, x = torch.meshgrid(
        torch.tensor(list(planes), dtype=torch.float32),
        torch.arange(rows) * float(stride) + middle,
        torch.arange(columns) * float(stride) + middle,
        indexing="ij",
    )
    matrix = torch.from_numpy(geometry.matrix).float()
    return torch.stack([x, y, z], -1) @ matrix.T + torch.tensor(geometry.origin, dtype=torch.float32)


def _sampled(organ: ProbabilityMap, points: torch.Tensor) -> np.ndarray:
    """Values 0..255 of a map at points `[z, y, x, 3]`; looked up in the box of them that the map may reach."""
    values = np.zeros(points.shape[:-1], np.uint8)
    origin = torch.from_numpy(organ.origin)
    end = origin + torch.tensor(organ.values.shape[::-1]) * MAP_SPACING
    some = points[:, ::_COARSE, ::_COARSE]
    reach = MAP_SPACING + 2 * _COARSE * _PIXEL_MM  # between two of these points, with a field that may stretch twofold
    near = ((some > origin - reach) & (some < end + reach)).all(-1).any(0)
    rows, columns = torch.nonzero(near.any(1)).flatten(), torch.nonzero(near.any(0)).flatten()
    if len(rows):
        y = slice(max(0, int(rows[0]) - 1) * _COARSE, (int(rows[-1]) + 2) * _COARSE)
        x = slice(max(0, int(columns[0]) - 1) * _COARSE, (int(columns[-1]) + 2) * _COARSE)
        found = sample(organ.as_tensor(), points[:, y, x].contiguous(), origin, MAP_SPACING, padding="zeros")[0]
        values[:, y, x] = (found * 255).round().to(torch.uint8).numpy()
    return values


def _visible_share(organ: ProbabilityMap, to_target: Transform, geometry: Geometry) -> float:
    """Share of the organ's probable voxels in the common space that come to lie on the target's grid."""
    where = np.argwhere(organ.values > 0.5 * organ.values.max())
    if not len(where):
        return 0.0
    where = where[:: max(1, len(where) // 2000)]
    points = torch.from_numpy(where[:, ::-1].astype(np.float32) * MAP_SPACING + organ.origin)
    index = geometry.to_index(to_target(points).numpy())
    inside = ((index >= -0.5) & (index <= np.array(geometry.size) - 0.5)).all(1)
    return float(inside.mean())
