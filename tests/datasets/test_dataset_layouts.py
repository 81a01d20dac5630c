"""Layouts map the values and masks of data sets to the organ table, and refuse settings that cannot be right."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.resource import resource
from medsam2_atlas.datasets import layout_names, read_layout
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.segment_names import organ_named

ALL = {organ.name for organ in organ_table().organs}
NOT_ANNOTATED = {
    "amos": set(),
    "btcv": {"duodenum", "bladder", "prostate_uterus"},
    "flare22": {"bladder", "prostate_uterus"},
    "word": {"aorta", "inferior_vena_cava", "right_adrenal_gland", "left_adrenal_gland", "prostate_uterus"},
    "totalsegmentator": {"prostate_uterus"},
    "totalsegmentator_labels": {"prostate_uterus"},
}
GOOD = {"title": "Own", "images": ["images/{case}"], "labels": ["labels/{case}"], "values": {1: "liver", 2: "spleen"}}


def own(folder: Path, **changes: object) -> str:
    file = folder / "own.yaml"
    file.write_text(yaml.safe_dump(GOOD | changes), encoding="utf-8")
    return str(file)


def test_every_layout_of_the_project_is_tested() -> None:
    assert layout_names() == sorted(NOT_ANNOTATED)


@pytest.mark.parametrize("name", sorted(NOT_ANNOTATED))
def test_a_layout_annotates_the_organs_of_its_publication(name: str) -> None:
    short, layout = read_layout(name)
    assert short == name
    assert {organ_table()[k].name for k in layout.annotated} == ALL - NOT_ANNOTATED[name]
    assert layout.source and layout.licence


@pytest.mark.parametrize("name", sorted(NOT_ANNOTATED))
def test_each_layout_says_what_was_not_verified(name: str) -> None:
    text = (resource("configs/datasets") / f"{name}.yaml").read_text(encoding="utf-8")
    assert "Not verified: " in text.replace("\n# ", " ")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("btcv", "spleen, right kidney, left kidney, gallbladder, esophagus, liver, stomach, aorta, inferior vena cava, -, "
         "pancreas, right adrenal gland, left adrenal gland"),
        ("flare22", "liver, right kidney, spleen, pancreas, aorta, inferior vena cava, right adrenal gland, "
         "left adrenal gland, gallbladder, esophagus, stomach, duodenum, left kidney"),
        ("word", "liver, spleen, left kidney, right kidney, stomach, gallbladder, esophagus, pancreas, duodenum, -, -, -, -, "
         "bladder, -, -"),
    ],
)  # fmt: skip
def test_values_stand_for_the_organs_of_the_publication(name: str, values: str) -> None:
    _, layout = read_layout(name)
    expected = dict(enumerate(values.split(", "), start=1))
    assert layout.values == {k: text.replace(" ", "_") for k, text in expected.items() if text != "-"}
    assert layout.ignored_values == {k for k, text in expected.items() if text == "-"}


def test_amos_has_the_numbers_of_the_organ_table() -> None:
    _, layout = read_layout("amos")
    assert layout.values == {organ.index: organ.name for organ in organ_table().organs}


def test_the_published_split_has_15_references_and_30_other_targets() -> None:
    split = read_layout("amos")[1].split
    assert split is not None
    assert (len({*split.references}), len({*split.targets})) == (15, 30)
    assert not {*split.references} & {*split.targets}
    assert split.references[0] == "amos_0036" and split.targets[-1] == "amos_0409"


def test_names_of_masks_are_synonyms_of_their_organ() -> None:
    _, layout = read_layout("totalsegmentator")
    for organ, names in layout.mask_names.items():
        assert {organ_table()[organ_named(name)].name for name in names} == {organ}


def test_every_value_of_totalsegmentator_is_mapped_or_ignored() -> None:
    _, layout = read_layout("totalsegmentator_labels")
    assert {*layout.values} | layout.ignored_values == {*range(1, 118)}
    assert (layout.values[7], layout.values[52]) == ("pancreas", "aorta")


def test_a_users_own_file_is_a_layout(tmp_path: Path) -> None:
    name, layout = read_layout(own(tmp_path, ignored=[3, "10-12"]))
    assert (name, layout.annotated, layout.ignored_values) == ("own", (1, 6), {3, 10, 11, 12})


def test_an_unknown_layout_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"is not a layout\. Choose from amos, btcv, flare22"):
        read_layout("../datasets/amos")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"values": {1: "lung"}}, "lung is not in configs/labels.yaml"),
        ({"values": {256: "liver"}}, "numbers from 1 to 255"),
        ({"ignored": [2]}, "either mapped or ignored"),
        ({"ignored": ["9-3"]}, "'9-3' is neither a value"),
        ({"images": ["../{case}"]}, "leads out of the folder"),
        ({"roots": ["/etc"]}, "leads out of the folder"),
        ({"images": ["images/ct"]}, "has no {case}"),
        ({"values": {}}, "labels need values"),
        ({"masks": "{case}/{organ}"}, "give either labels with values, or masks"),
        ({"partial": ["aorta"]}, "aorta is partial, but not mapped"),
        ({"organ": "liver"}, "organ: Extra inputs"),
        ({"labels": [], "values": {}, "masks": "{case}/masks", "mask_names": {"liver": ["liver"]}}, "needs one {organ}"),
        ({"labels": [], "values": {}, "masks": "{case}/{organ}", "mask_names": {"liver": ["a"], "spleen": ["a"]}}, "own"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(tmp_path: Path, changes: dict[str, object], problem: str) -> None:
    with pytest.raises(InputError) as raised:
        read_layout(own(tmp_path, **changes))
    assert problem in str(raised.value) and "own.yaml" in str(raised.value)


def test_only_settings_that_change_the_content_of_cases_change_the_checksum(tmp_path: Path) -> None:
    first = read_layout(own(tmp_path))[1].sha256
    assert read_layout(own(tmp_path, title="Other", split={"references": ["a"], "targets": ["b"]}))[1].sha256 == first
    assert read_layout(own(tmp_path, values={1: "spleen", 2: "liver"}))[1].sha256 != first
