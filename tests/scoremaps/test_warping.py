"""Maps of the common space are warped to a target's grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blocks import bare_reference
from medsam2_atlas.atlas import Atlas, ProbabilityMap
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.registration import Affine, Transform, WorkImage
from medsam2_atlas.scoremaps import Alignment, ScoreMaps, Votes, WarpConfig
from medsam2_atlas.scoremaps.voting import plain_mean
from medsam2_atlas.scoremaps.warping import map_grid, on_map_grid, warp


def one_block_atlas() -> Atlas:
    """Returns an atlas with a liver of probability 1 in a cube of 30 mm around the origin."""
    maps = {6: ProbabilityMap(np.full((11, 11, 11), 255, np.uint8), np.full(3, -15, np.float32), 1)}
    blank = torch.zeros(4, 4, 4)
    return Atlas(WorkImage(blank, blank > -1, torch.zeros(3), 4.0), maps, (bare_reference("a"),))


def votes(grid: Geometry, transform: Transform) -> Votes:
    """Returns the atlas' maps as votes on a blank target."""
    atlas, target = one_block_atlas(), Volume(np.zeros(grid.shape, np.float32), grid, grid)
    return plain_mean(Alignment(target, atlas.template, atlas, transform, transform.inverse()))


def warped(grid: Geometry, transform: Transform) -> ScoreMaps:
    return warp(votes(grid, transform), WarpConfig.model_validate({})).scores


def test_scores_follow_the_transform_and_record_the_visible_share() -> None:
    grid = Geometry((40, 40, 20), (2.0, 2.0, 3.0), (-40.0, -40.0, -30.0))
    shift = Transform((Affine(torch.eye(3), torch.tensor([10.0, 0.0, 0.0])),))
    scores = warped(grid, shift)
    assert scores.maps[6].visible == 1.0
    z, y, x = np.nonzero(np.stack([scores.plane(6, n) > 0.5 for n in range(20)]))
    centre = grid.to_world(np.array([x.mean(), y.mean(), z.mean()]))
    assert np.allclose(centre, [-10, 0, 0], atol=1.5)
    half = Geometry((40, 40, 11), (2.0, 2.0, 3.0), (-40.0, -40.0, 0.0))
    assert warped(half, Transform()).maps[6].visible == pytest.approx(0.55, abs=0.1)
    away = Geometry((40, 40, 11), (2.0, 2.0, 3.0), (-40.0, -40.0, 400.0))
    assert warped(away, Transform()).maps[6].visible == 0


def test_scores_keep_all_slices_and_fewer_pixels_of_a_fine_scan() -> None:
    grid = Geometry((256, 200, 12), (0.5, 0.5, 5.0), (-64.0, -50.0, -30.0))
    scores = warped(grid, Transform())
    assert scores.stride == 4
    plane = scores.plane(6, 6)
    assert plane.shape == (200, 256)
    rows = np.flatnonzero((plane > 0.5).any(1))
    assert rows[[0, -1]] * 0.5 - 50 == pytest.approx([-15, 15], abs=2)


def test_maps_stay_unchanged_only_for_a_target_on_their_own_grid() -> None:
    atlas = one_block_atlas()
    grid = map_grid(atlas.template)
    found = on_map_grid(votes(grid, Transform()))
    assert found.scores.maps[6].values is not None
    assert (found.scores.maps[6].values == atlas.maps[6].values).all()
    assert found.scores.maps[6].lower == (-5, -5, -5)
    other = Geometry(grid.size, (2.0, 2.0, 2.0), grid.origin)
    with pytest.raises(InputError, match=r"does not lie on the grid of the atlas' maps.*enabled: true.*warp"):
        on_map_grid(votes(other, Transform()))
