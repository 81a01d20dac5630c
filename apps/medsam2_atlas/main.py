"""The MONAI Label app: connects models, training, strategies for the next case and scoring with MONAI Label.

Configuration (`--conf KEY VALUE`):

| key | value |
| --- | --- |
| `atlas` | folder of the base atlas |
| `checkpoint`, `config` | MedSAM2's weights file, and its network configuration |
| `device` | `cpu`, `cuda`, `cuda:N` or `auto` |
| `unet_3d`, `unet_2d` | weights files of the U-Nets |
| `unet_3d_config`, `unet_2d_config` | configurations for training the U-Nets |
| `learning` | whether studies are measured in the background; default: true for a local folder, false for a PACS |
| `foundation`, `baseline` | the two models that are compared in the background |
| `bundle:NAME`, `nnunet:NAME` | folders of the user's own models |
| `server_roots` | folders that symbolic links in the studies folder may lead to |
| `server_hu` | conversion of CT values to HU |
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore

from datastores.opening import open_datastore
from datastores.pacs_datastore import PacsDatastore
from datastores.session_folders import SessionFolders
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.active_learning import STRATEGIES, ScoreTable
from medsam2_atlas.base.errors import InputError, NotFoundError
from medsam2_atlas.base.urls import is_url
from medsam2_atlas.base.version import package_version
from medsam2_atlas.imaging import decoding
from medsam2_atlas.imaging.hounsfield import HuRule
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.base import Segmentation
from medsam2_atlas.segmenters.registry import FOUNDATIONS, model_of, trainable
from medsam2_atlas.storage import Drafts, WorkFolder, copy_safely
from medsam2_atlas.studies.models import Models
from medsam2_atlas.unet import load_unet
from server import log_lines
from server.config import server_config
from tasks import replies
from tasks.about import described, organs_of
from tasks.atlas_trainer import ATLAS_TRAINER, AtlasTrainTask
from tasks.batch_task import BatchTask
from tasks.claims import claimed, in_work_process, work_running
from tasks.compare_task import CompareTask
from tasks.housekeeper import Housekeeper
from tasks.known import check_model, check_strategy, check_study
from tasks.learner import Learner
from tasks.learning_ahead import LearningAhead
from tasks.next_case import NextCase
from tasks.predictions import Predictions
from tasks.scoring_method import OrganScoring
from tasks.segmenter_task import SegmenterTask
from tasks.unet_trainer import UNetTrainTask
from tasks.work_device import forget_gpu_names
from tasks.worklist_parts import WorklistParts

log = logging.getLogger(__name__)

forget_gpu_names()


class MedSAM2AtlasApp(MONAILabelApp):
    """The app object that MONAI Label creates in the server, and again in each work process."""

    studies: str

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self._config = config = server_config(conf)
        self._roots = tuple(Path(root) for root in config.roots)
        self._work = WorkFolder.of(studies, self._roots)
        if in_work_process():
            log_lines.install(studies, self._work, config.log_names)
        # Configured here and not when the server starts, so that the limits also apply in training processes.
        decoding.configure(config.decoding, self._work.folder(".") / "unreadable.json")
        self._stopping = threading.Event()
        self._models = Models(conf, self._work, HuRule.parse(config.hu), keeps_images=not in_work_process())
        self._predictions = Predictions(self._models, self.datastore)
        self._all = {tag: SegmenterTask(self._models, self._predictions, m) for tag, m in self._predictions.models().items()}
        # The models whose predictions are stored, by name; the name is also the tag of the prediction.
        self._tasks = {tag: task for tag, task in self._all.items() if not task.inputs}
        self._compare = CompareTask(self._predictions)
        self._table = ScoreTable(self._work.folder(".") / "learning.sqlite")
        if not in_work_process():
            _ = self._models.ladder  # so that the server fails at its start, not at the first case, if the device is unusable
        foundation, baseline = self._foundation(conf), self._named(conf, "baseline")
        # Learning fetches series of a PACS that nobody has asked for yet, so it must be requested explicitly.
        remote = is_url(studies)
        limits = (config.learn_ahead, config.learn_mb * 1_000_000)
        ahead = LearningAhead(self.datastore, *limits, lambda: work_running(self._work)) if remote else None
        self._learner = Learner(self._models, self._predictions, self._table, self.datastore, foundation, baseline, ahead)
        self._housekeeper = Housekeeper(self._studies, lambda: self._learner.idle)
        self._learns = replies.flag({"learning": conf.get("learning", not remote)}, "learning")
        super().__init__(
            app_dir,
            studies,
            conf,
            name="medsam2_atlas",
            description="Pre-annotates 15 abdominal organs on CT. Research use only; not a medical device.",
            version=package_version(),
        )
        if not in_work_process():
            log.info("networks run on %s", self._models.device)
            for name, reason in self._missing().items():
                log.warning("%s cannot run: %s", name, reason)

    def _foundation(self, conf: Mapping[str, str]) -> str:
        """Returns the foundation model for measuring studies in the background.

        The default depends on the device, because MedSAM2 takes minutes for a case without a GPU.
        """
        named = self._named(conf, "foundation")
        if named or in_work_process():  # a work process measures nothing, so it need not look for a GPU
            return named or FOUNDATIONS[False]
        return FOUNDATIONS[self._models.device.type == "cuda"]

    def _named(self, conf: Mapping[str, str], key: str) -> str:
        """Returns the model that the setting `key` names by model or segmenter name; an empty string if the setting is empty.

        Raises:
            InputError: no model has that name, or its predictions are not stored.
        """
        name = conf.get(key, "")
        tag = name if not name or name in self._tasks else model_of(name)
        if tag and tag not in self._tasks:
            raise InputError(name, f"cannot be used as {key}.", f"Choose from: {', '.join(self._tasks)}.")
        return tag

    def init_datastore(self) -> Datastore:
        """Returns the datastore of the studies folder, or of the DICOMweb server's series."""
        if is_url(self.studies):
            self.studies = self.studies.rstrip("/").strip()
        config, series = self._config, settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER
        return open_datastore(self.studies, self._work, self._tasks, series, self._roots, config.viewer_mb, config.review)

    def init_infers(self) -> dict[str, Any]:
        """Returns the infer tasks by model name: all models, and `compare`."""
        return {**self._all, "compare": self._compare}

    def init_trainers(self) -> dict[str, Any]:
        """Returns the train tasks by model name: the atlas and the U-Nets."""
        unets = {name: UNetTrainTask(self._models, name, f"Trains {name}") for name in trainable()}
        return {ATLAS_TRAINER: AtlasTrainTask(self._models), **unets}

    def init_batch_infer(self) -> BatchTask:
        """Returns the task that runs a model on many studies."""
        return BatchTask(self._work)

    def init_strategies(self) -> dict[str, Any]:
        """Returns the strategies for the next case, by name."""
        return {name: NextCase(name, self._table, self._learner.versions) for name in STRATEGIES}

    def init_scoring_methods(self) -> dict[str, Any]:
        """Returns the scoring methods by name."""
        return {"organs": OrganScoring(self._work)}

    def train(self, request: dict[str, Any]) -> Any:
        """Trains a model; runs in MONAI Label's training process.

        Raises:
            ConflictError: another server trains a model on the same studies.
        """
        with claimed(self._work, "train", str(request.get("model"))):
            return super().train(request)

    def batch_infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> Any:
        """Runs a model on many studies; runs in MONAI Label's batch process."""
        with claimed(self._work, "batch_infer", str(request.get("model"))):
            return super().batch_infer(request, datastore)

    def scoring(self, request: dict[str, Any], datastore: Datastore | None = None) -> Any:
        """Scores label maps; runs in a separate process, or in the server if the client waits for the scores."""
        with claimed(self._work, "scoring", str(request.get("method"))):
            return super().scoring(request, datastore)

    def on_init_complete(self) -> None:
        """Starts the background threads; MONAI Label calls this in the server only, not in work processes."""
        super().on_init_complete()
        datastore = self.datastore()
        if isinstance(datastore, PacsDatastore):
            threading.Thread(target=datastore.keep_sending, args=(self._stopping,), name="sending", daemon=True).start()
        self._housekeeper.start()
        self._studies().store.sweep_in_background()
        self.worklist.warm()
        if self._learns:
            self._learner.start()

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, Any]:
        """Notifies the learner of a new label map; MONAI Label calls this after it has saved one."""
        self._learner.notify()
        return {}

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Returns the next case to annotate and the reason for the choice.

        Raises:
            NotFoundError: the strategy is unknown; the remedy lists the known ones.
        """
        strategy = request.get("strategy") or "random"
        check_strategy(str(strategy), self._strategies)
        chosen: dict[str, Any] = super().next_sample(request)
        return chosen

    def info(self) -> dict[str, Any]:
        """Returns the information that MONAI Label's clients expect, and why models or tasks are unavailable (`missing`)."""
        missing = self._missing()
        models = described(self._infers, lambda task: task.info(), missing)
        trainers = described(self._trainers, lambda task: task.info(), missing, "training")
        datastore = described({"datastore": self._datastore}, lambda store: store.status(), missing)
        if failure := self._models.ladder.failure:
            missing["GPU"] = f"has failed ({failure}). Networks run on the CPU until the server is restarted."
        return {
            "name": self.name,
            "description": self.description,
            "version": self.version,
            "device": str(self._models.device),
            "labels": self.labels or organs_of(models),
            "models": models,
            "trainers": trainers,
            "strategies": described(self._strategies, lambda task: task.info(), missing, "strategy"),
            "scoring": described(self._scoring_methods, lambda task: task.info(), missing, "scoring"),
            "train_stats": described(
                {name: self._trainers[name] for name in trainers}, lambda task: task.stats(), missing, "stats"
            ),
            "datastore": datastore.get("datastore", {"total": 0, "completed": 0, "label_tags": {}}),
            "missing": missing,
        }

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Segments an image with a model, or compares two models on a study.

        A study's prediction is stored under the model's tag, and returned from there if nothing it depends on has changed.
        An image that is not a study (`upload` in the request names its file) is segmented without storing the result.

        Raises:
            MedSAM2AtlasError: the model or study is unknown, a requirement of the model is missing, or an option is invalid.
        """
        model, upload = str(request.get("model")), request.get("upload")
        check_model(model, self._infers, lambda: self._missing(model))
        with self._learner.paused():
            if upload:
                if model == "compare":
                    raise InputError("compare", "needs a study.", "Upload the image as a study first, then send its id.")
                return self._answer(model, "", self._predictions.once(model, Path(upload), request), request)
            study = str(request.get("image"))
            check_study(study, self.datastore())
            if model == "compare":
                compared = self._compare.compare(study, request, self.datastore())
                return self._reply(model, "", compared.labels, compared.report, request)
            if model not in self._tasks:
                return self._answer(model, "", self._predictions.once(model, self._predictions.image(study), request), request)
            return self._answer(model, model, self._predictions.get(model, study, request)[0], request)

    def stored(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Returns the reply of `infer` if it is stored; None if it would have to be computed.

        Raises:
            MedSAM2AtlasError: as for `infer`.
        """
        model, study = str(request.get("model")), str(request.get("image"))
        check_model(model, self._infers, lambda: self._missing(model))
        if model not in self._tasks or request.get("upload"):
            return None
        found = self._predictions.stored(model, study, request)
        return None if found is None else self._reply(model, model, found.label, found.cached_report.to_json(), request)

    def put_weights(self, model: str, file: Path) -> dict[str, Any]:
        """Replaces the trained weights of a U-Net by a file.

        Args:
            model: `unet_2d` or `unet_3d`.
            file: weights file (.pt), which is copied.

        Returns:
            The model, and the version and mark of the new weights.

        Raises:
            NotFoundError: the model is not a U-Net.
            WeightsError: the weights cannot be used.
        """
        if model not in trainable():
            raise NotFoundError(repr(model[:80]), "does not accept weights.", f"Choose from: {', '.join(trainable())}.")
        unet = load_unet(file)
        copy_safely(file, self._work.folder(model) / "best.pt")
        return {"model": model, "version": unet.version, "mark": unet.mark}

    @cached_property
    def drafts(self) -> Drafts:
        """The unsaved label maps of people who edit in a viewer."""
        return Drafts(self._studies().store, self._config.drafts_mb * 1_000_000)

    @cached_property
    def worklist(self) -> WorklistParts:
        """The parts behind `/worklist`."""
        shown = (self._models.hu, self._learns, self._config.pictures_mb * 1_000_000)
        return WorklistParts(self._studies(), self._all, self._table, self._learner, self.drafts, *shown)

    def forget_cases(self) -> bool:
        """Drops all kept data of CTs; returns whether no case was running, see `Models.forget_cases`."""
        self._studies().forget()
        return self._models.forget_cases()

    def _studies(self) -> StudyDatastore:
        datastore: StudyDatastore = self.datastore()
        return datastore

    def cleanup_sessions(self) -> None:
        """Removes expired sessions. The server calls this at its start and every five minutes."""
        if self._sessions is not None:
            self._sessions.remove_expired()

    def _load_sessions(self, load: bool = False) -> SessionFolders | None:
        return SessionFolders(settings.MONAI_LABEL_SESSION_PATH, settings.MONAI_LABEL_SESSION_EXPIRY) if load else None

    def stop(self) -> None:
        """Stops the background threads."""
        self._stopping.set()
        self._housekeeper.stop()
        self._learner.stop()

    def _answer(self, model: str, tag: str, result: Segmentation, request: dict[str, Any]) -> dict[str, Any]:
        return self._reply(model, tag, result.labels, result.report.to_json(), request)

    def _reply(
        self, model: str, tag: str, label_map: Volume | Path, report: dict[str, Any], request: dict[str, Any]
    ) -> dict[str, Any]:
        names = self._infers[model].labels
        labels = names if model == "compare" else {name: names[name] for name in report["organs"]}
        file = replies.as_file(label_map, request)
        return {"label": file, "tag": tag, "file": file, "params": replies.as_json(report, labels)}

    def _missing(self, *names: str) -> dict[str, str]:
        """Returns the reasons why the models `names` cannot run, by name; checks all models if no name is given."""
        tasks: dict[str, Any] = {**self._all, "compare": self._compare}
        tasks = {name: tasks[name] for name in names} or tasks
        failing: dict[str, str] = {}
        reasons = described(tasks, lambda task: task.missing(), failing)
        return {name: reason for name, reason in {**reasons, **failing}.items() if reason}
