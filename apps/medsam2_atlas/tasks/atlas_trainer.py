"""The train task `medsam2_atlas`: adds signed-off label maps to the atlas."""

from __future__ import annotations

import json
import logging
from typing import Any

from monailabel.interfaces.tasks.train import TrainTask

from datastores.study_datastore import StudyDatastore
from medsam2_atlas.studies import StudiesGrowthOptions, grow_studies_atlas
from medsam2_atlas.studies.models import Models
from tasks import replies
from tasks.finals import training_finals

log = logging.getLogger(__name__)

ATLAS_TRAINER = "medsam2_atlas"
"""Name of the train task. It equals the name of the model that uses the atlas."""


class AtlasTrainTask(TrainTask):
    """A train task that registers new signed-off studies, refuses outliers, and replaces the atlas in one step."""

    def __init__(self, models: Models) -> None:
        super().__init__("Adds all signed-off label maps to the atlas as references")
        self._models = models

    def config(self) -> dict[str, Any]:
        """Returns the options of the task with their defaults.

        `exclude`, `include` and `trust` are comma-separated names of studies to exclude, to include again, and to add although
        they are outliers. `rebuild` registers all references again.
        """
        return {"exclude": "", "include": "", "trust": "", "rebuild": False}

    def stats(self) -> dict[str, Any]:
        """Returns the report of the last training; empty if there was none."""
        try:
            stats: dict[str, Any] = json.loads((self._models.work.path / "atlas" / "stats.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:  # the next training replaces the file
            return {"problem": f"The report of the last training cannot be read ({error})."}
        return stats

    def __call__(self, request: dict[str, Any], datastore: StudyDatastore) -> dict[str, Any]:
        """Adds the signed-off studies to the atlas; returns a report with the outcome for each study."""
        finals = training_finals(datastore)
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
