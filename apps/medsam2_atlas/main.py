"""The MONAI Label app: wires tasks, strategies for the next case, and what `/info` says.

Configuration (`--conf KEY VALUE`): `atlas` (folder), `checkpoint` (file), `config` (network), `device`.
"""

from __future__ import annotations

import logging
from typing import Any

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from medsam2_atlas.pipeline import package_version
from models import Models
from segmentation_task import SegmentationTask

log = logging.getLogger(__name__)


class MedSAM2AtlasApp(MONAILabelApp):
    """Pre-annotation of abdominal CT by registration and MedSAM2."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self._models = Models(
            conf.get("atlas", ""), conf.get("checkpoint", ""), conf.get("config", ""), conf.get("device", "auto")
        )
        self._tasks = {
            "medsam2_atlas": SegmentationTask(
                self._models, ("D", "C", "B", "A"), "15 abdominal organs by MedSAM2, prompted by registered references"
            ),
            "atlas": SegmentationTask(
                self._models, ("atlas",), "15 abdominal organs by registered references alone, without a network"
            ),
        }
        super().__init__(
            app_dir,
            studies,
            conf,
            name="medsam2_atlas",
            description="Pre-annotates 15 abdominal organs on CT. Research use only; not a medical device.",
            version=package_version(),
        )
        for name, reason in self._missing().items():
            log.warning("%s cannot run: %s", name, reason)

    def init_infers(self) -> dict[str, SegmentationTask]:
        """Both ways to segment."""
        return self._tasks

    def init_strategies(self) -> dict[str, Any]:
        """Ways to pick the next case."""
        return {"random": Random(), "first": First()}

    def info(self) -> dict[str, Any]:
        """MONAI Label's description, with the reasons why models are not offered."""
        about: dict[str, Any] = super().info()
        about["missing"] = self._missing()
        return about

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Refuses a model that cannot run with the reason, instead of failing inside it."""
        reason = self._missing().get(str(request.get("model")))
        if reason:
            raise MONAILabelException(MONAILabelError.INVALID_INPUT, reason)
        result: dict[str, Any] = super().infer(request, datastore)
        return result

    def _missing(self) -> dict[str, str]:
        return {name: reason for name, task in self._tasks.items() if (reason := task.missing())}
