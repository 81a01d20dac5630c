"""Trains a U-Net: MONAI's engines, with checkpoints that a kill cannot spoil.

In a run's folder: `latest.pt` (everything needed to go on), `best.pt` (what is served), `stats.json` (curves and Dice per
organ), `tensorboard/`, `cache/`. Each file is replaced in one step.
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
from monai.data.utils import decollate_batch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, TensorBoardStatsHandler
from monai.metrics import DiceMetric
from pydantic import ValidationError
from torch.utils.tensorboard import SummaryWriter

from medsam2_atlas.base.choices import Memory
from medsam2_atlas.base.errors import InputError, WeightsError
from medsam2_atlas.base.files import replacing, write_json
from medsam2_atlas.base.memory import free_gpu_memory, is_out_of_memory
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.base.tensor_files import load_tensors
from medsam2_atlas.imaging.dice import mean_dice
from medsam2_atlas.imaging.hounsfield import CHECK
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.unet.config import UNetConfig
from medsam2_atlas.unet.data import TrainingCase, split_cases, train_loader, usable_cases, validation_loader
from medsam2_atlas.unet.failures import explained
from medsam2_atlas.unet.inference import UNetInferer
from medsam2_atlas.unet.loss import PartialLabelLoss
from medsam2_atlas.unet.network import UNet, build_unet, save_unet
from medsam2_atlas.unet.workers import worker_count

log = logging.getLogger(__name__)


class UNetTraining:
    """One training run. `run` returns its statistics; a run that was killed goes on when it is made again."""

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        config: UNetConfig,
        folder: Path,
        device: torch.device,
        *,
        start: UNet | None = None,
        mark: str = "",
        skipped: Mapping[str, str] | None = None,
        strict: bool = False,
        progress: Progress = silent,
    ) -> None:
        """
        Args:
            cases: annotated CTs; `split_cases` says which of them validate.
            config: network, grid and training.
            folder: of the run; made where it does not exist.
            device: to train on; mixed precision is used on a GPU.
            start: weights to start from where the networks are the same. They are beaten on the validation cases, or kept.
            mark: what to say of the weights, such as that they are demo weights.
            skipped: cases that were left out before, by name, with the reason; for the statistics.
            strict: raise the error of the first case that cannot be used.
            progress: told the share done.

        Raises:
            InputError: no case can be used, or, if `strict`, one cannot. Otherwise, a case that cannot be used is left out; the
                statistics list the reason (`skipped`). Or the device has too little memory.
            WeightsError: the last checkpoint in the folder holds code.
        """
        self.config, self.folder, self.device = config, folder, device
        (folder / "cache").mkdir(parents=True, exist_ok=True)
        usable, problems, self._offsets = usable_cases(cases, config, folder / "cache", progress, strict=strict)
        self._rule = str(cases[0].hu) if cases else str(CHECK)
        self.skipped = {**(skipped or {}), **problems}
        if self.skipped and not usable:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(self.skipped.items()))
            raise InputError("training", f"has no case that can be used: {reasons[:2000]}", "Mend or replace them.")
        self.train_cases, self.validation_cases = split_cases(usable, config.training.validation_share)
        self._mark, self._progress = mark, progress
        torch.manual_seed(config.training.seed)
        try:
            self.network = build_unet(config).to(device)
        except RuntimeError as error:
            raise explained(error, config, device) from error
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.training.learning_rate, weight_decay=config.training.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, config.training.epochs)
        workers = 0 if device.type == "cpu" else worker_count(config)
        self._loader = train_loader(self.train_cases, config, folder / "cache", workers)
        self._dice = DiceMetric(reduction="none", include_background=False, num_classes=1 + max(organ_table().indices))
        self._writer = SummaryWriter(str(folder / "tensorboard"))
        self._sparing = False
        self.evaluator = self._make_evaluator() if self.validation_cases else None
        self.trainer = self._make_trainer()
        self._started, self._spent = time.time(), 0.0
        self._validation: dict[int, float] = {}
        self._stats: dict[str, Any] = {"loss": [], "validation": [], "best_metric": -1.0, "resumed_from": None}
        self._stopper: EarlyStopping | None = None
        if self.evaluator is not None and config.training.early_stop:
            self._stopper = EarlyStopping(config.training.early_stop, lambda _: mean_dice(self._validation), self.trainer)
        self._start: UNet | None = None
        if not self._resume() and start is not None and _same_network(start.config, config):
            self._start = start
            self.network.load_state_dict(start.network.state_dict())
            self._stats["started_from"] = start.describe()

    def run(self) -> dict[str, Any]:
        """Trains to the end, or until the mean Dice of the validation cases no longer rises.

        Raises:
            InputError: the GPU's memory, or shared memory, does not suffice, or the GPU failed. The statistics say so
                (`problem`); a run that is made again goes on.
        """
        self.trainer.run()
        return self.stats()

    def stats(self) -> dict[str, Any]:
        """Curves, Dice per organ and times; what `stats.json` holds."""
        spent = self._spent + time.time() - self._started
        return self._stats | {
            "epoch": self.trainer.state.epoch,
            "total_epochs": self.config.training.epochs,
            "start_ts": int(self._started),
            "seconds": round(spent, 1),
            "current_time": str(timedelta(seconds=int(spent))),
            "train_cases": [case.name for case in self.train_cases],
            "validation_cases": [case.name for case in self.validation_cases],
            "skipped": self.skipped,
            "hu": {"rule": self._rule, "offsets": self._offsets},
        }

    def _make_trainer(self) -> SupervisedTrainer:
        trainer = SupervisedTrainer(
            device=self.device,
            max_epochs=self.config.training.epochs,
            train_data_loader=self._loader,
            network=self.network,
            optimizer=self.optimizer,
            loss_function=PartialLabelLoss(),
            prepare_batch=_prepare,
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

    def _make_evaluator(self, memory: Memory = "") -> SupervisedEvaluator:
        evaluator = SupervisedEvaluator(
            device=self.device,
            val_data_loader=validation_loader(self.validation_cases, self.config, self.folder / "cache"),
            network=self.network,
            inferer=UNetInferer(self.config, memory=memory),
            prepare_batch=_prepare,
            amp=self.device.type == "cuda",
            decollate=False,
        )
        evaluator.add_event_handler(Events.EPOCH_STARTED, lambda _: self._dice.reset())
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._measure)
        evaluator.add_event_handler(Events.EPOCH_COMPLETED, self._sum_up)
        return evaluator

    def _begin(self) -> None:
        """What the network could do before counts as the first validation."""
        if self._start is not None and self.evaluator is not None:
            self._validate()
            self._judge(0)

    def _end(self) -> None:
        self._keep(finished=True)
        self._writer.close()

    def _fail(self, _: Engine, error: BaseException) -> None:
        """Raises what ended the run, in words; the statistics name it until a run goes on."""
        told = explained(error, self.config, self.device)
        with suppress(OSError):
            write_json(self.stats() | {"state": "stopped", "problem": str(told)}, self.folder / "stats.json")
        if told is error:
            raise error
        raise told from error

    def _validate(self) -> None:
        """Measures the network on the validation cases: put together in main memory from the first time that the GPU's does
        not suffice."""
        assert self.evaluator is not None, "asked for only where cases validate"
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
        self.trainer.state.output = None  # predictions of the last step
        free_gpu_memory()
        self.evaluator.run()

    def _seed(self, engine: Engine) -> None:
        """The same random choices in an epoch, whether or not the run was stopped before it."""
        seed = self.config.training.seed * 1_000_003 + engine.state.epoch
        self._loader.generator.manual_seed(seed)
        self._loader.dataset.transform.set_random_state(seed)

    def _measure(self, engine: Engine) -> None:
        """Dice of the organs that the case has annotated, on the network's grid; whole case."""
        output = engine.state.output
        found = output["pred"].argmax(1, keepdim=True)
        truth = output["label"]["label"].to(found.device)
        for pair in zip(decollate_batch(found), decollate_batch(truth), strict=True):
            self._dice(y_pred=[pair[0]], y=[pair[1]])

    def _sum_up(self, _: Engine) -> None:
        values = self._dice.aggregate().cpu().numpy()
        columns = {k: values[:, k - 1][np.isfinite(values[:, k - 1])] for k in organ_table().indices}
        self._validation = {k: float(column.mean()) for k, column in columns.items() if len(column)}

    def _after_epoch(self, engine: Engine, loss: float) -> None:
        epoch, last = engine.state.epoch, engine.state.epoch == self.config.training.epochs
        self._stats["loss"].append(round(loss, 5))
        if last or epoch % self.config.training.validate_every == 0:
            if self.evaluator is not None:
                self._validate()
                if self._stopper is not None:
                    self._stopper(self.evaluator)
            self._judge(epoch)
            self._keep(finished=False)
        self._progress("training", epoch / self.config.training.epochs)
        log.info(
            "epoch %d of %d: loss %.3f, best Dice %.3f", epoch, self.config.training.epochs, loss, self._stats["best_metric"]
        )

    def _judge(self, epoch: int) -> None:
        """Records a validation; weights better than all before become `best.pt`."""
        table = organ_table()
        organs: dict[int, float] = {}
        mean = float(epoch)  # without anything to validate on, the latest weights are the best known
        if self._validation:
            organs, mean = self._validation, mean_dice(self._validation)
            named = {table[k].name: round(v, 4) for k, v in organs.items()}
            self._stats["validation"].append({"epoch": epoch, "mean_dice": round(mean, 4), "organs": named})
            self._writer.add_scalar("validation/mean_dice", mean, epoch)
            for name, value in named.items():
                self._writer.add_scalar(f"validation/{name}", value, epoch)
            self._writer.flush()
        if mean > self._stats["best_metric"]:
            self._stats["best_metric"], self._stats["best_metric_epoch"] = mean, epoch
            state = self.network.state_dict()
            first = self._start if epoch == 0 else None  # still the weights that this run began with
            cases, mark = (first.cases, first.mark) if first else (self._organ_cases, self._mark)
            save_unet(self.folder / "best.pt", state, self.config, validation=organs, cases=cases, mark=mark)

    @cached_property
    def _organ_cases(self) -> dict[int, int]:
        """Training cases that have each organ annotated."""
        counts: dict[int, int] = {}
        for item in self._loader.dataset.data:
            for k in torch.where(item["known"])[0].tolist():
                counts[k] = counts.get(k, 0) + 1
        counts.pop(0, None)
        return counts

    def _keep(self, *, finished: bool) -> None:
        """Writes what a later run needs to go on, and the statistics."""
        self._stats["state"] = "finished" if finished else "running"
        content = {
            "config": self.config.model_dump_json(),
            "finished": finished,
            "epoch": self.trainer.state.epoch,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "stopper": self._stopper.state_dict() if self._stopper else {},
            "stats": self._stats,
            "spent": self._spent + time.time() - self._started,
        }
        if self.trainer.scaler is not None:
            content["scaler"] = self.trainer.scaler.state_dict()
        with replacing(self.folder / "latest.pt") as part:
            torch.save(content, part)
        write_json(self.stats(), self.folder / "stats.json")

    def _resume(self) -> bool:
        """Goes on where a run of the same configuration was stopped; the cases may have become more."""
        file = self.folder / "latest.pt"
        if not file.is_file():
            return False
        try:
            kept = load_tensors(file)  # states are copied to the device: a run goes on wherever the other was
        except WeightsError:
            raise
        except Exception as error:
            raise InputError(file, f"cannot be read ({error}).", "Remove it to train from the start.") from error
        if kept["finished"] or not self._is_own(kept["config"]):
            return False
        self.network.load_state_dict(kept["network"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self._schedule.load_state_dict(kept["schedule"])
        if self._stopper is not None and kept["stopper"]:
            self._stopper.load_state_dict(kept["stopper"])
        if self.trainer.scaler is not None and "scaler" in kept:
            self.trainer.scaler.load_state_dict(kept["scaler"])
        self._stats = kept["stats"] | {"resumed_from": kept["epoch"]}
        self._spent = kept["spent"]
        length = len(self._loader)
        self.trainer.load_state_dict(
            {"epoch": kept["epoch"], "max_epochs": self.config.training.epochs, "epoch_length": length}
        )
        log.info("goes on after epoch %d", kept["epoch"])
        return True

    def _is_own(self, config: str) -> bool:
        """Whether a stopped run had this configuration; what its version did not know yet is compared by its default."""
        try:
            return UNetConfig.model_validate_json(config) == self.config
        except ValidationError:  # an option that is gone since, or another value's range
            return False


def _prepare(
    batch: dict[str, Any], device: torch.device, non_blocking: bool, **_: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    def moved(key: str) -> torch.Tensor:
        return torch.as_tensor(batch[key]).to(device, non_blocking=non_blocking)

    return moved("image"), {"label": moved("label"), "known": moved("known")}


def _loss(output: dict[str, torch.Tensor]) -> float:
    return float(output["loss"].detach())


def _same_network(a: UNetConfig, b: UNetConfig) -> bool:
    return a.model_copy(update={"training": b.training}) == b
