"""Summarises the records of versions as the figures of a team; `docs/team-figures.md` defines them.

All figures are about the sign-offs of a period. Medians and means are over cases, so a case with many versions counts once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from statistics import fmean, median
from typing import Any

from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.storage import time_of
from medsam2_atlas.team.record import Record

_MAX_PAIRS = 200


def team_figures(records: Sequence[Record], days: int, now: datetime, only: str | None = None) -> dict[str, Any]:
    """Returns the figures of a period as JSON values.

    Args:
        records: the records; those outside of the period are ignored.
        days: length of the period in days; it ends with the present day in the time zone of `now`.
        now: the present time, with its zone.
        only: id (or else name) of a person; other people are then neither named nor counted separately. None names all.

    Returns:
        `total` (sign-offs, active time and agreement over all cases), `days`, `people`, `organs`, `trend`, `agreement`, and
        `agreement_unknown` (number of pairs of authors of a case for whom the records do not tell whether one worked from the
        other's label map).
    """
    first = (now - timedelta(days=days - 1)).date()
    dated = []
    for record in records:
        made = time_of(record.made)
        if made is not None and first <= (local := made.astimezone(now.tzinfo)).date() <= now.date():
            dated.append((local, record))
    dated.sort(key=lambda entry: entry[0])
    known = _known_organs(records)
    newest = {record.study: (made, _of_known(record, known)) for made, record in dated}  # the last one of a study
    inside = [record for _, record in dated]
    pairs, unknown = _agreement(inside, only)
    return {
        "total": _total(inside, pairs),
        "days": _days(dated, [first + timedelta(days=n) for n in range(days)], only),
        "people": _people(inside, only),
        "organs": _organs(inside, [record for _, record in newest.values()]),
        "trend": _trend(list(newest.values())),
        "agreement": pairs[:_MAX_PAIRS],
        "agreement_unknown": unknown,
    }


def _total(records: Sequence[Record], pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the number of cases, their median active time, and the median agreement of the pairs."""
    cases = _minutes(records)
    return {
        "signed_off": len({record.study for record in records}),
        "minutes": _rounded(median, cases, 1),
        "timed": len(cases),
        "agreement": _rounded(median, [pair["mean"] for pair in pairs], 4),
        "pairs": len(pairs),
    }


def _minutes(records: Iterable[Record]) -> list[float]:
    """Returns the active minutes of each case with a known time, summed over its records."""
    cases: dict[str, float] = {}
    for record in records:
        if record.seconds is not None:
            cases[record.study] = cases.get(record.study, 0) + record.seconds / 60
    return list(cases.values())


def _days(dated: Sequence[tuple[datetime, Record]], days: Iterable[Any], only: str | None) -> list[dict[str, Any]]:
    """Returns for each day the number of cases that were signed off, altogether and by person."""
    found: dict[Any, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for made, record in dated:
        found[made.date()][record.person].add(record.study)
    names = _names([record for _, record in dated])
    listed = []
    for day in days:
        people = {person: studies for person, studies in found.get(day, {}).items() if person}
        shown: dict[str, int] = defaultdict(int)  # two people may have the same name
        for person, studies in people.items():
            if only in (None, person):
                shown[names[person]] += len(studies)
        listed.append(
            {"day": day.isoformat(), "signed_off": len(set().union(*found.get(day, {}).values())), "people": dict(shown)}
        )
    return listed


def _people(records: Sequence[Record], only: str | None) -> list[dict[str, Any]]:
    """Returns sign-offs, active time and edits of each person, those with most sign-offs first."""
    names, grouped = _names(records), defaultdict[str, dict[str, list[Record]]](lambda: defaultdict(list))
    for record in records:
        if record.person and only in (None, record.person):
            grouped[record.person][record.study].append(record)
    found = []
    for person, cases in grouped.items():
        minutes = _minutes(one for case in cases.values() for one in case)
        edited = [sum(sum(one.edited_ml.values()) for one in case if one.edited_ml is not None) for case in cases.values()]
        known = [ml for ml, case in zip(edited, cases.values(), strict=True) if any(one.edited_ml is not None for one in case)]
        about = {"person": names[person], "signed_off": len(cases), "minutes": _rounded(median, minutes, 1)}
        found.append(about | {"timed": len(minutes), "edited_ml": _rounded(fmean, known, 1)})
    return sorted(found, key=lambda one: (-int(str(one["signed_off"])), str(one["person"])))


def _organs(records: Sequence[Record], newest: Sequence[Record]) -> list[dict[str, Any]]:
    """Returns time, edits and Dice of each organ."""
    found = []
    for organ in organ_table().organs:
        k = organ.index
        seconds = _sums(records, k, lambda record: record.organ_seconds)
        voxels = _sums(records, k, lambda record: record.edited_voxels)
        volumes = _sums(records, k, lambda record: record.edited_ml)
        models: dict[str, list[float]] = defaultdict(list)
        for record in newest:
            for model, dice in record.dice.items():
                if k in dice:
                    models[model].append(dice[k])
        values = [value for dices in models.values() for value in dices]
        if seconds or voxels or values:
            found.append(
                {
                    "organ": organ.name,
                    "minutes": _rounded(median, [one / 60 for one in seconds], 2),
                    "edited_ml": _rounded(fmean, volumes, 2),
                    "edited_voxels": _rounded(fmean, voxels, 0),
                    "cases": len(voxels),
                    "dice": _rounded(median, values, 4),
                    "models": {model: _rounded(median, dices, 4) for model, dices in sorted(models.items())},
                }
            )
    return found


def _sums(records: Sequence[Record], organ: int, values: Any) -> list[float]:
    """Returns the sum of an organ's values over the versions of each case that has some."""
    cases: dict[str, float] = {}
    for record in records:
        known: Mapping[int, float] | None = values(record)
        if known is not None and organ in known:
            cases[record.study] = cases.get(record.study, 0) + known[organ]
    return list(cases.values())


def _trend(newest: Sequence[tuple[datetime, Record]]) -> list[dict[str, Any]]:
    """Returns the Dice of each model by the week of the sign-off, named by its Monday."""
    grouped: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for made, record in newest:
        week = (made.date() - timedelta(days=made.weekday())).isoformat()
        for model, dice in record.dice.items():
            if dice:
                grouped[week, model].append(record)
    found = []
    for (week, model), records in sorted(grouped.items()):
        organs: dict[int, list[float]] = defaultdict(list)
        for record in records:
            for k, value in record.dice[model].items():
                organs[k].append(value)
        found.append(
            {
                "week": week,
                "model": model,
                "dice": {organ_table()[k].name: _rounded(median, values, 4) for k, values in sorted(organs.items())},
                "mean": _rounded(fmean, [fmean(record.dice[model].values()) for record in records], 4),
                "cases": len(records),
                "began_with_it": sum(record.first_start == model for record in records),
                "start_unknown": sum(record.first_start is None for record in records),
            }
        )
    return found


def _agreement(records: Sequence[Record], only: str | None) -> tuple[list[dict[str, Any]], int]:
    """Returns the newest agreement of each two people on each case, the newest first, and for how many it cannot be told."""
    found: dict[tuple[str, frozenset[str]], dict[str, Any]] = {}
    unknown = set[tuple[str, frozenset[str]]]()
    for record in records:
        for pair in record.pairs:
            other = pair.author_id or pair.author
            if not pair.dice or only not in (None, record.person, other):
                continue
            key = (record.study, frozenset((record.person, other)))
            found.pop(key, None)
            found[key] = {
                "study": record.study,
                "people": [pair.author, record.author],
                "dice": {organ_table()[k].name: value for k, value in sorted(pair.dice.items())},
                "mean": round(fmean(pair.dice.values()), 4),
                "same_start": pair.same_start,
            }
        people = (frozenset((record.person, other)) for other in record.untold)
        unknown |= {(record.study, both) for both in people if only is None or only in both}
    return list(reversed(found.values())), len(unknown - found.keys())


def _known_organs(records: Iterable[Record]) -> dict[str, set[int]]:
    """Returns the organs that each model has found in at least one case. A model may not segment the others at all."""
    found: dict[str, set[int]] = defaultdict(set)
    for record in records:
        for model, organs in record.predicted.items():
            found[model] |= {*organs}
    return found


def _of_known(record: Record, known: Mapping[str, set[int]]) -> Record:
    """Returns a record with the Dice of those organs only that the models know."""
    dice = {
        model: {k: value for k, value in values.items() if k in known.get(model, ())} for model, values in record.dice.items()
    }
    return replace(record, dice=dice)


def _names(records: Iterable[Record]) -> dict[str, str]:
    """Returns the last name of each person; empty on a server without logins."""
    return {record.person: record.author for record in records}


def _rounded(measure: Any, values: Sequence[float], digits: int) -> float | None:
    """Returns a mean or median; None without values."""
    return round(float(measure(values)), digits) if values else None
