"""The strategies for the next case, behind MONAI Label's interface. They use the measures that the background has stored."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from datastores.descriptions import assignments, predictions_outdated
from datastores.opened_cases import IN_WORK_SECONDS
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.active_learning import ScoreTable, choose
from medsam2_atlas.base.errors import MedSAM2AtlasError

_DESCRIPTIONS = {
    "random": "Any case without a final label map",
    "first": "The first case by name without a final label map",
    "disagreement": "The case with the lowest agreement between foundation and baseline",
    "uncertainty": "The case with the least certain score maps and prompts",
    "novelty": "The case with the worst registration and the lowest similarity to the references",
}


class NextCase(Strategy):
    """A strategy that chooses the next case and gives the reason."""

    def __init__(self, name: str, table: ScoreTable, versions: Callable[[], dict[str, str]]) -> None:
        """Creates a strategy.

        Args:
            name: name of the strategy.
            table: measures of the studies.
            versions: returns the current versions of atlas and models; measures of other versions are not used.
        """
        super().__init__(_DESCRIPTIONS[name])
        self._name, self._table, self._versions = name, table, versions

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Returns the `id` of the case, its `weight`, and the reason `why`; None if all cases have a final label map.

        A case that was assigned to another client in the last half hour, or that another person has opened in a viewer, is
        chosen only if no other is left. `except` in the request names a case that is not chosen, because the person works on
        it; `person` is the unique id of the person.
        """
        candidates = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        candidates = [study for study in candidates if study != request.get("except")]
        now, client, person = time.time(), request.get("client_id"), request.get("person")

        def in_work(study: str) -> bool:
            try:
                info = datastore.get_image_info(study)
            except MedSAM2AtlasError:  # the study was just removed, or the PACS does not answer
                return True
            recent = [entry for entry in assignments(info).values() if now - entry["ts"] < IN_WORK_SECONDS]
            people = datastore.opened.people(study) if isinstance(datastore, StudyDatastore) else set[str]()
            own = person in people or any(client and entry.get("client_id") == client for entry in recent)
            return bool(recent or people) and not own

        rows = dict(self._table.rows())
        if isinstance(datastore, StudyDatastore):
            for study in [study for study, labels in datastore.store.labels().items() if predictions_outdated(labels)]:
                rows.pop(study, None)
        choice = choose(self._name, candidates, rows, versions=self._versions(), assigned=in_work)
        if choice is None:
            return None
        return {"id": choice.study, "weight": choice.weight, "why": choice.why}
