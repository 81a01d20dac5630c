"""The figures of a team, from records of versions."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from medsam2_atlas.team import Pair, Record, team_figures

NOW = datetime(2026, 11, 27, 12, 0, tzinfo=timezone.utc)
LIVER, SPLEEN = 6, 1


def record(study: str, number: int, author: str, day: str, **more: Any) -> Record:
    more.setdefault("predicted", {model: tuple(dice) for model, dice in more.get("dice", {}).items()})
    return Record(study, number, author, f"token:{author}", f"2026-11-{day}T09:00:00+00:00", **more)


def by(entries: list[dict[str, Any]], key: str, value: str) -> dict[str, Any]:
    (found,) = [entry for entry in entries if entry[key] == value]
    return found


def test_a_case_counts_once_for_each_day_and_person() -> None:
    records = [
        record("a", 1, "kim", "26"),
        record("a", 2, "kim", "26"),
        record("a", 3, "lee", "26"),
        record("b", 1, "kim", "27"),
        record("c", 1, "kim", "01"),
    ]
    found = team_figures(records, 2, NOW)
    assert found["days"] == [
        {"day": "2026-11-26", "signed_off": 1, "people": {"kim": 1, "lee": 1}},
        {"day": "2026-11-27", "signed_off": 1, "people": {"kim": 1}},
    ]
    assert [(one["person"], one["signed_off"]) for one in found["people"]] == [("kim", 2), ("lee", 1)]


def test_a_day_is_that_of_the_server() -> None:
    late = Record("a", 1, "kim", "", "2026-11-26T23:30:00+00:00")
    zone = timezone(timedelta(hours=2))
    (today,) = team_figures([late], 1, NOW.astimezone(zone))["days"]
    assert (today["day"], today["signed_off"]) == ("2026-11-27", 1)
    assert team_figures([late], 1, NOW)["days"][0]["signed_off"] == 0


def test_minutes_are_the_median_over_cases_with_a_known_time() -> None:
    records = [
        record("a", 1, "kim", "26", seconds=60.0, organ_seconds={LIVER: 30.0}),
        record("a", 2, "kim", "27", seconds=60.0),
        record("b", 1, "kim", "27", seconds=600.0, organ_seconds={LIVER: 90.0}),
        record("c", 1, "kim", "27", seconds=1200.0),
        record("d", 1, "kim", "27"),
    ]
    assert team_figures(records, 30, NOW)["total"] | {"agreement": 0} == {
        "signed_off": 4,
        "minutes": 10.0,
        "timed": 3,
        "agreement": 0,
        "pairs": 0,
    }
    found = team_figures(records, 30, NOW)
    (kim,) = found["people"]
    assert (kim["minutes"], kim["timed"], kim["signed_off"]) == (10.0, 3, 4)
    assert by(found["organs"], "organ", "liver")["minutes"] == 1.0


def test_the_minutes_of_an_organ_are_summed_over_the_versions_of_a_case() -> None:
    records = [
        record("a", n, who, "27", organ_seconds={LIVER: seconds})
        for n, who, seconds in ((1, "kim", 600.0), (2, "lee", 150.0), (3, "kim", 6.0))
    ]
    found = team_figures(records, 30, NOW)
    assert by(found["organs"], "organ", "liver")["minutes"] == 12.6


def test_the_totals_count_a_case_once_and_take_the_median_over_cases() -> None:
    records = [
        record("a", 1, "kim", "26", seconds=60.0),
        record("a", 2, "lee", "27", seconds=540.0),
        *(record(study, 1, "kim", "27", seconds=120.0) for study in "bcd"),
        record("e", 1, "max", "27", seconds=6000.0),
    ]
    for only in (None, "token:max"):
        total = team_figures(records, 30, NOW, only)["total"]
        assert (total["signed_off"], total["minutes"], total["timed"]) == (5, 2.0, 5)


def test_edits_are_summed_over_the_versions_of_a_case() -> None:
    edited = {"edited_voxels": {LIVER: 100, SPLEEN: 0}, "edited_ml": {LIVER: 0.8, SPLEEN: 0.0}}
    records = [record("a", n, "kim", "27", **edited) for n in (1, 2)] + [record("b", 1, "kim", "27", **edited)]
    records.append(record("c", 1, "kim", "27"))  # its start is unknown
    found = team_figures(records, 30, NOW)
    liver, spleen = (by(found["organs"], "organ", name) for name in ("liver", "spleen"))
    assert (liver["edited_voxels"], liver["edited_ml"], liver["cases"]) == (150, 1.2, 2)
    assert (spleen["edited_voxels"], spleen["dice"]) == (0, None)
    assert found["people"][0]["edited_ml"] == 1.2


def test_the_trend_has_the_newest_version_of_each_case_by_week_and_model() -> None:
    records = [
        record("a", 1, "kim", "16", dice={"atlas": {LIVER: 0.1}}),
        record("a", 2, "lee", "18", dice={"atlas": {LIVER: 0.8, SPLEEN: 0.6}}, start="final", first_start="atlas"),
        record("b", 1, "kim", "20", dice={"atlas": {LIVER: 0.9}, "unet_3d": {LIVER: 0.5}}, start="atlas", first_start="atlas"),
        record("c", 1, "kim", "23", dice={"atlas": {LIVER: 1.0}, "empty": {}}),
    ]
    found = team_figures(records, 30, NOW)["trend"]
    assert [(one["week"], one["model"], one["cases"], one["began_with_it"], one["start_unknown"]) for one in found] == [
        ("2026-11-16", "atlas", 2, 2, 0),
        ("2026-11-16", "unet_3d", 1, 0, 0),
        ("2026-11-23", "atlas", 1, 0, 1),
    ]
    assert found[0]["dice"] == {"spleen": 0.6, "liver": 0.85}
    assert found[0]["mean"] == 0.8
    liver = by(team_figures(records, 30, NOW)["organs"], "organ", "liver")
    assert (liver["dice"], liver["models"]) == (0.85, {"atlas": 0.9, "unet_3d": 0.5})


def test_an_organ_that_a_model_never_finds_does_not_count_for_it() -> None:
    dice = {"liver_only": {LIVER: 0.9, SPLEEN: 0.0}, "atlas": {LIVER: 0.8, SPLEEN: 0.0}}
    records = [
        record("a", 1, "kim", "26", dice=dice, predicted={"liver_only": (LIVER,), "atlas": (LIVER,)}),
        record("b", 1, "kim", "26", dice={"atlas": {LIVER: 0.8, SPLEEN: 0.5}}),
    ]
    found = {one["model"]: (one["dice"], one["mean"]) for one in team_figures(records, 30, NOW)["trend"]}
    assert found == {"liver_only": ({"liver": 0.9}, 0.9), "atlas": ({"spleen": 0.25, "liver": 0.8}, 0.525)}


def test_the_newest_agreement_of_two_people_is_given_for_each_case() -> None:
    def pair(value: float) -> dict[str, Any]:
        return {"pairs": (Pair("kim", "token:kim", 1, False, {LIVER: value, SPLEEN: 0.5}),)}

    records = [record("a", 2, "lee", "20", **pair(0.1)), record("a", 3, "lee", "21", **pair(0.9)), record("b", 2, "max", "22")]
    records.append(record("c", 2, "max", "23", untold=("token:kim",)))
    found = team_figures(records, 30, NOW)
    assert found["agreement"] == [
        {"study": "a", "people": ["kim", "lee"], "dice": {"spleen": 0.5, "liver": 0.9}, "mean": 0.7, "same_start": False}
    ]
    assert found["agreement_unknown"] == 1
    assert (found["total"]["agreement"], found["total"]["pairs"]) == (0.7, 1)


def test_agreement_that_cannot_be_told_is_counted_once_for_two_people_and_for_one_person_only_their_own() -> None:
    records = [
        record("a", 2, "lee", "20", untold=("token:kim",)),
        record("a", 3, "lee", "21", untold=("token:kim",)),
        record("a", 4, "max", "22", untold=("token:kim", "token:lee")),
    ]
    found = [
        team_figures(records, 30, NOW, only)["agreement_unknown"] for only in (None, "token:kim", "token:max", "token:ann")
    ]
    assert found == [3, 2, 2, 0]
    records.append(record("a", 5, "kim", "23", pairs=(Pair("lee", "token:lee", 3, False, {LIVER: 0.9}),)))
    assert team_figures(records, 30, NOW)["agreement_unknown"] == 2


def test_figures_for_one_person_name_nobody_else() -> None:
    records = [
        record("a", 1, "kim", "26", seconds=60.0),
        record("a", 2, "lee", "27", seconds=90.0, pairs=(Pair("kim", "token:kim", 1, False, {LIVER: 0.9}),)),
        record("b", 2, "lee", "27", pairs=(Pair("max", "token:max", 1, False, {LIVER: 0.9}),)),
    ]
    found = team_figures(records, 2, NOW, only="token:kim")
    assert [one["person"] for one in found["people"]] == ["kim"]
    assert [(day["signed_off"], day["people"]) for day in found["days"]] == [(1, {"kim": 1}), (2, {})]
    assert [one["study"] for one in found["agreement"]] == ["a"]
    assert "max" not in str(found)
    assert found["total"]["pairs"] == 1


def test_nothing_is_known_without_records() -> None:
    found = team_figures([], 3, NOW)
    assert [day["signed_off"] for day in found["days"]] == [0, 0, 0]
    assert [found[key] for key in ("people", "organs", "trend", "agreement", "agreement_unknown")] == [[], [], [], [], 0]


@pytest.mark.parametrize("count", [10_000])
def test_thousands_of_records_are_summarised_within_seconds(count: int) -> None:
    dice = {"atlas": dict.fromkeys(range(1, 16), 0.9), "unet_3d": dict.fromkeys(range(1, 16), 0.8)}
    edits = {"edited_voxels": dict.fromkeys(range(1, 16), 5), "edited_ml": dict.fromkeys(range(1, 16), 0.1)}
    records = [record(f"s{n}", 1, f"p{n % 7}", f"{1 + n % 27:02d}", dice=dice, **edits) for n in range(count)]
    began = time.process_time()
    assert sum(one["signed_off"] for one in team_figures(records, 30, NOW)["people"]) == count
    assert time.process_time() - began < 20
