"""The train task `medsam2_atlas`: the atlas grows by what was signed off."""

from __future__ import annotations

import json
import logging
from typing import Any

from monailabel.interfaces.tasks.train import TrainTask

from datastores.study_datastore import StudyDatastore
from medsam2_atlas.studies import StudiesGrowthOptions, grow_studies_atlas
from medsam2_atlas.studies.models import Models
from tasks import replies
from tasks.finals import learnable

log = logging.getLogger(__name__)

ATLAS_TRAINER = "medsam2_atlas"
"""Name of the train task, as of the model whose atlas grows."""


class AtlasTrainTask(TrainTask):
    """Registers labels that are new since the last call, refuses outlying ones, and replaces the atlas in one step."""

    def __init__(self, models: Models) -> None:
        super().__init__("Lets the atlas grow by all labels that are signed off as final")
        self._models = models

    def config(self) -> dict[str, Any]:
        """Options: names of studies, separated by commas, to keep out, to admit again, to take unchecked; a new start."""
        return {"exclude": "", "include": "", "trust": "", "rebuild": False}

    def stats(self) -> dict[str, Any]:
        """What the last call did."""
        try:
            stats: dict[str, Any] = json.loads((self._models.work.path / "atlas" / "stats.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:  # the next training overwrites it
            return {"problem": f"what the last training did cannot be read ({error})."}
        return stats

    def __call__(self, request: dict[str, Any], datastore: StudyDatastore) -> dict[str, Any]:
        """Grows the atlas; tells what became of each label."""
        finals = learnable(datastore)
        options = StudiesGrowthOptions(
            exclude=replies.names(request, "exclude"),
            include=replies.names(request, "include"),
            trust=replies.names(request, "trust"),
            rebuild=replies.flag(request, "rebuild"),
            hu=self._models.hu,
        )
        base = self._models.base_atlas()
        report = grow_studies_atlas(self._models.work, base, finals.files, options, skipped=finals.problems, progress=_logged)
        for name, reason in report["refused"].items():
            log.warning("%s was refused as a reference: %s", name, reason)
        return report


def _logged(stage: str, share: float, organ: int | None = None) -> None:
    if organ is None:
        log.info("%s: %.0f %%", stage, 100 * share)
