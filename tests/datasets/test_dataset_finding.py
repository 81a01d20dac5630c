"""A download is searched by its layout's patterns; hostile and doubtful files are problems of their case only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from downloads import amos
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.datasets import finding
from medsam2_atlas.datasets.finding import LABEL_MAP, find_cases
from medsam2_atlas.datasets.layout import is_case_name, read_layout

AMOS, TOTAL, BTCV, FLARE = (read_layout(name)[1] for name in ("amos", "totalsegmentator", "btcv", "flare22"))


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    return folder


def masks(folder: Path, case: str, *without: str) -> Path:
    names = [names[0] for organ, names in TOTAL.mask_names.items() if organ not in without]
    return touch(folder, f"{case}/ct.nii.gz", *(f"{case}/segmentations/{name}.nii.gz" for name in names))


def test_cases_are_sorted_into_annotated_unlabelled_and_excluded(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/amos_0001.nii.gz", "labelsTr/amos_0001.nii.gz", "imagesTs/amos_0002.nii.gz")
    touch(tmp_path, "imagesVa/amos_0507.nii.gz", "labelsVa/amos_0507.nii.gz", "imagesTr/readme.txt")
    touch(tmp_path, "imagesTr/._amos_0001.nii.gz")
    found = find_cases(AMOS, tmp_path)
    assert [*found.cases] == ["amos_0001"] and found.problems == {}
    assert found.cases["amos_0001"].labels == ((LABEL_MAP, tmp_path / "labelsTr" / "amos_0001.nii.gz"),)
    assert (found.unlabelled, found.excluded) == (["amos_0002"], ["amos_0507"])


@pytest.mark.parametrize("root", ["", "Training", "RawData/Training", "Abdomen/RawData/Training"])
def test_a_download_is_found_below_the_folder_of_its_archive(tmp_path: Path, root: str) -> None:
    touch(tmp_path / root, "img/img0001.nii.gz", "label/label0001.nii.gz")
    assert [*find_cases(BTCV, tmp_path).cases] == ["btcv_0001"]


def test_the_name_of_a_case_excludes_the_rest_of_the_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "images/FLARE22_Tr_0001_0000.nii.gz", "labels/FLARE22_Tr_0001.nii.gz", "images/stray.nii.gz")
    assert [*find_cases(FLARE, tmp_path).cases] == ["FLARE22_Tr_0001"]


def test_a_folder_without_images_is_refused_with_the_expected_places(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no images of AMOS22.*imagesTr/\{case\}\.nii\.gz"):
        find_cases(AMOS, tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        find_cases(AMOS, tmp_path / "none")


def test_two_files_for_one_case_are_a_problem_of_that_case(tmp_path: Path) -> None:
    amos(tmp_path, 1)
    touch(tmp_path, "imagesTr/amos_0003.nii.gz", "imagesTr/amos_0003.nii", "labelsTr/amos_0003.nii.gz")
    touch(tmp_path, "imagesTr/amos_0005.nii.gz", "labelsTr/amos_0005.nii.gz", "labelsVa/amos_0005.nii.gz")
    touch(tmp_path, "labelsTr/amos_0007.nii.gz")
    found = find_cases(AMOS, tmp_path)
    assert [*found.cases] == ["amos_0001"]
    assert found.problems["amos_0003"] == (
        "has several images: imagesTr/amos_0003.nii, imagesTr/amos_0003.nii.gz. Keep one of them."
    )
    assert "labelsVa/amos_0005.nii.gz" in found.problems["amos_0005"]
    assert found.problems["amos_0007"].startswith("has a label map, but no image")


def test_a_link_cannot_bring_in_a_file_from_outside_the_download(tmp_path: Path) -> None:
    data = amos(tmp_path / "data", 1)
    secret = touch(tmp_path, "secret.nii.gz") / "secret.nii.gz"
    touch(data, "labelsTr/amos_0003.nii.gz", "labelsTr/amos_0005.nii.gz")
    (data / "imagesTr" / "amos_0003.nii.gz").symlink_to(secret)
    (data / "imagesTr" / "amos_0005.nii.gz").symlink_to("amos_0001.nii.gz")  # a link inside the download
    (data / "imagesVa").symlink_to(touch(tmp_path / "other", "amos_0010.nii.gz"))
    touch(data, "labelsVa/amos_0010.nii.gz")
    found = find_cases(AMOS, data)
    assert [*found.cases] == ["amos_0001", "amos_0005"]
    assert "leads out of the folder" in found.problems["amos_0003"]
    assert "leads out of the folder" in found.problems["amos_0010"]


def test_a_pipe_a_broken_link_and_a_huge_file_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"labelsTr/amos_000{n}.nii.gz" for n in (1, 3, 5)]
    touch(tmp_path, *names, "imagesTr/amos_0005.nii.gz")
    os.mkfifo(tmp_path / "imagesTr" / "amos_0001.nii.gz")
    (tmp_path / "imagesTr" / "amos_0003.nii.gz").symlink_to(tmp_path / "nothing")
    with (tmp_path / "imagesTr" / "amos_0005.nii.gz").open("wb") as stream:
        stream.truncate(finding._MAX_BYTES + 1)  # sparse
    problems = find_cases(AMOS, tmp_path).problems
    assert "is not a regular file" in problems["amos_0001"]
    assert "cannot be opened" in problems["amos_0003"]
    assert "more than the largest image that can be read" in problems["amos_0005"]


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", "-rf", " a", "a ", "a\u202eb", "x" * 200, "\udcff", "a/b", "..", ""])
def test_odd_names_name_no_case(name: str) -> None:
    assert not is_case_name(name)


def test_odd_names_are_left_out_of_the_listing(tmp_path: Path) -> None:
    touch(tmp_path, "img/img0001.nii.gz", "label/label0001.nii.gz", "img/img1\nx.nii.gz", "label/label1\nx.nii.gz")
    raw = os.fsencode(tmp_path / "img") + b"/img\xff.nii.gz"
    os.close(os.open(raw, os.O_CREAT))
    found = find_cases(BTCV, tmp_path)
    assert [*found.cases] == ["btcv_0001"]
    assert {*found.problems} == {"btcv_1\nx", r"btcv_\xff"}


def test_a_case_of_masks_needs_each_organ_that_is_annotated_completely(tmp_path: Path) -> None:
    masks(tmp_path, "s0001")
    masks(tmp_path, "s0002", "prostate_uterus")
    masks(tmp_path, "s0003", "liver", "aorta")
    touch(masks(tmp_path, "s0004"), "s0004/segmentations/gall_bladder.nii.gz")
    touch(tmp_path, "s0005/ct.nii.gz", "meta.csv")
    found = find_cases(TOTAL, tmp_path)
    assert [*found.cases] == ["s0001", "s0002"] and found.unlabelled == ["s0005"]
    assert [organ for organ, _ in found.cases["s0001"].labels] == [*range(1, 16)]
    assert dict(found.cases["s0002"].labels)[2].name == "kidney_right.nii.gz"
    assert found.problems["s0003"] == "lacks masks of liver, aorta."
    assert found.problems["s0004"].startswith("has several masks of gallbladder")


def test_a_folder_with_too_many_entries_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "_MAX_ENTRIES", 2)
    touch(tmp_path, *(f"imagesTr/amos_000{n}.nii.gz" for n in range(3)))
    with pytest.raises(InputError, match="more than 2 entries"):
        find_cases(AMOS, tmp_path)
