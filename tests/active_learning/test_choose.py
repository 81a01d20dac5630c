"""The choice of the next case, and the table of measures."""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from medsam2_atlas.active_learning import Assessment, Row, ScoreTable, choose
from medsam2_atlas.base.database import writing

VERSIONS = {"atlas": "a1", "unet": "u1"}


def row(study: str, versions: dict[str, str] | None = None, **values: float) -> Row:
    return Row(study, "stamp", versions or VERSIONS, "2030-01-01", values, dict.fromkeys(values, f"because of {study}"))


ROWS = {
    "a": row("a", disagreement=0.2, uncertainty=0.9, novelty=0.1),
    "b": row("b", disagreement=0.7, uncertainty=0.3, novelty=0.2),
    "c": row("c", uncertainty=0.5, novelty=0.6),
}


@pytest.mark.parametrize(("strategy", "study"), [("disagreement", "b"), ("uncertainty", "a"), ("novelty", "c"), ("first", "a")])
def test_each_strategy_chooses_its_highest_measure_and_gives_the_reason(strategy: str, study: str) -> None:
    choice = choose(strategy, ["c", "b", "a"], ROWS, versions=VERSIONS)
    assert choice is not None
    assert choice.study == study
    if strategy != "first":
        assert f"highest {strategy}" in choice.why
        assert f"because of {study}" in choice.why
        assert "last changed" not in choice.why


def test_signed_off_cases_are_never_chosen() -> None:
    choice = choose("disagreement", ["a", "c"], ROWS)
    assert choice is not None
    assert choice.study == "a"
    assert "; 1 case is not measured yet" in choice.why
    assert choose("disagreement", [], ROWS) is None


def test_a_case_that_cannot_be_measured_is_not_called_unmeasured() -> None:
    broken = replace(row("d"), problem="is a broken gzip file.")
    choice = choose("disagreement", ["a", "b", "d"], {**ROWS, "d": broken})
    assert choice is not None
    assert (choice.study, "measured yet" in choice.why) == ("b", False)


def test_old_measures_are_used_until_there_are_new_ones_and_the_reason_states_this() -> None:
    choice = choose("novelty", ["a", "b", "c"], ROWS, versions={"atlas": "a2", "unet": "u1"})
    assert choice is not None
    assert (choice.study, "last change" in choice.why) == ("c", True)


def test_two_annotators_get_different_cases() -> None:
    choice = choose("disagreement", ["a", "b"], ROWS, assigned=lambda study: study == "b")
    assert choice is not None
    assert choice.study == "a"
    assert "highest free" in choice.why
    only = choose("disagreement", ["b"], ROWS, assigned=lambda _: True)
    assert only is not None
    assert only.study == "b"
    assert only.why.startswith("disagreement (0.70): "), "one case has no rank"


def test_an_unmeasured_case_is_chosen_before_a_measured_one_of_another_annotator() -> None:
    measured = {"a": ROWS["a"], "b": ROWS["b"]}
    choice = choose("disagreement", ["a", "b", "x", "y"], measured, assigned=lambda study: study in "abx")
    assert choice is not None
    assert (choice.study, choice.weight) == ("y", 0.0)
    assert "other people have the measured ones" in choice.why
    broken = {"a": ROWS["a"], "d": replace(row("d"), problem="is a broken gzip file.")}
    taken = choose("disagreement", ["a", "d"], broken, assigned=lambda study: study == "a")
    assert taken is not None
    assert taken.study == "a", "a CT that cannot be read is not offered instead"
    assert "of 1 measured case:" in taken.why


def test_without_measures_the_first_case_is_chosen_and_the_reason_names_the_problem() -> None:
    problem = Row("a", "stamp", {}, "", {}, {}, "a.nii.gz: cannot be read")
    choice = choose("uncertainty", ["b", "a"], {"a": problem})
    assert choice is not None
    assert (choice.study, choice.weight) == ("b", 0.0), "a CT that cannot be read is not opened first"
    assert "cannot be read" in choice.why
    left = choose("uncertainty", ["a"], {"a": problem})
    assert left is not None
    assert left.study == "a"


def test_the_random_choice_is_uniform() -> None:
    generator = np.random.default_rng(3)
    drawn = [choose("random", ["a", "b", "c"], {}, generator=generator) for _ in range(300)]
    counts = [sum(c is not None and c.study == study for c in drawn) for study in "abc"]
    assert min(counts) > 70


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ValueError, match="disagreement"):
        choose("best", ["a"], {})


def put_many(file: Path, prefix: str) -> None:
    table = ScoreTable(file)
    for n in range(50):
        table.put(f"{prefix}{n}", "stamp", VERSIONS, Assessment({"novelty": n / 50}, {"novelty": "far"}))


def test_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(partial(put_many, tmp_path / "t.sqlite"), ["x", "y"]))
    rows = ScoreTable(tmp_path / "t.sqlite").rows()
    assert len(rows) == 100
    assert rows["y7"].values == {"novelty": 0.14}
    assert rows["y7"].versions == VERSIONS


def test_a_new_measure_replaces_the_old_one(tmp_path: Path) -> None:
    table = ScoreTable(tmp_path / "t.sqlite")
    table.put("a", "s1", VERSIONS, None, "broken")
    table.put("a", "s2", VERSIONS, Assessment({"novelty": 0.5}, {"novelty": "far"}))
    found = table.rows()["a"]
    assert (found.image, found.values, found.problem) == ("s2", {"novelty": 0.5}, "")


def test_thousands_of_cases_are_ranked_at_once(tmp_path: Path) -> None:
    table = ScoreTable(tmp_path / "t.sqlite")
    generator = np.random.default_rng(0)
    with writing(table._file) as database:
        rows = [(f"case-{n}", "s", '{"atlas": "a"}', "", f'{{"novelty": {generator.random()}}}', "{}", "") for n in range(5000)]
        database.executemany("INSERT INTO measures VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    began = time.perf_counter()
    choice = choose("novelty", [r[0] for r in rows], table.rows())
    assert choice is not None
    assert choice.weight > 0.99
    assert time.perf_counter() - began < 3  # it takes about 50 ms; reading files or a registration would take far longer
