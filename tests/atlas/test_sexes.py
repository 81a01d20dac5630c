"""The sex of a reference is given by a file or guessed from its label map, in old atlases too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from blocks import PATIENT, QUICK, labelled
from medsam2_atlas.atlas import Atlas, BuildOptions, build_atlas, find_references, guessed_sex, read_sexes
from medsam2_atlas.atlas.reading import AnnotatedCT, PackedLabels
from medsam2_atlas.atlas.warp import warp_reference
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.demo.phantoms import draw_case
from medsam2_atlas.imaging.cropped_map import CroppedMap
from medsam2_atlas.imaging.volume import read_volume
from medsam2_atlas.registration import Affine, Transform, WorkImage

BLADDER = (slice(5, 10), slice(8, 14), slice(17, 24))
PROSTATE, UTERUS = (slice(2, 5), slice(9, 13), slice(18, 23)), (slice(9, 13), slice(15, 19), slice(17, 24))
MAN, WOMAN = PATIENT | {14: BLADDER, 15: PROSTATE}, PATIENT | {14: BLADDER, 15: UTERUS}


def shares_of(labels: np.ndarray) -> dict[int, CroppedMap]:
    return {k: CroppedMap(((labels == k) * 255).astype(np.uint8), (0, 0, 0)) for k in (14, 15)}


def ball(z: float) -> np.ndarray:
    grid = np.indices((40, 30, 30))
    inside: np.ndarray = ((grid - np.array([z, 15, 15]).reshape(3, 1, 1, 1)) ** 2).sum(0) <= 36
    return inside


def test_the_sex_of_generated_patients_is_guessed_from_their_label_maps() -> None:
    sexes = set()
    for number in range(8):
        case = draw_case(31, number, 6.0)
        if {14, 15} <= set(np.unique(case.label)):  # the scan shows both
            assert guessed_sex(shares_of(case.label)) == case.patient.sex
            sexes.add(case.patient.sex)
    assert sexes == {"female", "male"}


def test_an_ambiguous_position_and_a_missing_organ_give_no_sex() -> None:
    labels = np.zeros((40, 30, 30), np.uint8)
    labels[ball(20)] = 14
    assert guessed_sex(shares_of(labels)) is None  # no prostate or uterus
    beside = {14: shares_of(labels)[14], 15: CroppedMap((ball(19) * 255).astype(np.uint8), (0, 0, 0))}
    assert guessed_sex(beside) is None  # centred at the bladder's lower end
    assert guessed_sex({15: beside[15]}) is None  # no bladder


def test_a_file_gives_the_sexes_of_references(tmp_path: Path) -> None:
    assert read_sexes(tmp_path / "sexes.csv", ["a"]) == {}
    (tmp_path / "sexes.csv").write_text("name,sex\na,Female\nb,male\n")
    assert read_sexes(tmp_path / "sexes.csv", ["a", "b", "c"]) == {"a": "female", "b": "male"}


@pytest.mark.parametrize("line", ["a,f", "d,male", "a", "\x00"])
def test_a_wrong_line_in_the_file_of_sexes_is_reported_with_the_remedy(tmp_path: Path, line: str) -> None:
    (tmp_path / "sexes.csv").write_text(f"name,sex\n{line}\n")
    with pytest.raises(InputError, match=r"sexes\.csv.*columns name,sex"):
        read_sexes(tmp_path / "sexes.csv", ["a"])


def test_given_and_guessed_sexes_survive_saving_and_old_atlases_are_guessed(tmp_path: Path) -> None:
    labelled(tmp_path, "a", MAN)
    labelled(tmp_path, "b", WOMAN)
    (tmp_path / "sexes.csv").write_text("name,sex\na,female\n")
    atlas = build_atlas(find_references(tmp_path), BuildOptions(registration=QUICK))
    assert [reference.sex for reference in atlas.references] == ["female", "female"]
    atlas.save(tmp_path / "atlas")
    loaded = Atlas.load(tmp_path / "atlas")
    assert [reference.sex for reference in loaded.references] == ["female", "female"]
    assert loaded.version == atlas.version
    file = tmp_path / "atlas" / "atlas.json"
    about = json.loads(file.read_text())
    for entry in about["references"]:
        entry.pop("sex", None)  # as in atlases of earlier versions
    file.write_text(json.dumps(about))
    old = Atlas.load(tmp_path / "atlas")
    assert [reference.sex for reference in old.references] == ["male", "female"]
    guessed = replace(atlas, references=tuple(replace(r, given_sex=None) for r in atlas.references))
    assert old.version == guessed.version != atlas.version


def test_the_sex_is_guessed_on_the_own_grid_of_a_label_map(tmp_path: Path) -> None:
    """In the common space, a distorted registration may put a prostate above the bladder."""
    labelled(tmp_path, "man", MAN)
    image, label = (read_volume(tmp_path / kind / "man.nii.gz") for kind in ("images", "labels"))
    work = WorkImage.of(image, QUICK.spacing, QUICK.image)
    labels = PackedLabels.of(label.with_array(label.array.astype(np.uint8)))
    case = AnnotatedCT("man", work, labels, "0", "")
    middle = float(image.geometry.to_world((np.array(image.geometry.size) - 1) / 2)[2])
    upside_down = Affine(torch.diag(torch.tensor([1.0, 1.0, -1.0])), torch.tensor([0.0, 0.0, 2 * middle]))
    reference = warp_reference(case, Transform((upside_down,)), work)
    assert guessed_sex(reference.shares) == "female"
    assert reference.sex == "male"
    assert warp_reference(replace(case, sex="female"), Transform((upside_down,)), work).sex == "female"


def test_a_full_bladder_around_the_top_of_a_prostate_is_a_mans() -> None:
    """Half of this prostate lies above the bladder's lowest slices, as in a deformed real label map."""
    labels = np.zeros((40, 30, 30), np.uint8)
    labels[ball(20)] = 14
    beside = {14: shares_of(labels)[14], 15: CroppedMap((ball(14) * 255).astype(np.uint8), (0, 0, 0))}
    assert guessed_sex(beside) == "male"
