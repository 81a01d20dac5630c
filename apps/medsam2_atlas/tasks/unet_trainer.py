"""The train tasks of the U-Nets: MONAI Label's `BasicTrainTask` around `medsam2_atlas.unet.UNetTraining`."""

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
from tasks.finals import training_finals

_REQUEST_TO_TRAINING = {"max_epochs": "epochs", "early_stop_patience": "early_stop", "val_split": "validation_share"}
"""Options that MONAI Label calls by another name → name in the training configuration."""
_SAME_NAMES = ("learning_rate", "patches_per_case", "cases_per_step", "validate_every")
"""Options with the same name in both."""


class UNetTrainTask(BasicTrainTask):
    """A train task that trains a U-Net on all signed-off studies; with the review stage on, only on accepted ones.

    A training that was killed resumes with the next call.
    """

    def __init__(self, models: Models, name: str, description: str) -> None:
        """Creates the task of a U-Net.

        Args:
            models: weights to start from, and the studies' work folder.
            name: name of the U-Net, `unet_2d` or `unet_3d`.
            description: text that clients show.
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
                **{key: getattr(training, key) for key in _SAME_NAMES},
            },
            stats_path=str(folder / "stats.json"),
            labels={o.name: o.index for o in organ_table().organs},
            tracking=None,
        )
        self._models, self._name, self._folder = models, name, folder
        self._run: UNetTraining | None = None
        self._skipped: dict[str, str] = {}

    def __call__(self, request: dict[str, Any], datastore: StudyDatastore) -> Any:
        """Trains on the device in the request, or else on the server's device; MONAI Label would use the first GPU."""
        named = request.get("device") or ""  # for `cpu`, this process may have been started without access to the GPU
        device = self._models.device if named in ("", "cuda") else pick_device(named)
        return super().__call__({**request, "device": str(device)}, datastore)

    def config(self) -> dict[str, Any]:
        """Returns the options for viewers; MONAI Label's options without effect are left out."""
        return {key: self._config[key] for key in ("pretrained", *_REQUEST_TO_TRAINING, *_SAME_NAMES)}

    def stats(self) -> dict[str, Any]:
        """Returns the statistics of the last training."""
        try:
            stats: dict[str, Any] = super().stats()
        except (OSError, ValueError) as error:  # the next training replaces the file
            return {"problem": f"The report of the last training cannot be read ({error})."}
        return stats

    def pre_process(self, request: dict[str, Any], datastore: StudyDatastore) -> list[TrainingCase]:
        """Returns the studies to train on."""
        finals = training_finals(datastore)
        self._skipped = finals.problems
        return [TrainingCase(files.name, files.image, files.label, hu=self._models.hu) for files in finals.files]

    def partition_datalist(self, context: Context, shuffle: bool = False) -> tuple[list[TrainingCase], list[TrainingCase]]:
        """Returns training and validation cases; a study stays in the same set in every training."""
        return split_cases(context.datalist, float(context.request["val_split"]))

    def network(self, context: Context) -> Any:
        """Starts or resumes the training run, and returns its network."""
        request = context.request
        options = {name: request[key] for key, name in _REQUEST_TO_TRAINING.items()}
        options |= {key: request[key] for key in _SAME_NAMES}
        options["early_stop"] = max(0, int(options["early_stop"]))  # MONAI Label's value for "never" is -1
        config = with_training(self._models.unet_config(self._name), options)
        start = None
        if replies.flag(request, "pretrained"):
            with suppress(WeightsError):
                start = self._models.unet(self._name)
        self._run = UNetTraining(context.datalist, config, self._folder, context.device, start=start, skipped=self._skipped)
        return self._run.network

    def optimizer(self, context: Context) -> Any:
        """Returns the optimiser of the run: AdamW with the configured parameters."""
        return self._current.optimizer

    def loss_function(self, context: Context) -> Any:
        """Returns the loss: cross entropy and Dice over the organs that are annotated in a case."""
        return self._current.trainer.loss_function

    def train_pre_transforms(self, context: Context) -> Any:
        """Returns the transforms from files to augmented patches."""
        config = self._current.config
        return [*cached_transforms(config).transforms, *random_transforms(config).transforms]

    def train_post_transforms(self, context: Context) -> Any:
        """Returns None: the loss uses logits, which need no transform."""
        return None

    def val_inferer(self, context: Context) -> Inferer:
        """Returns the inferer for validation: sliding windows over the whole case, never cropped around the ground truth."""
        return UNetInferer(self._current.config)

    def finalize(self, context: Context) -> None:
        """Does nothing: the run itself writes its checkpoints and statistics, each replaced in one step."""

    def _create_evaluator(self, context: Context) -> Any:
        validation = self._current.validation
        return validation.evaluator if validation is not None else None

    def _create_trainer(self, context: Context) -> Any:
        return self._current.trainer

    @property
    def _current(self) -> UNetTraining:
        assert self._run is not None, "MONAI Label calls `network` first"
        return self._run
