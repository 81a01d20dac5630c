"""From HU to what the network sees: clipped, 8 bit, three equal channels, square, normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from medsam2_atlas.medsam2.config import medsam2_config

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's red, green and blue, 0..1: SAM 2.1 was trained on images normalised by them."""


def to_uint8(hu: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
    """Returns a CT volume `[z, y, x]` in HU as 8 bit.

    The volume is clipped to the window (that of `configs/medsam2.yaml` by default), its own minimum to maximum stretched to
    0..255 and truncated, as MedSAM2's published script does. A volume of one value becomes 0.
    """
    clipped = np.clip(hu, *(window or medsam2_config().window))
    low, high = float(clipped.min()), float(clipped.max())
    if high <= low:
        return np.zeros(hu.shape, np.uint8)
    return ((clipped - low) / (high - low) * 255.0).astype(np.uint8)


def to_network(slices: Sequence[np.ndarray] | np.ndarray, size: int) -> torch.Tensor:
    """8-bit slices `[n, y, x]` as the network's input `[n, 3, size, size]`, float32.

    Each slice becomes RGB and is resized by PIL's default filter (bicubic), then normalised by ImageNet's figures.
    """
    resized = [np.asarray(Image.fromarray(plane).convert("RGB").resize((size, size))) for plane in slices]
    pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255.0
    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    return (pixels - mean) / std
