"""Simulates a person's clicks: on an organ, and on errors of a mask."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from medsam2_atlas.medsam2.tracks import OFF, ON, Points


def clicks(generator: np.random.Generator, masks: torch.Tensor, count: int, scale: float) -> Points:
    """Draws clicks on masks, preferably near their centres; after the first, half of the clicks are next to the organ.

    Args:
        generator: random generator.
        masks: masks `[n, s, s]`, 0..1.
        count: clicks per mask.
        scale: pixels of the network's image per pixel of a mask.

    Returns:
        Clicks with positions `[n, count, 2]` (x, y) in pixels of the network's image.
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


def correcting_clicks(generator: np.random.Generator, logits: torch.Tensor, truth: torch.Tensor, scale: float) -> Points:
    """Draws one click per mask on its larger kind of error: missed pixels of the organ, or wrong pixels off the organ.

    Args:
        generator: random generator.
        logits: mask logits `[n, 1, h, w]` of the network.
        truth: true masks `[n, s, s]`, 0..1.
        scale: pixels of the network's image per pixel of a true mask.

    Returns:
        Clicks with positions `[n, 1, 2]` (x, y) in pixels of the network's image.
    """
    found = F.interpolate(logits.detach(), truth.shape[-2:], mode="bilinear", align_corners=False)[:, 0].cpu().numpy() > 0
    organ = truth.cpu().numpy() > 0.5
    places, kinds = torch.zeros(len(truth), 1, 2), torch.full((len(truth), 1), ON, dtype=torch.int32)
    for n in range(len(truth)):
        missed, wrong = organ[n] & ~found[n], found[n] & ~organ[n]
        add = organ[n].any() and missed.sum() >= wrong.sum()
        kinds[n, 0] = ON if add else OFF
        worst = missed if add else wrong
        places[n, 0] = _pixel(generator, worst if worst.any() else organ[n])
    return Points(places * scale, kinds)


def _pixel(generator: np.random.Generator, mask: np.ndarray) -> torch.Tensor:
    """Returns the centre (x, y) of a random pixel of a mask `[y, x]`, preferably a deep one; of any pixel if it is empty."""
    depth = ndimage.distance_transform_edt(mask).ravel() ** 2
    chosen = generator.choice(len(depth), p=depth / depth.sum()) if depth.any() else generator.integers(len(depth))
    y, x = np.unravel_index(int(chosen), mask.shape)
    return torch.tensor([x + 0.5, y + 0.5])
