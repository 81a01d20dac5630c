"""The parts behind `/worklist`: the cases, the models, the pictures, and the progress of learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datastores.pacs_datastore import PacsDatastore
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.active_learning import ScoreTable
from medsam2_atlas.base.background import Background
from medsam2_atlas.imaging.hounsfield import HuRule
from medsam2_atlas.storage import Drafts
from tasks.case_pictures import CasePictures
from tasks.case_states import CaseState, CaseTable
from tasks.learner import Learner
from tasks.model_summary import ModelSummaries, described_model
from tasks.worklist import Worklist


class WorklistParts:
    """The parts.

    Attributes:
        cases: all cases.
        models: what the summary says about the models.
        pictures: small pictures of cases.
    """

    def __init__(
        self,
        datastore: StudyDatastore,
        models: Mapping[str, Any],
        table: ScoreTable,
        learner: Learner,
        drafts: Drafts,
        hu: HuRule,
        learns: bool,
        picture_bytes: int,
    ) -> None:
        """Connects the parts.

        Args:
            datastore: the studies.
            models: all models of the server by name.
            table: measures of the studies.
            learner: the background measurement.
            drafts: the drafts of all people.
            hu: conversion of the CTs' values to HU.
            learns: whether the background measurement is on.
            picture_bytes: max size of all small pictures together, in bytes.
        """
        stored = tuple(name for name, task in models.items() if not task.inputs)
        self._table = CaseTable(datastore, table, stored)
        self.cases = Worklist(datastore, self._states, drafts.studies)
        self.models = ModelSummaries(lambda: [described_model(name, task) for name, task in models.items()])
        self.pictures = CasePictures(datastore, stored, hu, picture_bytes)
        self._datastore, self._learner, self._learns = datastore, learner, learns
        self._warming = Background("worklist", self._warm)
        if isinstance(datastore, PacsDatastore):
            datastore.when_listed(self.warm)

    def _states(self) -> Mapping[str, CaseState]:
        return self._table.states(self._learner.problems())

    def titles(self) -> Mapping[str, str]:
        """Returns the patient of each case, by study, as the worklist shows it; only of cases that are listed."""
        return {study: about.patient for study, about in self._states().items()}

    def warm(self) -> None:
        """Computes the states of all cases in the background, so that the first page need not wait for that."""
        self._warming.start()

    def warmed(self, seconds: float) -> bool:
        """Waits until `warm` has ended, for some seconds at most, such as for a PACS that does not answer."""
        return self._warming.wait(seconds)

    def _warm(self) -> None:
        self._datastore.list_images()  # waits some seconds for a PACS that has not listed its series yet
        self._states()

    def pacs_problem(self) -> str:
        """Returns why the cases of a PACS may be out of date, as a sentence; empty if they are current, and for a folder."""
        return self._datastore.list_failure() if isinstance(self._datastore, PacsDatastore) else ""

    def learning(self) -> dict[str, Any]:
        """Returns whether cases are measured in the background (`on`), and how many are (`done`) of how many (`of`)."""
        done, of = self._learner.progress() if self._learns else (0, 0)
        return {"on": self._learns, "done": done, "of": of}
