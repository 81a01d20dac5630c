"""The strategies for the next case, behind MONAI Label's interface. They use the measures that the background has stored.

Cases that a reviewer returned to the person come first, then those assigned to the person, then the strategy's. Cases that are
assigned to other people, or that others work on, come last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from datastores.case_claims import CLAIM_SECONDS, Claims
from datastores.descriptions import assignments, predictions_outdated
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.active_learning import Choice, ScoreTable, choose
from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.storage import FINAL, Assignment, Label, Person, Version

_DESCRIPTIONS = {
    "random": "Any case without a final label map",
    "first": "The first case by name without a final label map",
    "disagreement": "The case with the lowest agreement between foundation and baseline",
    "uncertainty": "The case with the least certain score maps and prompts",
    "novelty": "The case with the worst registration and the lowest similarity to the references",
}
OTHERS = "; all other cases are being edited by other people, or assigned to them"


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
        """Returns the `id` of the case, its `weight`, and the reason `why`; None if all cases are done.

        A case is done if it has a final label map that no reviewer has returned. In the request, `except` names a case that is
        not chosen, because the person works on it; `person` is the unique id of the person, and `person_name` the name.
        """
        candidates = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        assert isinstance(datastore, StudyDatastore)
        team = _Team(datastore, request)
        candidates = [study for study in candidates if study != request.get("except")]
        rows = dict(self._table.rows())
        for study in [study for study, labels in team.labels.items() if predictions_outdated(labels)]:
            rows.pop(study, None)

        def ranked(studies: list[str]) -> Choice | None:
            return choose(self._name, studies, rows, versions=self._versions(), assigned=team.taken)

        choice = self._first(candidates, team, ranked)
        return None if choice is None else {"id": choice.study, "weight": choice.weight, "why": choice.why}

    def _first(self, candidates: list[str], team: _Team, ranked: Callable[[list[str]], Choice | None]) -> Choice | None:
        """Returns the first case in the order that the module describes; `ranked` chooses by the strategy."""
        returned = team.returned
        for study in returned:
            if team.is_own(study) and not team.taken(study):
                return Choice(study, 1.0, f"returned to you by {_return_of(returned[study])}")
        own = [study for study in candidates if team.is_own(study) and not team.taken(study)]
        if own and (choice := ranked(own)) is not None:
            return Choice(choice.study, choice.weight, f"assigned to you by {team.assigner(choice.study)}; {choice.why}")
        choice = ranked(candidates)
        if choice is not None and not team.taken(choice.study):
            return choice
        left = sorted(returned, key=team.taken)
        if left and (choice is None or not team.taken(left[0])):
            version = returned[left[0]]
            whose = version.author or "another person"
            return Choice(left[0], 1.0, f"returned to {whose} by {_return_of(version)}; no other case is free")
        return None if choice is None else Choice(choice.study, choice.weight, choice.why + OTHERS)


@dataclass(frozen=True)
class _Team:
    """The claims, assignments and returned cases as one person sees them. Each is read once."""

    datastore: StudyDatastore
    request: Mapping[str, Any]

    @cached_property
    def labels(self) -> Mapping[str, Mapping[str, Label]]:
        return self.datastore.store.labels()

    @cached_property
    def assigned(self) -> dict[str, Assignment]:
        return self.datastore.store.assignments.all()

    @cached_property
    def claims(self) -> Claims:
        return self.datastore.claims.all()

    @cached_property
    def returned(self) -> dict[str, Version]:
        """The returned final versions by study, the oldest return first."""
        broken, found = self.datastore.problems(), {}
        for study, tags in self.labels.items():
            final = tags.get(FINAL)
            usable = final is not None and not final.problem and "image" not in broken.get(study, {})
            if final is not None and usable and final.version.returned and study != self.request.get("except"):
                found[study] = final.version
        return dict(sorted(found.items(), key=lambda item: (item[1].returned.get("at", ""), item[0])))

    def is_own(self, study: str) -> bool:
        """Returns whether a case is the person's, by an assignment or because it was returned to the person."""
        person = Person(str(self.request.get("person_name") or ""), str(self.request.get("person") or ""))
        return is_next_of(person, self.returned.get(study), self.assigned.get(study))

    def assigner(self, study: str) -> str:
        """Returns the name of the reviewer who assigned a case."""
        assignment = self.assigned.get(study)
        return (assignment.by if assignment else "") or "a reviewer"

    def taken(self, study: str) -> bool:
        """Returns whether a case is another person's now: it is assigned to another person, or another one works on it."""
        person, client = self.request.get("person"), self.request.get("client_id")
        if study in self.assigned and not self.is_own(study):
            return True
        opened = [one for one in self.claims.opened(study) if one.claims]
        if opened:
            return opened[0].id != person  # the first of them holds the claim; the person may only look at the case
        try:
            info = self.datastore.get_image_info(study)
        except MedSAM2AtlasError:  # the study was just removed, or the PACS does not answer
            return True
        now = time.time()
        recent = [entry for entry in assignments(info).values() if now - entry["ts"] < CLAIM_SECONDS]
        return bool(recent) and not any(client and entry.get("client_id") == client for entry in recent)


def is_next_of(person: Person, returned: Version | None, assignment: Assignment | None) -> bool:
    """Returns whether a case is a certain person's to work on: the assignee's, or the author's of a returned version.

    An assignment that was made before the return does not count: the version's author knows the case.

    Args:
        person: the person.
        returned: the returned final version; None if there is none.
        assignment: the assignment of the case; None if there is none.
    """
    if assignment is not None and (returned is None or assignment.at > returned.returned.get("at", "")):
        return bool(person.name) and assignment.person == person.name
    if returned is None:
        return False
    if returned.author_id:
        return returned.author_id == person.id
    return bool(returned.author) and returned.author == person.name


def _return_of(version: Version) -> str:
    """Returns who returned a version, and the comment, as text."""
    return f"{version.returned.get('by') or 'a reviewer'}: {version.returned.get('comment', '')}"
