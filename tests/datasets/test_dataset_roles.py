"""References and targets are the published ones, the user's, or all cases; never one case in both roles."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.datasets.finding import CaseFiles, Listing
from medsam2_atlas.datasets.layout import Layout, read_layout
from medsam2_atlas.datasets.roles import Choice, plan_roles

AMOS, BTCV = read_layout("amos")[1], read_layout("btcv")[1]
SPLIT = AMOS.split
assert SPLIT is not None
HERE = Path("data")


def listing(*names: str) -> Listing:
    return Listing({name: CaseFiles(name, Path(name), ((0, Path(name)),)) for name in names})


def roles(layout: Layout, found: Listing, choice: Choice) -> dict[str, list[str]]:
    plan = plan_roles(layout, found, choice, HERE)
    return {role: [case.name for r, case in plan.cases if r == role] for role in ("reference", "target")}


def test_the_published_split_is_the_default() -> None:
    found = roles(AMOS, listing("amos_0001", *SPLIT.references, *SPLIT.targets), Choice())
    assert found == {"reference": sorted(SPLIT.references), "target": sorted(SPLIT.targets)}


def test_a_layout_without_a_split_makes_targets_of_all_cases() -> None:
    assert roles(BTCV, listing("b", "a"), Choice()) == {"reference": [], "target": ["a", "b"]}
    assert roles(BTCV, listing("b", "a", "c"), Choice(references=("b",))) == {"reference": ["b"], "target": ["a", "c"]}


def test_each_option_replaces_its_part_of_the_split() -> None:
    found = listing("amos_0001", "amos_0002", *SPLIT.references, *SPLIT.targets)
    assert roles(AMOS, found, Choice(targets=("amos_0001",))) == {
        "reference": sorted(SPLIT.references),
        "target": ["amos_0001"],
    }
    assert roles(AMOS, found, Choice(("amos_0002",), ("amos_0001",))) == {"reference": ["amos_0002"], "target": ["amos_0001"]}


def test_all_cases_become_targets_but_those_named_as_references() -> None:
    found = listing("amos_0001", "amos_0036")
    assert roles(AMOS, found, Choice(all_cases=True)) == {"reference": [], "target": ["amos_0001", "amos_0036"]}
    assert roles(AMOS, found, Choice(("amos_0001",), all_cases=True)) == {"reference": ["amos_0001"], "target": ["amos_0036"]}
    with pytest.raises(InputError, match="cannot be combined with --targets"):
        roles(AMOS, found, Choice(targets=("amos_0001",), all_cases=True))


def test_a_case_that_is_named_in_both_roles_is_refused() -> None:
    with pytest.raises(InputError, match="amos_0001: would be a reference and a target at once"):
        roles(AMOS, listing("amos_0001", "amos_0002"), Choice(("amos_0001", "amos_0002"), ("amos_0001",)))


def test_all_missing_cases_are_listed_with_their_reasons() -> None:
    found = listing("a")
    found.problems["b"] = "has several images: x, y. Keep one of them."
    found.unlabelled.append("c")
    found.excluded.append("amos_0507")
    choice = Choice((), ("a", "b", "c", "d", "amos_0507"))
    with pytest.raises(InputError) as raised:
        plan_roles(AMOS, found, choice, HERE)
    assert raised.value.problem == (
        "lacks 4 of 5 cases: amos_0507 is an MRI; b has several images: x, y. Keep one of them; c has no label map; "
        "d is not in the folder."
    )
    plan = plan_roles(AMOS, found, Choice((), choice.targets, partial=True), HERE)
    assert [case.name for _, case in plan.cases] == ["a"]
    assert {*plan.left_out} == {"amos_0507", "b", "c", "d"}


def test_problems_of_cases_that_nobody_named_are_reported_only_if_all_cases_are_wanted() -> None:
    found = listing("amos_0001", "amos_0002")
    found.problems["amos_0009"] = "lacks an image."
    assert plan_roles(AMOS, found, Choice(("amos_0001",), ("amos_0002",)), HERE).left_out == {}
    assert plan_roles(AMOS, found, Choice(all_cases=True), HERE).left_out == {"amos_0009": "lacks an image."}


def test_a_download_without_any_usable_case_is_refused() -> None:
    found = listing()
    found.problems["x"] = "has several images."
    with pytest.raises(InputError, match=r"no annotated CT that can be used\. x has several images"):
        plan_roles(BTCV, found, Choice(), HERE)
