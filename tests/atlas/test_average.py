"""Probability maps at the edges of the references' fields of view."""

from __future__ import annotations

import numpy as np
import torch

from medsam2_atlas.atlas import Reference
from medsam2_atlas.atlas.average import probability_maps
from medsam2_atlas.atlas.reference import OrganShare
from medsam2_atlas.registration import Transform, WorkImage

LIVER = 6


def reference(name: str, shares: list[int], covered: list[bool]) -> Reference:
    """Returns a reference whose shares and field of view vary along z only, on a grid of `len(shares)` x 4 x 4 voxels."""
    values = np.repeat(np.array(shares, np.uint8), 16).reshape(-1, 4, 4)
    blank = np.zeros((1, 1, 1), np.int16)
    seen = np.packbits(np.repeat(covered, 16))
    return Reference(name, name, (LIVER,), Transform(), {LIVER: OrganShare(values, (0, 0, 0))}, seen, blank, blank)


def test_a_share_beyond_its_field_of_view_does_not_make_a_hole_in_the_map() -> None:
    """Two whole references and a share of 3 sum to 513 over two references that count: that is 1, not 0."""
    whole = [reference(name, [255] * 4, [True] * 4) for name in "ab"]
    cut = reference("cut", [255, 255, 3, 0], [True, True, False, False])
    blank = torch.zeros(4, 4, 4)
    template = WorkImage(blank, blank > -1, torch.zeros(3), 3.0)
    (found,) = probability_maps([*whole, cut], template, "unknown").values()
    assert found.values.shape == (4, 4, 4)
    assert found.values.min() == 255
