"""The strategies for the next case, behind MONAI Label's interface. They use the measures that the background has stored.

Cases that a reviewer returned to the person come first, then those with unsaved work of the person, then those assigned to the
person, then the strategy's. Cases that are assigned to other people, or that others work on, come last.
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
from medsam2_atlas.base.errors import ConflictError, MedSAM2AtlasError
from medsam2_atlas.storage import FINAL, Assignment, Label, Person, Version, studies_with_drafts
from tasks.present_images import is_of_present

_DESCRIPTIONS = {
    "random": "Any case without a final label map",
    "first": "The first case by name without a final label map",
    "disagreement": "The case with the lowest agreement between foundation and baseline",
    "uncertainty": "The case with the least certain score maps and prompts",
    "novelty": "The case with the worst registration and the lowest similarity to the references",
}
_TRIES = 5
_OTHERS = "; all other cases are being edited by other people, or assigned to them"


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

        A case is done if it has a final label map that no reviewer has returned. `taken` states whether the case is another
        person's now, because no other one is left. In the request, `except` names a case that is not chosen, because the person
        works on it; `person` is the unique id of the person, and `person_name` the name. With `claim`, the case is claimed for
        the person; `claimed` contains the claim that it has then, or None.

        Raises:
            ConflictError: other people claim each case that is chosen.
        """
        assert isinstance(datastore, StudyDatastore)
        for _ in range(_TRIES):
            chosen = self._chosen(request, datastore)
            if chosen is None or not request.get("claim"):
                return chosen
            study = chosen["id"]
            try:
                claim = datastore.claims.claim(study, str(request["person"]), str(request["person_name"]))
            except ConflictError:
                if not chosen["taken"]:
                    continue  # another person has just claimed it
                claim = datastore.claims.of(study)
            return chosen | {"claimed": None if claim is None else claim.as_dict()}
        raise ConflictError("next case", "is being claimed by other people.", "Try again.")

    def _chosen(self, request: dict[str, Any], datastore: StudyDatastore) -> dict[str, Any] | None:
        """Returns the next case without claiming it, as `__call__` does."""
        candidates = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        team = _Team(datastore, request)
        candidates = [study for study in candidates if study != request.get("except")]
        rows = dict(self._table.rows())
        for study in [study for study, labels in team.labels.items() if predictions_outdated(labels)]:
            rows.pop(study, None)
        failed = [study for study in candidates if study in rows and rows[study].problem]
        images = datastore.store.images() if failed else {}
        for study in [study for study in failed if not is_of_present(rows[study], images.get(study))]:
            del rows[study]  # its image was replaced, and may be usable now

        def ranked(studies: list[str]) -> Choice | None:
            return choose(self._name, studies, rows, versions=self._versions(), assigned=team.taken)

        choice = self._first(candidates, team, ranked)
        if choice is None:
            return None
        return {"id": choice.study, "weight": choice.weight, "why": choice.why, "taken": team.taken(choice.study)}

    def _first(self, candidates: list[str], team: _Team, ranked: Callable[[list[str]], Choice | None]) -> Choice | None:
        """Returns the first case in the order that the module describes; `ranked` chooses by the strategy."""
        returned = team.returned
        for study in returned:
            if team.is_own(study) and not team.taken(study):
                return Choice(study, 1.0, f"returned to you by {_return_of(returned[study])}")
        begun = [study for study in candidates if team.has_begun(study) and not team.taken(study)]
        if begun and (choice := ranked(begun)) is not None:
            return Choice(choice.study, choice.weight, f"you have unsaved work on it; {choice.why}")
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
        return None if choice is None else Choice(choice.study, choice.weight, choice.why + _OTHERS)


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

    @cached_property
    def drafts(self) -> frozenset[str]:
        """The studies of which the person has a draft."""
        person = self.request.get("person")
        return studies_with_drafts(self.datastore.store, str(person)) if person else frozenset()

    def has_begun(self, study: str) -> bool:
        """Returns whether the person has a draft of a case to go on with.

        A person who asks for another case (`except`) does not get back one that they have just left: they still claim it.
        """
        claim = self.claims.of(study) if self.request.get("except") else None
        return study in self.drafts and (claim is None or claim.id != self.request.get("person"))

    def is_own(self, study: str) -> bool:
        """Returns whether a case is the person's, by an assignment or because it was returned to the person."""
        person = Person(str(self.request.get("person_name") or ""), str(self.request.get("person") or ""))
        version, assignment = self.returned.get(study), self.assigned.get(study)
        return is_next_of(person, None if version is None else Return.of(version), assignment)

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
        recent = [entry for entry in assignments(info).values() if abs(now - entry["ts"]) < CLAIM_SECONDS]
        return bool(recent) and not any(client and entry.get("client_id") == client for entry in recent)


@dataclass(frozen=True)
class Return:
    """The return of a final version by a reviewer.

    Attributes:
        author: the author of the version; both fields are empty if unknown.
        at: when it was returned, ISO 8601, UTC.
    """

    author: Person
    at: str

    @classmethod
    def of(cls, version: Version) -> Return:
        """Returns the return of a returned version."""
        return cls(Person(version.author, version.author_id), version.returned.get("at", ""))


def is_next_of(person: Person, returned: Return | None, assignment: Assignment | None) -> bool:
    """Returns whether a case is a certain person's to work on: the assignee's, or the author's of a returned version.

    An assignment that was made before the return does not count: the version's author knows the case.

    Args:
        person: the person.
        returned: the return of the final version; None if it was not returned.
        assignment: the assignment of the case; None if there is none.
    """
    if assignment is not None and (returned is None or assignment.at > returned.at):
        return bool(person.name) and assignment.person == person.name
    if returned is None:
        return False
    if returned.author.id:
        return returned.author.id == person.id
    return bool(returned.author.name) and returned.author.name == person.name


def _return_of(version: Version) -> str:
    """Returns who returned a version, and the comment, as text."""
    return f"{version.returned.get('by') or 'a reviewer'}: {version.returned.get('comment', '')}"
