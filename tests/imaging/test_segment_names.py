"""Organs are found by the names and codes of other programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.segment_names import listed, organ_coded, organ_named, organ_names


def test_every_organ_is_known_by_its_own_names() -> None:
    for organ in organ_table().organs:
        assert organ_named(organ.name) == organ_named(organ.display.upper()) == organ.index


@pytest.mark.parametrize(
    ("name", "organ"),
    [
        ("IVC", 9), ("inferior vena cava", 9), ("inferior_vena_cava", 9), ("Postcava", 9), ("left kidney", 3),
        ("kidney_left", 3), ("Kidney-Right", 2), ("gall bladder", 4), ("Gall-Bladder", 4), ("oesophagus", 5), ("esophagus", 5),
        ("right adrenal", 11), ("adrenal_gland_left", 12), ("bladder", 14), ("urinary_bladder", 14), ("prostate/uterus", 15),
        ("Prostate or uterus", 15), ("  LIVER ", 6), ("portal vein", 0), ("", 0), ("__", 0), ("kidney", 0),
    ],
)  # fmt: skip
def test_case_blanks_underscores_and_hyphens_of_names_are_ignored(name: str, organ: int) -> None:
    assert organ_named(name) == organ


def test_codes_of_paired_organs_need_a_side() -> None:
    assert organ_coded("SCT:64033007", ["7771000"]) == 3
    assert organ_coded("SCT:64033007", []) == 0
    assert organ_coded("SCT:10200004", ["24028007"]) == 6
    assert organ_coded("SCT:35039007", []) == 15
    assert organ_coded("", []) == organ_coded("liver", []) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: {liver: [spleen]}", "gives the name 'Spleen' to spleen and liver|gives the name 'spleen' to spleen and liver"),
        ("names: {liver: [a b], spleen: [A_B]}", "gives the name 'a b' to spleen and liver"),
        ("names: {heart: [cor]}", "has names for 'heart', which the organ table lacks"),
        ("names: {liver: [' _ ']}", "has an empty name for liver"),
        ("names: {liver: hepar}", "not a valid list of segment names: names.liver"),
        ("other: {}", "not a valid list of segment names"),
    ],
)
def test_an_ambiguous_list_of_names_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "names.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        organ_names(None, tmp_path / "names.yaml")


def test_long_lists_of_names_are_shortened() -> None:
    assert listed(["a", "b"]) == "'a', 'b'"
    assert listed(["x" * 99] * 40).endswith("… and 10 more")
