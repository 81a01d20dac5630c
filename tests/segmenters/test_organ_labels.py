"""Mapping of the labels of a team's own model to organs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.segmenters.organ_labels import OrganLabels, organ_labels

BTCV = {1: "spleen", 2: "Right Kidney", 3: "Left Kideny", 9: "IVC", 10: "Portal and Splenic Veins"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


def labels(folder: Path, names: dict[int, str] | None = None) -> OrganLabels:
    return organ_labels(folder, BTCV if names is None else names, folder / "metadata.json")


def test_label_names_are_recognised_like_segment_names(folder: Path) -> None:
    found = labels(folder)
    assert found.organs == {1: 1, 2: 2, 3: 3, 9: 9}
    assert found.left_out == ("Portal and Splenic Veins",)
    assert found.known_names() == ["spleen", "right_kidney", "left_kidney", "inferior_vena_cava"]


@pytest.mark.parametrize("place", ["model/organs.yaml", "model.organs.yaml"])
def test_organs_yaml_in_or_next_to_the_folder_takes_precedence_over_names(place: str, folder: Path) -> None:
    (folder.parent / place).write_text("1: liver\n'10': aorta\nleft kideny: left_kidney\n")
    found = labels(folder)
    assert found.organs == {1: 6, 10: 8, 3: 3}
    assert found.left_out == ("Right Kidney", "IVC")


def test_organs_yaml_replaces_missing_label_names(folder: Path) -> None:
    (folder / "organs.yaml").write_text("{2: spleen, 5: prostate_uterus, 6: prostate_uterus}")
    assert labels(folder, {}).known == [1, 15]


def test_a_model_without_any_requested_organ_raises_an_error() -> None:
    found = OrganLabels({3: 6, 0: 1})
    assert found.requested([14, 6], "bundle:own") == [6]
    with pytest.raises(InputError, match=r"bundle:own: segments none of these organs: bladder\. Choose from: spleen, liver"):
        found.requested([14], "bundle:own")


def test_label_values_become_organ_numbers_and_all_others_background() -> None:
    found = OrganLabels({3: 6, 0: 1}).translated(np.array([[[3, 0, -1, 7, 300]]]))
    assert found.dtype == np.uint8
    assert found.tolist() == [[[6, 1, 0, 0, 0]]]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1: [spleen]", r"organs\.yaml: is not a valid map of labels to organs: 1: .*string"),
        ("- spleen", "is not a valid map of labels to organs"),
        ("{1: spleen", "is not a valid map of labels to organs"),
        ("1: milt", r"names 'milt' for the label '1': no organ of the table\. Choose from: spleen, right_kidney"),
        ("7: spleen", r"names the label '7', which the model lacks\. metadata\.json has: '1 spleen', '2 Right Kidney'"),
        ("liver: liver", "names the label 'liver', which the model lacks"),
        ("", r"names no organ\. Write organs\.yaml into the folder, such as \{1: spleen, 2: right_kidney\}"),
    ],
)
def test_a_wrong_organs_yaml_is_refused_with_a_remedy(text: str, problem: str, folder: Path) -> None:
    (folder / "organs.yaml").write_text(text)
    with pytest.raises(InputError, match=problem):
        labels(folder)


def test_a_model_without_any_known_organ_is_refused_with_a_remedy(folder: Path) -> None:
    with pytest.raises(InputError, match=r"metadata\.json: names no organ of the organ table: 'tumour'\. Write organs\.yaml"):
        labels(folder, {1: "tumour"})
    with pytest.raises(InputError, match=r"metadata\.json: names no labels\. Write organs\.yaml"):
        labels(folder, {})
