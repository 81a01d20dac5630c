"""From HU to what the network sees: clipped, 8 bit, three equal channels, square, normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

HU_WINDOW = (-100.0, 500.0)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_uint8(hu: np.ndarray, window: tuple[float, float] = HU_WINDOW) -> np.ndarray:
    """A CT volume `[z, y, x]` in HU as 8 bit.

    Clipped to the window, its own minimum to maximum stretched to 0..255 and truncated, as MedSAM2's published script
    does. A volume of one value becomes 0.
    """
    clipped = np.clip(hu, *window)
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
