"""Trains a U-Net with MONAI's engines; a killed run leaves a valid checkpoint.

A run's folder contains `latest.pt` (everything needed to resume), `best.pt` (the weights that are served), `stats.json`
(curves and Dice per organ), `tensorboard/` and `cache/`. Each file is replaced in one step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler, TensorBoardStatsHandler
from torch.utils.tensorboard import SummaryWriter

from medsam2_atlas.base.errors import InputError, listed
from medsam2_atlas.base.files import sha256, write_json
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.imaging.dice import mean_dice
from medsam2_atlas.imaging.hounsfield import CHECK
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.unet.checkpoint import read_checkpoint, restore_parts, write_checkpoint
from medsam2_atlas.unet.config import UNetConfig, same_network
from medsam2_atlas.unet.data import TrainingCase, split_cases, train_loader, usable_cases
from medsam2_atlas.unet.energy import STATS_FILE, RunEnergy
from medsam2_atlas.unet.failures import explained
from medsam2_atlas.unet.loss import PartialLabelLoss
from medsam2_atlas.unet.network import UNet, build_unet, save_unet
from medsam2_atlas.unet.validation import Validation, prepare_batch
from medsam2_atlas.unet.workers import worker_count

log = logging.getLogger(__name__)


class UNetTraining:
    """One training run. A killed run resumes when it is created again with the same folder and configuration.

    Attributes:
        mark: remark stored in the weights, for example that they are demo weights; empty by default.
    """

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        config: UNetConfig,
        folder: Path,
        device: torch.device,
        *,
        start: UNet | None = None,
        skipped: Mapping[str, str] | None = None,
        strict: bool = False,
        progress: Progress = silent,
    ) -> None:
        """Reads all cases, and resumes an interrupted run if the folder contains one.

        Args:
            cases: annotated CTs; `split_cases` chooses the validation cases.
            config: network, grid and training.
            folder: folder of the run; created if missing.
            device: device to train on; a GPU uses mixed precision.
            start: weights to start from; ignored if their network differs. They are kept unless
                training gives a higher mean Dice on the validation cases.
            skipped: reasons why cases were excluded earlier, by name; for the statistics.
            strict: raise an error for the first unusable case. By default, unusable cases are excluded, and the statistics list
                the reasons (`skipped`).
            progress: called with the fraction completed.

        Raises:
            InputError: if no case is usable, if `strict` and one is not, if the last checkpoint in the folder cannot be read,
                or if the device has too little memory.
            WeightsError: if the last checkpoint in the folder contains code.
        """
        self.config, self.folder, self.device = config, folder, device
        cache = folder / "cache"
        cache.mkdir(parents=True, exist_ok=True)
        self._energy = RunEnergy()
        with self._energy.measuring():
            usable, problems, self._offsets = usable_cases(cases, config, cache, progress, strict=strict)
        self._rule = str(cases[0].hu) if cases else str(CHECK)
        self.skipped = {**(skipped or {}), **problems}
        if self.skipped and not usable:
            raise InputError(
                "training", f"has no case that can be used: {listed(self.skipped)}", "Correct or replace the files."
            )
        self.train_cases, self.validation_cases = split_cases(usable, config.training.validation_share)
        self.mark, self._progress = "", progress
        torch.manual_seed(config.training.seed)
        self.network = self._make_network()
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.training.learning_rate, weight_decay=config.training.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, config.training.epochs)
        self._loader = train_loader(self.train_cases, config, cache, 0 if device.type == "cpu" else worker_count(config))
        self._writer = SummaryWriter(str(folder / "tensorboard"))
        self.validation: Validation | None = None
        if self.validation_cases:
            self.validation = Validation(self.validation_cases, config, cache, self.network, device)
        self.trainer = self._make_trainer()
        self._started, self._spent = time.time(), 0.0
        self._stats: dict[str, Any] = {"loss": [], "validation": [], "best_metric": -1.0, "resumed_from": None}
        self._stopper: EarlyStopping | None = None
        if self.validation is not None and config.training.early_stop:
            self._stopper = EarlyStopping(config.training.early_stop, self._mean_dice, self.trainer)
        self._start: UNet | None = None
        if not self._resume() and start is not None and same_network(start.config, config):
            self._start = start
            self.network.load_state_dict(start.network.state_dict())
            self._stats["started_from"] = start.describe()

    def run(self) -> dict[str, Any]:
        """Trains to the last epoch, or until the mean Dice of the validation cases no longer rises. Returns the statistics.

        Raises:
            InputError: if the GPU's memory or shared memory is too small, or the GPU failed. The statistics contain the problem
                (`problem`), and a run that is created again resumes.
        """
        self.trainer.run()
        return self.stats()

    def stats(self) -> dict[str, Any]:
        """Returns curves, Dice per organ, times and energy: the content of `stats.json`."""
        spent = self._spent + time.time() - self._started
        return self._stats | {
            "epoch": self.trainer.state.epoch,
            "total_epochs": self.config.training.epochs,
            "start_ts": int(self._started),
            "seconds": round(spent, 1),
            "energy": self._energy.to_json(),
            "current_time": str(timedelta(seconds=int(spent))),
            "train_cases": [case.name for case in self.train_cases],
            "validation_cases": [case.name for case in self.validation_cases],
            "skipped": self.skipped,
            "hu": {"rule": self._rule, "offsets": self._offsets},
        }

    def _make_network(self) -> torch.nn.Module:
        try:
            return build_unet(self.config).to(self.device)
        except RuntimeError as error:
            raise explained(error, self.config, self.device) from error

    def _mean_dice(self, _: Engine) -> float:
        return mean_dice(self.validation.dice if self.validation is not None else {})

    def _make_trainer(self) -> SupervisedTrainer:
        trainer = SupervisedTrainer(
            device=self.device,
            max_epochs=self.config.training.epochs,
            train_data_loader=self._loader,
            network=self.network,
            optimizer=self.optimizer,
            loss_function=PartialLabelLoss(self.config.loss),
            prepare_batch=prepare_batch,
            amp=self.device.type == "cuda",
            train_handlers=[
                LrScheduleHandler(self._schedule, print_lr=False),
                TensorBoardStatsHandler(summary_writer=self._writer, tag_name="loss", output_transform=_loss),
            ],
            decollate=False,
        )
        losses: list[float] = []
        trainer.add_event_handler(Events.STARTED, lambda _: self._begin())
        trainer.add_event_handler(Events.COMPLETED, lambda _: self._end())
        trainer.add_event_handler(Events.EXCEPTION_RAISED, self._fail)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._seed)
        trainer.add_event_handler(Events.EPOCH_STARTED, lambda _: losses.clear())
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(_loss(e.state.output)))
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: self._after_epoch(e, float(np.mean(losses))))
        return trainer

    def _begin(self) -> None:
        """Begins to measure energy, and validates the weights that the run starts from, as the first validation."""
        self._energy.start()
        if self._stats["resumed_from"] is not None:  # else a kill before the next checkpoint would leave no trace
            write_json(self.stats() | {"state": "running"}, self.folder / STATS_FILE)
        if self._start is not None and self.validation is not None:
            self._validate()
            self._judge(0)

    def _end(self) -> None:
        self._energy.stop()
        self._keep(finished=True)
        self._writer.close()

    def _fail(self, _: Engine, error: BaseException) -> None:
        """Raises an explanation of the error that ended the run; the statistics contain it until the run resumes."""
        self._energy.stop()
        explanation = explained(error, self.config, self.device)
        with suppress(OSError):
            write_json(self.stats() | {"state": "stopped", "problem": str(explanation)}, self.folder / STATS_FILE)
        if explanation is error:
            raise error
        raise explanation from error

    def _validate(self) -> None:
        assert self.validation is not None, "called only if there are validation cases"
        self.validation.run(free=self._drop_predictions)

    def _drop_predictions(self) -> None:
        self.trainer.state.output = None  # predictions of the last step

    def _seed(self, engine: Engine) -> None:
        """Seeds the epoch, so that its random choices do not depend on whether the run was interrupted before it."""
        seed = self.config.training.seed * 1_000_003 + engine.state.epoch
        self._loader.generator.manual_seed(seed)
        self._loader.dataset.transform.set_random_state(seed)

    def _after_epoch(self, engine: Engine, loss: float) -> None:
        epoch, last = engine.state.epoch, engine.state.epoch == self.config.training.epochs
        self._stats["loss"].append(round(loss, 5))
        if last or epoch % self.config.training.validate_every == 0:
            if self.validation is not None:
                self._validate()
                if self._stopper is not None:
                    self._stopper(self.validation.evaluator)
            self._judge(epoch)
            self._keep(finished=False)
        self._progress("training", epoch / self.config.training.epochs)
        log.info(
            "epoch %d of %d: loss %.3f, best Dice %.3f", epoch, self.config.training.epochs, loss, self._stats["best_metric"]
        )

    def _judge(self, epoch: int) -> None:
        """Records a validation, and writes `best.pt` if the weights are better than all before."""
        table = organ_table()
        organs: dict[int, float] = {}
        mean = float(epoch)  # without validation cases, the latest weights count as the best
        if self.validation is not None and self.validation.dice:
            organs, mean = self.validation.dice, mean_dice(self.validation.dice)
            named = {table[k].name: round(v, 4) for k, v in organs.items()}
            self._stats["validation"].append({"epoch": epoch, "mean_dice": round(mean, 4), "organs": named})
            self._writer.add_scalar("validation/mean_dice", mean, epoch)
            for name, value in named.items():
                self._writer.add_scalar(f"validation/{name}", value, epoch)
            self._writer.flush()
        if mean > self._stats["best_metric"]:
            self._stats["best_metric"], self._stats["best_metric_epoch"] = mean, epoch
            state = self.network.state_dict()
            first = self._start if epoch == 0 else None  # at epoch 0, these are still the weights that the run started from
            cases, mark = (first.cases, first.mark) if first else (self._organ_cases, self.mark)
            save_unet(self.folder / "best.pt", state, self.config, validation=organs, cases=cases, mark=mark)
            self._stats["best_sha256"] = sha256(self.folder / "best.pt")

    @cached_property
    def _organ_cases(self) -> dict[int, int]:
        """The number of training cases in which each organ is annotated, by organ number."""
        counts: dict[int, int] = {}
        for item in self._loader.dataset.data:
            for k in torch.where(item["known"])[0].tolist():
                counts[k] = counts.get(k, 0) + 1
        counts.pop(0, None)
        return counts

    def _keep(self, *, finished: bool) -> None:
        """Writes the checkpoint from which a later run resumes, and the statistics."""
        self._energy.lap()
        self._stats["state"] = "finished" if finished else "running"
        spent = self._spent + time.time() - self._started
        values = {"finished": finished, "epoch": self.trainer.state.epoch, "stats": self._stats, "spent": spent}
        values["energy"] = self._energy.to_json()
        write_checkpoint(self.folder / "latest.pt", self.config, self._parts(), values)
        write_json(self.stats(), self.folder / STATS_FILE)

    def _parts(self) -> dict[str, Any]:
        """Returns the objects whose state the checkpoint contains, by name."""
        parts = {"network": self.network, "optimizer": self.optimizer, "schedule": self._schedule, "stopper": self._stopper}
        return parts if self.trainer.scaler is None else parts | {"scaler": self.trainer.scaler}

    def _resume(self) -> bool:
        """Resumes an interrupted run of the same configuration, even with other cases; returns whether there was one."""
        kept = read_checkpoint(self.folder / "latest.pt", self.config)
        if kept is None:
            return False
        restore_parts(kept, self._parts())
        self._stats = kept["stats"] | {"resumed_from": kept["epoch"]}
        self._spent = kept["spent"]
        self._energy.resume(self.folder, kept.get("energy"))
        length = len(self._loader)
        self.trainer.load_state_dict(
            {"epoch": kept["epoch"], "max_epochs": self.config.training.epochs, "epoch_length": length}
        )
        log.info("training resumes after epoch %d", kept["epoch"])
        return True


def _loss(output: dict[str, torch.Tensor]) -> float:
    return float(output["loss"].detach())
