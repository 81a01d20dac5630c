"""A CT to a label map by a U-Net alone, with the report that MedSAM2's strategies give too."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from medsam2_atlas.base.choices import Memory
from medsam2_atlas.base.memory import ran_on
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.base import Segmentation, base_report
from medsam2_atlas.unet.inference import UNetPrediction, predict
from medsam2_atlas.unet.network import UNet


def segment_with_unet(
    image: Volume,
    unet: UNet,
    *,
    organs: Sequence[int] = (),
    augment: bool = False,
    memory: Memory = "",
    progress: Progress = silent,
) -> Segmentation:
    """Segments a CT.

    Args:
        image: the CT.
        unet: network and weights.
        organs: numbers; all of the table where empty.
        augment: test-time augmentation.
        memory: how sparing to be with a GPU's memory; see `UNetInferer`.
        progress: told stages and shares.

    Raises:
        InputError: an image that cannot be used.
    """
    began = time.perf_counter()
    prediction = predict(image, unet, augment=augment, memory=memory, progress=progress)
    seconds = time.perf_counter() - began
    return unet_segmentation(image, prediction, unet, organs=organs, augment=augment, memory=memory, seconds=seconds)


def unet_segmentation(
    image: Volume,
    prediction: UNetPrediction,
    unet: UNet,
    *,
    organs: Sequence[int] = (),
    augment: bool = False,
    memory: Memory = "",
    seconds: float,
) -> Segmentation:
    """A prediction as a segmentation with its report."""
    wanted = list(organs) or organ_table().indices
    labels = np.where(np.isin(prediction.labels, wanted), prediction.labels, 0).astype(np.uint8)
    table = organ_table()
    report: dict[str, Any] = base_report(image, labels, wanted) | {
        "strategy": f"unet_{unet.config.dimensions}d",
        "augment": augment,
        "confidence": {table[k].name: round(v, 4) for k, v in prediction.confidence.items() if k in wanted},
        "seconds": {"total": round(seconds, 3)},
        **ran_on(unet.device, medsam2=False, unet=True, memory=memory),
        "device": str(unet.device),
        "weights": unet.describe(),
        "uses_truth": False,
    }
    if unet.mark:
        report["mark"] = unet.mark
    return Segmentation(image.with_array(labels), report)
