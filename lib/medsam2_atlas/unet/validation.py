"""Validates a U-Net during training: Dice per organ on whole cases, computed by MONAI's evaluator."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import decollate_batch
from monai.engines import SupervisedEvaluator
from monai.metrics import DiceMetric

from medsam2_atlas.base.choices import Memory
from medsam2_atlas.base.gpu_errors import is_out_of_memory
from medsam2_atlas.base.memory import free_gpu_memory
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.unet.config import UNetConfig
from medsam2_atlas.unet.data import TrainingCase, validation_loader
from medsam2_atlas.unet.inference import UNetInferer

log = logging.getLogger(__name__)


class Validation:
    """The validation of one training run.

    Attributes:
        evaluator: MONAI's engine; replaced by a new one if it runs out of GPU memory.
        dice: mean Dice by organ number, over the cases in which the organ is annotated; empty before the first validation.
    """

    def __init__(
        self, cases: Sequence[TrainingCase], config: UNetConfig, cache: Path, network: torch.nn.Module, device: torch.device
    ) -> None:
        """Prepares the validation of one network.

        Args:
            cases: validation cases; at least one.
            config: network and grid.
            cache: folder for preprocessed cases.
            network: the network to validate.
            device: the network's device.
        """
        self._cases, self._config, self._cache = cases, config, cache
        self._network, self._device = network, device
        self._metric = DiceMetric(reduction="none", include_background=False, num_classes=1 + max(organ_table().indices))
        self._sparing = False
        self.dice: dict[int, float] = {}
        self.evaluator = self._make_evaluator()

    def run(self, free: Callable[[], None]) -> None:
        """Computes `dice`. If the GPU runs out of memory, this and all later validations assemble volumes in main memory.

        Args:
            free: called before the second attempt; frees other tensors on the GPU.

        Raises:
            RuntimeError: if the GPU's memory is too small for the smaller steps too, or the GPU failed.
        """
        try:
            self.evaluator.run()
        except RuntimeError as error:
            if not is_out_of_memory(error) or self._sparing:
                raise
        else:
            return
        # Not inside the `except` block: there, the error's frames would still keep the tensors of the failed attempt.
        log.warning("validation ran out of GPU memory and continues in smaller steps")
        self._sparing = True
        self.evaluator = self._make_evaluator("small")  # an engine that has failed cannot run again
        free()
        free_gpu_memory()
        self.evaluator.run()

    def _make_evaluator(self, memory: Memory = "") -> SupervisedEvaluator:
        evaluator = SupervisedEvaluator(
            device=self._device,
            val_data_loader=validation_loader(self._cases, self._config, self._cache),
            network=self._network,
            inferer=UNetInferer(self._config, memory=memory),
            prepare_batch=prepare_batch,
            amp=self._device.type == "cuda",
            decollate=False,
        )
        evaluator.add_event_handler(Events.EPOCH_STARTED, lambda _: self._metric.reset())
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._measure)
        evaluator.add_event_handler(Events.EPOCH_COMPLETED, self._sum_up)
        return evaluator

    def _measure(self, engine: Engine) -> None:
        """Adds the Dice of one case, on the network's grid, to the metric."""
        output = engine.state.output
        predicted = output["pred"].argmax(1, keepdim=True)
        annotated = output["label"]["label"].to(predicted.device)
        for pair in zip(decollate_batch(predicted), decollate_batch(annotated), strict=True):
            self._metric(y_pred=[pair[0]], y=[pair[1]])

    def _sum_up(self, _: Engine) -> None:
        values = self._metric.aggregate().cpu().numpy()
        columns = {k: values[:, k - 1][np.isfinite(values[:, k - 1])] for k in organ_table().indices}
        self.dice = {k: float(column.mean()) for k, column in columns.items() if len(column)}


def prepare_batch(
    batch: dict[str, Any], device: torch.device, non_blocking: bool, **_: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Moves a batch to a device, in the form that MONAI's engines require.

    Args:
        batch: `image`, `label` and `known` of the cases.
        device: device to move to.
        non_blocking: copy asynchronously where possible.

    Returns:
        The image `[batch, 1, z, y, x]` (without `z` in two dimensions), and a dictionary of `label` (same shape, organ numbers)
        and `known` (bool `[batch, classes]`).
    """

    def moved(key: str) -> torch.Tensor:
        return torch.as_tensor(batch[key]).to(device, non_blocking=non_blocking)

    return moved("image"), {"label": moved("label"), "known": moved("known")}
