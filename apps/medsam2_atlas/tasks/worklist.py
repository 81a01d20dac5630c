"""The worklist: all cases of the team, filtered, sorted and in pages, for one person.

The states of cases come from `CaseTable`, which keeps them in memory. Claims, assignments and drafts are read for each request,
because they change all the time and concern few cases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from datastores.case_claims import Claim
from datastores.folder_datastore import FolderDatastore
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.storage import Assignment, Person, same_person, time_of
from tasks.case_states import NEW, PREDICTED, PROBLEM, RETURNED, SIGNED_OFF, WAITS, CaseState, ohif_path
from tasks.next_case import Return, is_next_of

IN_WORK = "in work"
STATES = (NEW, PREDICTED, IN_WORK, WAITS, RETURNED, SIGNED_OFF, PROBLEM)
"""All states of a case, in the order in which a list sorted by state shows them."""
_WEEK = timedelta(days=7)


class Asking(Protocol):
    """The person who asks for the worklist."""

    @property
    def name(self) -> str:
        """The name; empty on a server without logins."""
        ...

    @property
    def id(self) -> str:
        """The unique id."""
        ...

    def may(self, role: str) -> bool:
        """Returns whether the person has the rights of a role."""
        ...


@dataclass(frozen=True)
class Work:
    """What people do at the moment.

    Attributes:
        opened: people who have a case open, by study.
        assigned: assignments of cases to people, by study.
        drafts: studies of which somebody has a draft.
        begun: studies of which the person who asks has a draft.
    """

    opened: Mapping[str, Sequence[Claim]] = field(default_factory=dict)
    assigned: Mapping[str, Assignment] = field(default_factory=dict)
    drafts: frozenset[str] = frozenset()
    begun: frozenset[str] = frozenset()

    @classmethod
    def of(cls, datastore: StudyDatastore, drafts: frozenset[str], begun: frozenset[str]) -> Work:
        """Returns what people do on the studies of a datastore; see the attributes."""
        claims = datastore.claims.all()
        opened = {study: claims.opened(study) for study in claims.studies()}
        return cls(opened, datastore.store.assignments.all(), drafts, begun)

    def claim(self, study: str) -> Claim | None:
        """Returns the claim of the person who works on a case; None if nobody does."""
        return next((one for one in self.opened.get(study, ()) if one.claims), None)


@dataclass(frozen=True)
class Query:
    """Which cases a person asks for.

    Attributes:
        states: their states; empty for all.
        person: their author, assignee or claimer; empty for all.
        organ: an organ that has to be checked; empty for all.
        model: a model that has predicted them; empty for all.
        text: words in patient, description, date or study, without regard to case; empty for all.
        sort: one of `SORTS`.
        down: whether to sort in descending order; `priority` has one order only.
        page: number of the page, from 1.
        size: number of cases of a page.
    """

    states: frozenset[str] = frozenset()
    person: str = ""
    organ: str = ""
    model: str = ""
    text: str = ""
    sort: str = "priority"
    down: bool = False
    page: int = 1
    size: int = 50


@dataclass(frozen=True)
class Case:
    """A case as one person sees it.

    Attributes:
        about: its state.
        state: one of `STATES`.
        claim: the claim of the person who works on it.
        assigned: name of the person it is assigned to; empty if it is not.
        mine: whether the person works on it, has unsaved work on it that nobody else goes on with, or it is assigned to them.
        begun: whether the person has such unsaved work.
        returned_to_me: whether it was returned to the person.
    """

    about: CaseState
    state: str
    claim: Claim | None
    assigned: str
    mine: bool
    begun: bool
    returned_to_me: bool

    @property
    def people(self) -> set[str]:
        """The names of its author, assignee and claimer."""
        return {self.about.by, self.assigned, self.claim.person if self.claim else ""} - {""}

    def matches(self, query: Query) -> bool:
        """Returns whether a query asks for the case."""
        about = self.about
        return (
            (not query.states or self.state in query.states)
            and (not query.person or query.person in self.people)
            and (not query.organ or any(organ == query.organ for organ, _ in about.check))
            and (not query.model or query.model in about.models)
            and all(word in about.text for word in query.text.casefold().split())
        )


SORTS: dict[str, Callable[[Case], Any]] = {
    "patient": lambda case: case.about.patient.casefold(),
    "date": lambda case: case.about.date or None,
    "state": lambda case: STATES.index(case.state),
    "confidence": lambda case: case.about.confidence,
    "disagreement": lambda case: case.about.disagreement,
    "time": lambda case: (case.about.made or case.about.predicted) or None,
    "author": lambda case: case.about.by.casefold() or None,
}
"""The values to sort by; cases without one (None) come last in either order. `priority` is another order, see `_urgency`."""


class Worklist:
    """The worklist of a server."""

    def __init__(
        self,
        datastore: StudyDatastore,
        states: Callable[[], Mapping[str, CaseState]],
        drafts: Callable[[str | None], frozenset[str]] = lambda _: frozenset(),
    ) -> None:
        """Connects the parts; reads nothing yet.

        Args:
            datastore: the studies.
            states: returns the states of all cases.
            drafts: returns the studies of which the person with an id has a draft; if it is None, anybody.
        """
        self._datastore, self._states, self._drafts = datastore, states, drafts

    def page(self, query: Query, person: Asking) -> dict[str, Any]:
        """Returns a page of cases, and the counts and names of all cases; `server.worklist` describes them.

        Args:
            query: which cases, in which order. A page after the last one becomes the last one.
            person: the person who asks.
        """
        work = self._work(person)
        cases = [self._case(about, work, person) for about in self._states().values()]
        found = _sorted([case for case in cases if case.matches(query)], query, person)
        pages = max(1, -(-len(found) // query.size))
        page = min(query.page, pages)
        shown = found[(page - 1) * query.size : page * query.size]
        return {
            "total": len(found),
            "page": page,
            "pages": pages,
            "size": query.size,
            "counts": _counts(cases),
            "people": sorted({name for case in cases for name in case.people}, key=str.casefold),
            "models": sorted({model for case in cases for model in case.about.models}),
            "organs": sorted({organ for case in cases for organ, _ in case.about.check}),
            "rows": [self._row(case, work, person) for case in shown],
        }

    def counts(self, person: Asking) -> dict[str, Any]:
        """Returns the number of all cases (`total`), by state (`counts`), and of those `signed off` today and in seven days."""
        work = self._work(person)
        cases = [self._case(about, work, person) for about in self._states().values()]
        now = datetime.now().astimezone()
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        done = [time for case in cases if case.state == SIGNED_OFF and (time := time_of(case.about.done)) is not None]
        return {
            "total": len(cases),
            "counts": _counts(cases),
            "today": sum(time >= midnight for time in done),
            "week": sum(time >= now - _WEEK for time in done),
        }

    def _work(self, person: Asking) -> Work:
        return Work.of(self._datastore, self._drafts(None), self._drafts(person.id))

    def _case(self, about: CaseState, work: Work, person: Asking) -> Case:
        study = about.study
        claim, assignment, returned = work.claim(study), work.assigned.get(study), _returned(about)
        is_next = is_next_of(Person(person.name, person.id), returned, assignment)
        assigned = assignment.person if assignment else ""
        free = (claim is None or claim.id == person.id) and (assignment is None or is_next)
        begun = free and study in work.begun
        mine = begun or (claim is not None and claim.id == person.id) or (is_next and assigned == person.name)
        busy = about.state in (NEW, PREDICTED) and (study in work.opened or study in work.drafts)
        returned_to_me = returned is not None and is_next
        return Case(about, IN_WORK if busy else about.state, claim, assigned, mine, begun, returned_to_me)

    def _row(self, case: Case, work: Work, person: Asking) -> dict[str, Any]:
        about, returned = case.about, case.about.returned
        return {
            "study": about.study,
            "patient": about.patient,
            "date": about.date,
            "description": about.description,
            "state": case.state,
            "models": list(about.models),
            "model": about.models[0] if about.models else None,
            "author": about.by,
            "time": about.made or about.predicted,
            "version": about.version,
            "accepted": about.accepted,
            "confidence": about.confidence,
            "disagreement": about.disagreement,
            "uncertainty": about.uncertainty,
            "novelty": about.novelty,
            "check": [list(entry) for entry in about.check],
            "checks": len(about.check),
            "look_first": [list(entry) for entry in about.look_first],
            "problem": about.problem,
            "why": about.why,
            "assigned": case.assigned,
            "claimed": case.claim.as_dict() if case.claim else None,
            "mine": case.mine,
            "opened": [one.person for one in work.opened.get(about.study, ()) if one.person],
            "comment": {"by": returned.get("by", ""), "time": returned.get("at", ""), "text": returned.get("comment", "")}
            if returned
            else None,
            "viewer": self._viewer(about),
            "tag": about.tag,
            "action": _action(case, person),
        }

    def _viewer(self, about: CaseState) -> str:
        """Returns the path of a case in OHIF; as `viewer_path`, but asks neither the index nor the PACS."""
        if isinstance(self._datastore, FolderDatastore):
            return ohif_path(self._datastore.instances.uids(about.study)[0]) if about.here else ""
        return ohif_path(about.study_uid, about.study) if about.study_uid else ""


def _returned(about: CaseState) -> Return | None:
    return Return(Person(about.by, about.by_id), about.returned.get("at", "")) if about.state == RETURNED else None


def _action(case: Case, person: Asking) -> str:
    """Returns what a person can do with a case next."""
    about = case.about
    if case.state == WAITS:
        own = same_person(Person(person.name, person.id), about.drawer or Person(about.by, about.by_id))
        return "review" if person.may("reviewer") and not own else "view"
    if case.state in (NEW, PREDICTED, IN_WORK):
        return "correct" if about.models else "segment"
    return {PROBLEM: "fix", RETURNED: "correct", SIGNED_OFF: "view"}[case.state]


def _sorted(cases: list[Case], query: Query, person: Asking) -> list[Case]:
    if query.sort not in SORTS:
        return sorted(cases, key=lambda case: _urgency(case, person))
    value = SORTS[query.sort]
    known = [(found, case) for case in cases if (found := value(case)) is not None]
    rest = [case for case in cases if value(case) is None]
    # `rest` and cases of equal value stay in the order of their names.
    return [case for _, case in sorted(known, key=lambda pair: pair[0], reverse=query.down)] + rest


def _urgency(case: Case, person: Asking) -> tuple[int, float, str]:
    """Returns the place of a case in the order of priority.

    First cases that were returned to the person, then those with unsaved work of the person, then others that are theirs. Then
    cases that the person can review; then cases with a problem. Then free cases by descending disagreement, then those of
    others, then those that are done.
    """
    others = case.claim is not None or bool(case.assigned) or case.state == IN_WORK
    if case.returned_to_me:
        group = 0
    elif case.mine and case.state not in (WAITS, SIGNED_OFF):
        group = 1 if case.begun else 2
    elif case.state == WAITS:
        group = 3 if _action(case, person) == "review" else 7
    elif case.state == PROBLEM:
        group = 4
    elif case.state == SIGNED_OFF:
        group = 8
    else:
        group = 6 if others else 5
    return group, -(case.about.disagreement or 0.0), case.about.study


def _counts(cases: list[Case]) -> dict[str, int]:
    counts = Counter(case.state for case in cases)
    return {state: counts[state] for state in STATES}
