"""Validates a U-Net while it is trained: Dice per organ on whole cases, by MONAI's evaluator."""

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
from medsam2_atlas.base.memory import free_gpu_memory, is_out_of_memory
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.unet.config import UNetConfig
from medsam2_atlas.unet.data import TrainingCase, validation_loader
from medsam2_atlas.unet.inference import UNetInferer

log = logging.getLogger(__name__)


class Validation:
    """The validation of one training run.

    Attributes:
        evaluator: MONAI's engine; replaced by another one after it was out of GPU memory.
        dice: mean Dice over the cases that have an organ annotated, by organ; empty before the first validation.
    """

    def __init__(
        self, cases: Sequence[TrainingCase], config: UNetConfig, cache: Path, network: torch.nn.Module, device: torch.device
    ) -> None:
        """
        Args:
            cases: to validate on; at least one.
            config: network and grid.
            cache: folder for preprocessed cases.
            network: to validate.
            device: that it lies on.
        """
        self._cases, self._config, self._cache = cases, config, cache
        self._network, self._device = network, device
        self._metric = DiceMetric(reduction="none", include_background=False, num_classes=1 + max(organ_table().indices))
        self._sparing = False
        self.dice: dict[int, float] = {}
        self.evaluator = self._make_evaluator()

    def run(self, free: Callable[[], None]) -> None:
        """Measures the network: put together in main memory from the first time that the GPU's does not suffice.

        Args:
            free: called before the second try; drops what else is held on the GPU.

        Raises:
            RuntimeError: the GPU's memory does not suffice for the smaller steps either, or the GPU failed.
        """
        try:
            self.evaluator.run()
        except RuntimeError as error:
            if not is_out_of_memory(error) or self._sparing:
                raise
        else:
            return
        # Outside of the `except`: there, the error's frames would still hold the tensors of the failed try.
        log.warning("out of GPU memory at validation, which goes on in smaller steps")
        self._sparing = True
        self.evaluator = self._make_evaluator("small")  # an engine that has failed does not run again
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
        """Dice of the organs that the case has annotated, on the network's grid; whole case."""
        output = engine.state.output
        found = output["pred"].argmax(1, keepdim=True)
        truth = output["label"]["label"].to(found.device)
        for pair in zip(decollate_batch(found), decollate_batch(truth), strict=True):
            self._metric(y_pred=[pair[0]], y=[pair[1]])

    def _sum_up(self, _: Engine) -> None:
        values = self._metric.aggregate().cpu().numpy()
        columns = {k: values[:, k - 1][np.isfinite(values[:, k - 1])] for k in organ_table().indices}
        self.dice = {k: float(column.mean()) for k, column in columns.items() if len(column)}


def prepare_batch(
    batch: dict[str, Any], device: torch.device, non_blocking: bool, **_: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Returns a batch's image and truth on a device, as MONAI's engines ask for them."""

    def moved(key: str) -> torch.Tensor:
        return torch.as_tensor(batch[key]).to(device, non_blocking=non_blocking)

    return moved("image"), {"label": moved("label"), "known": moved("known")}
