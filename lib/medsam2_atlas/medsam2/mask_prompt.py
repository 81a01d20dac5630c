"""SAM 2's mask prompt: a slice whose mask is known enters the memory without being segmented."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from medsam2_atlas.medsam2.encoder import SliceFeatures
from medsam2_atlas.medsam2.prepared import PreparedNetwork

CERTAIN = 10.0
"""The logit of a known mask: `CERTAIN` inside and −`CERTAIN` outside, as in SAM 2."""


def at_network_size(mask: np.ndarray, size: int, device: torch.device) -> torch.Tensor:
    """Returns a mask at the network's resolution, resampled as by the official `add_new_mask`.

    Args:
        mask: bool `[y, x]`.
        size: rows and columns of the network's input.
        device: the device of the result.

    Returns:
        `[1, 1, size, size]`, 0 or 1.
    """
    given = torch.from_numpy(mask.astype(np.float32))[None, None].to(device)
    if mask.shape == (size, size):
        return given
    resampled = F.interpolate(given, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return (resampled >= 0.5).float()


def prompted_by_mask(
    prepared: PreparedNetwork, slices: SliceFeatures, mask: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns the network's output for a slice whose mask is known.

    Args:
        prepared: the network.
        slices: the features of one slice.
        mask: bool `[y, x]`, at image resolution.

    Returns:
        Mask logits `[1, 1, h, w]` at a quarter of the network's resolution, ± 10; the object pointer `[1, c]`, which the
        decoder derives from the mask; the presence logit `[1, 1]`.
    """
    network, top, fine = prepared.network, slices.levels[-1], list(slices.levels[:-1])
    given = at_network_size(mask, int(network.image_size), prepared.device).to(prepared.dtype)
    with prepared.arithmetic():
        _, _, _, logits, _, pointer, presence = network._use_mask_as_output(top, fine, given)
    return logits.to(prepared.dtype), pointer.to(prepared.dtype), presence.to(prepared.dtype)
