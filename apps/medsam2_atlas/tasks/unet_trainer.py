"""The U-Nets' train tasks: MONAI Label's `BasicTrainTask` around `medsam2_atlas.unet.UNetTraining`."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from monai.inferers import Inferer
from monailabel.tasks.train.basic_train import BasicTrainTask, Context

from datastores.study_datastore import StudyDatastore
from medsam2_atlas.base.device import pick_device
from medsam2_atlas.base.errors import WeightsError
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.studies.models import Models
from medsam2_atlas.unet import (
    TrainingCase,
    UNetInferer,
    UNetTraining,
    cached_transforms,
    random_transforms,
    split_cases,
    with_training,
)
from tasks import replies
from tasks.finals import learnable

_REQUEST_TO_TRAINING = {"max_epochs": "epochs", "early_stop_patience": "early_stop", "val_split": "validation_share"}
_ASKED = ("learning_rate", "patches_per_case", "cases_per_step", "validate_every")


class UNetTrainTask(BasicTrainTask):
    """Trains on all labels that are signed off, and accepted if the review stage is on.

    A run that was killed goes on with the next call.
    """

    def __init__(self, models: Models, name: str, description: str) -> None:
        """
        Args:
            models: where to start from, and the studies' work folder.
            name: `unet_2d` or `unet_3d`.
            description: for people.
        """
        folder = models.work.path / name
        training = models.unet_config(name).training
        super().__init__(
            str(folder),
            description,
            config={
                "name": "",
                "max_epochs": training.epochs,
                "early_stop_patience": training.early_stop,
                "val_split": training.validation_share,
                "multi_gpu": False,
                "tracking": "None",
                **{key: getattr(training, key) for key in _ASKED},
            },
            stats_path=str(folder / "stats.json"),
            labels={o.name: o.index for o in organ_table().organs},
            tracking=None,
        )
        self._models, self._name, self._folder = models, name, folder
        self._run: UNetTraining | None = None
        self._skipped: dict[str, str] = {}

    def __call__(self, request: dict[str, Any], datastore: StudyDatastore) -> Any:
        """Trains on the device that the request names, or else on the server's; MONAI Label would take the first GPU."""
        named = request.get("device") or ""  # if it is `cpu`, this process may not be able to use the server's
        device = self._models.device if named in ("", "cuda") else pick_device(named)
        return super().__call__({**request, "device": str(device)}, datastore)

    def config(self) -> dict[str, Any]:
        """Options for viewers: those that have an effect."""
        return {key: self._config[key] for key in ("pretrained", *_REQUEST_TO_TRAINING, *_ASKED)}

    def stats(self) -> dict[str, Any]:
        """Returns the statistics of the last call."""
        try:
            stats: dict[str, Any] = super().stats()
        except (OSError, ValueError) as error:  # the next training overwrites it
            return {"problem": f"what the last training did cannot be read ({error})."}
        return stats

    def pre_process(self, request: dict[str, Any], datastore: StudyDatastore) -> list[TrainingCase]:
        """Returns the studies that models may learn from."""
        finals = learnable(datastore)
        self._skipped = finals.problems
        return [TrainingCase(files.name, files.image, files.label, hu=self._models.hu) for files in finals.files]

    def partition_datalist(self, context: Context, shuffle: bool = False) -> tuple[list[TrainingCase], list[TrainingCase]]:
        """Returns training and validation cases; a study stays on its side from call to call."""
        return split_cases(context.datalist, float(context.request["val_split"]))

    def network(self, context: Context) -> Any:
        """Returns the network of a run that begins or goes on here."""
        request = context.request
        asked = {name: request[key] for key, name in _REQUEST_TO_TRAINING.items()} | {key: request[key] for key in _ASKED}
        asked["early_stop"] = max(0, int(asked["early_stop"]))  # MONAI Label's own default for "never" is -1
        config = with_training(self._models.unet_config(self._name), asked)
        start = None
        if replies.flag(request, "pretrained"):
            with suppress(WeightsError):
                start = self._models.unet(self._name)
        self._run = UNetTraining(context.datalist, config, self._folder, context.device, start=start, skipped=self._skipped)
        return self._run.network

    def optimizer(self, context: Context) -> Any:
        """AdamW, as the configuration says."""
        return self._current.optimizer

    def loss_function(self, context: Context) -> Any:
        """Cross entropy and Dice that know which organs a case has annotated."""
        return self._current.trainer.loss_function

    def train_pre_transforms(self, context: Context) -> Any:
        """From files to augmented patches."""
        config = self._current.config
        return [*cached_transforms(config).transforms, *random_transforms(config).transforms]

    def train_post_transforms(self, context: Context) -> Any:
        """None: the loss takes logits."""
        return None

    def val_inferer(self, context: Context) -> Inferer:
        """Sliding windows over the whole case: validation never crops around the truth."""
        return UNetInferer(self._current.config)

    def finalize(self, context: Context) -> None:
        """Nothing: the run keeps its own checkpoints and statistics, each replaced in one step."""

    def _create_evaluator(self, context: Context) -> Any:
        validation = self._current.validation
        return validation.evaluator if validation is not None else None

    def _create_trainer(self, context: Context) -> Any:
        return self._current.trainer

    @property
    def _current(self) -> UNetTraining:
        assert self._run is not None, "MONAI Label makes the network first"
        return self._run
