"""Converts HU to the network's input: clipped, 8 bit, three equal channels, square, normalised."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from medsam2_atlas.medsam2.config import medsam2_config

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""ImageNet's mean and standard deviation of red, green and blue, 0..1; SAM 2.1 was trained on images normalised by them."""


def to_uint8(hu: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
    """Converts a CT to 8 bit, as MedSAM2's published script does.

    The volume is clipped to the window. Then its minimum becomes 0 and its maximum 255, with fractions truncated. A constant
    volume becomes 0.

    Args:
        hu: the CT in HU, `[z, y, x]`.
        window: the min and max HU; those of `configs/medsam2.yaml` by default.

    Returns:
        `[z, y, x]` uint8.

    Examples:
        >>> to_uint8(np.array([[[-1000.0, -100.0, 200.0, 900.0]]]), (-100.0, 500.0)).tolist()
        [[[0, 0, 127, 255]]]
    """
    low, high = window or medsam2_config().window
    scaled = np.clip(hu, float(low), float(high))
    lower, upper = float(scaled.min()), float(scaled.max())
    if upper <= lower:
        return np.zeros(hu.shape, np.uint8)
    scaled -= lower  # in place, since a new array of this size takes longer than the arithmetic
    scaled /= upper - lower
    scaled *= 255.0
    return scaled.astype(np.uint8)


def to_network(slices: Sequence[np.ndarray] | np.ndarray, size: int, device: torch.device | None = None) -> torch.Tensor:
    """Converts 8-bit slices to the network's input.

    Each slice is resized by PIL's default filter (bicubic), copied to three channels, and normalised by ImageNet's mean and
    standard deviation. A GPU does the latter two: a twelfth of the bytes is copied to it, from pinned memory, so that the
    processor can resize the next slices meanwhile.

    Args:
        slices: the slices, `[n, y, x]` uint8.
        size: the side of the network's input in pixels.
        device: the device of the result; the CPU by default.

    Returns:
        `[n, 3, size, size]`, float32.
    """
    grey = torch.from_numpy(np.stack([np.asarray(Image.fromarray(plane).resize((size, size))) for plane in slices]))
    if device is not None and device.type == "cuda":
        grey = grey.pin_memory().to(device, non_blocking=True)
    pixels = grey.float() / 255.0
    # Numbers instead of tensors, which would have to be copied to the GPU, too.
    channels = [(pixels - mean) / std for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    return torch.stack(channels, -1).permute(0, 3, 1, 2)
