"""Clicks as a person sets them: on an organ, and where a mask is wrong."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from medsam2_atlas.medsam2.propagation import OFF, ON, Points


def clicks(generator: np.random.Generator, masks: torch.Tensor, count: int, scale: float) -> Points:
    """`count` clicks on each of some masks `[n, s, s]`, rather in their middle than at their edge; `[n, count, 2]` places.

    Further clicks may lie off the organ, not far from it. `scale`: pixels of the network's image per pixel of a mask.
    """
    places = torch.zeros(len(masks), count, 2)
    kinds = torch.full((len(masks), count), ON, dtype=torch.int32)
    for n, mask in enumerate((masks > 0.5).numpy()):
        around = ndimage.binary_dilation(mask, iterations=8) & ~mask
        for i in range(count):
            if i and around.any() and generator.random() < 0.5:
                kinds[n, i] = OFF
                places[n, i] = _pixel(generator, around)
            else:
                places[n, i] = _pixel(generator, mask)
    return Points(places * scale, kinds)


def correcting_clicks(generator: np.random.Generator, low: torch.Tensor, truth: torch.Tensor, scale: float) -> Points:
    """One click per mask where the logits `[n, 1, h, w]` err most, against the true masks `[n, s, s]`; places `[n, 1, 2]`."""
    found = F.interpolate(low.detach(), truth.shape[-2:], mode="bilinear", align_corners=False)[:, 0].cpu().numpy() > 0
    wanted = truth.cpu().numpy() > 0.5
    places, kinds = torch.zeros(len(truth), 1, 2), torch.full((len(truth), 1), ON, dtype=torch.int32)
    for n in range(len(truth)):
        missed, wrong = wanted[n] & ~found[n], found[n] & ~wanted[n]
        add = wanted[n].any() and missed.sum() >= wrong.sum()
        kinds[n, 0] = ON if add else OFF
        worst = missed if add else wrong
        places[n, 0] = _pixel(generator, worst if worst.any() else wanted[n])
    return Points(places * scale, kinds)


def _pixel(generator: np.random.Generator, mask: np.ndarray) -> torch.Tensor:
    """A pixel (x, y) of a mask `[y, x]`, its middle; any pixel where the mask is empty."""
    depth = ndimage.distance_transform_edt(mask).ravel() ** 2
    chosen = generator.choice(len(depth), p=depth / depth.sum()) if depth.any() else generator.integers(len(depth))
    y, x = np.unravel_index(int(chosen), mask.shape)
    return torch.tensor([x + 0.5, y + 0.5])
