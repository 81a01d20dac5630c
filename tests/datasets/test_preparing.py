"""Preparing a data set: orientation, values, checks, resuming, and the record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import downloads
from downloads import amos, ct, organs, write
from medsam2_atlas.atlas import find_references
from medsam2_atlas.base.errors import InputError, StorageError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.datasets import Choice, Prepared, PrepareOptions, prepare, preparing, read_dataset, read_layout
from medsam2_atlas.imaging.hounsfield import HuRule

AMOS = read_layout("amos")[1]
CHOICE = Choice(("amos_0001",), ("amos_0002", "amos_0003"))


def run(source: Path, out: Path, choice: Choice = CHOICE, layout: str = "amos", **options: object) -> Prepared:
    return prepare(layout, read_layout(layout)[1], source, out, PrepareOptions(choice, **options))  # type: ignore[arg-type]


def files(out: Path) -> dict[str, int]:
    return {str(file.relative_to(out)): file.stat().st_mtime_ns for file in sorted(out.rglob("*.nii.gz"))}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return amos(tmp_path / "data", 1, 2, 3)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_images_and_label_maps_are_turned_to_lps_without_changing_a_voxel(source: Path, out: Path) -> None:
    run(source, out)
    for number, role in ((1, "references"), (2, "targets"), (3, "targets")):
        for kind, expected in (("images", ct(number)), ("labels", organs((1, 6, 10)))):
            image = sitk.ReadImage(str(out / role / kind / f"amos_000{number}.nii.gz"))
            array = sitk.GetArrayFromImage(image)
            assert array.dtype == expected.dtype and np.array_equal(array, expected)
            assert sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection()) == "LPS"
            assert np.allclose(image.GetOrigin(), (5, -7, 11)) and np.allclose(image.GetSpacing(), (1.5, 1.25, 3))


def test_the_record_names_roles_organs_and_checksums_of_the_sources(source: Path, out: Path) -> None:
    dataset = run(source, out).dataset
    assert [(case.name, case.role) for case in dataset.cases] == [
        ("amos_0001", "reference"), ("amos_0002", "target"), ("amos_0003", "target")
    ]  # fmt: skip
    case = dataset.cases[1]
    assert case.organs == ("spleen", "liver", "pancreas")
    assert case.image.file == "imagesVa/amos_0002.nii.gz"
    assert case.image.sha256 == sha256(source / case.image.file)
    assert [label.sha256 for label in case.labels] == [sha256(source / "labelsVa" / "amos_0002.nii.gz")]
    assert dataset.complete and dataset.annotated_organs == tuple(range(1, 16))
    assert read_dataset(out / "targets" / "labels") == dataset
    assert str(source) not in (out / "dataset.json").read_text(encoding="utf-8")


def test_both_folders_can_be_given_to_atlas_build(source: Path, out: Path) -> None:
    run(source, out)
    assert [pair.name for pair in find_references(out / "references")] == ["amos_0001"]
    assert [pair.name for pair in find_references(out / "targets")] == ["amos_0002", "amos_0003"]


def test_values_that_are_not_whole_numbers_stay_floats(source: Path, out: Path) -> None:
    halves = ct(2).astype(np.float32) + np.float32(0.5)
    write(source / "imagesVa" / "amos_0002.nii.gz", halves, downloads.CODES[2])
    run(source, out)
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "targets" / "images" / "amos_0002.nii.gz")))
    assert array.dtype == np.float32 and np.array_equal(array, halves)


def test_a_second_run_writes_only_what_changed(source: Path, out: Path) -> None:
    assert run(source, out).written == 3
    before = files(out)
    assert run(source, out).written == 0
    assert files(out) == before
    write(source / "labelsTr" / "amos_0003.nii.gz", organs((2,)), downloads.CODES[3])
    (out / "targets" / "labels" / "amos_0002.nii.gz").unlink()
    again = run(source, out)
    assert again.written == 2
    assert again.dataset.cases[2].organs == ("right_kidney",)
    assert files(out)["references/images/amos_0001.nii.gz"] == before["references/images/amos_0001.nii.gz"]


@pytest.mark.parametrize("change", ["version", "hu"])
def test_cases_of_another_version_or_rule_are_written_again(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    run(source, out)
    if change == "version":
        monkeypatch.setattr(preparing, "package_version", lambda: "0.0")
    assert run(source, out, hu=HuRule("auto" if change == "hu" else "check")).written == 3


def test_an_interrupted_run_is_continued(source: Path, out: Path) -> None:
    def stop(stage: str, share: float, organ: int | None = None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("amos", AMOS, source, out, PrepareOptions(CHOICE), progress=stop)
    half = read_dataset(out)
    assert half is not None and not half.complete and [case.name for case in half.cases] == ["amos_0001"]
    with pytest.raises(KeyboardInterrupt):
        prepare("amos", AMOS, source, out, PrepareOptions(CHOICE), progress=stop)
    assert run(source, out).written == 2


def test_a_case_that_changes_its_role_does_not_stay_in_the_old_one(source: Path, out: Path) -> None:
    run(source, out)
    run(source, out, Choice(("amos_0002",), ("amos_0001",)))
    assert {name for name in files(out) if "images" in name} == {
        "references/images/amos_0002.nii.gz", "targets/images/amos_0001.nii.gz"
    }  # fmt: skip


def test_missing_cases_are_all_listed_before_anything_is_written(source: Path, out: Path) -> None:
    choice = Choice(("amos_0001",), ("amos_0002", "amos_0004", "amos_0006"))
    with pytest.raises(InputError, match=r"lacks 2 of 4 cases: amos_0004 is not.*amos_0006 is not"):
        run(source, out, choice)
    assert not out.exists()
    dataset = run(source, out, Choice(choice.references, choice.targets, partial=True)).dataset
    assert {*dataset.left_out} == {"amos_0004", "amos_0006"} and len(dataset.cases) == 2


def test_the_same_image_under_two_names_is_left_out_even_in_another_orientation(source: Path, out: Path) -> None:
    write(source / "imagesTr" / "amos_0003.nii.gz", ct(1), "SAR", origin=(0.0, 0.0, 0.0))
    write(source / "labelsTr" / "amos_0003.nii.gz", organs((1, 6)), "SAR", origin=(0.0, 0.0, 0.0))
    dataset = run(source, out).dataset
    assert "is the same image as that of amos_0001" in dataset.left_out["amos_0003"]
    assert "targets/images/amos_0003.nii.gz" not in files(out)
    again = run(source, out)
    assert again.written == 0 and {*again.dataset.left_out} == {"amos_0003"}


BAD = {
    "grid": "has a different grid",
    "value": "contains values [16] that AMOS22 does not have",
    "empty": "contains no organ",
    "hu": "its values are 1000 too high for HU",
    "broken": "amos_0003.nii.gz",
    "slicer": "cannot be read",
}


def spoil(source: Path, how: str) -> None:
    image, label = (source / folder / "amos_0003.nii.gz" for folder in ("imagesTr", "labelsTr"))
    if how == "grid":
        write(label, organs((1, 6)), origin=(5.0, -7.0, 14.0))
    elif how in ("value", "empty"):
        write(label, organs((1, 16) if how == "value" else ()), downloads.CODES[3])
    elif how == "hu":
        write(image, ct(3) + np.int16(1000), downloads.CODES[3])
    else:
        image.write_bytes(b"\x1f\x8b no image" if how == "broken" else b"NRRD0005\n")


@pytest.mark.parametrize("how", sorted(BAD))
def test_a_bad_case_is_left_out_with_its_reason_and_is_an_error_if_strict(source: Path, out: Path, how: str) -> None:
    spoil(source, how)
    dataset = run(source, out).dataset
    assert [case.name for case in dataset.cases] == ["amos_0001", "amos_0002"] and dataset.complete
    assert BAD[how].removeprefix("cannot be read") in dataset.left_out["amos_0003"]
    with pytest.raises(InputError):
        run(source, out, strict=True)


def test_a_case_that_became_bad_does_not_stay_in_the_output(source: Path, out: Path) -> None:
    run(source, out)
    spoil(source, "value")
    run(source, out)
    assert not [name for name in files(out) if "amos_0003" in name]


def test_a_known_offset_is_corrected_on_request_and_recorded(source: Path, out: Path) -> None:
    spoil(source, "hu")
    case = run(source, out, hu=HuRule("auto")).dataset.cases[2]
    assert case.hu_offset == -1000
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "targets" / "images" / "amos_0003.nii.gz")))
    assert array.dtype == np.int16 and np.array_equal(array, ct(3))


def test_the_output_must_not_mix_with_the_download(source: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(source)
    for out in (source, source / "out", tmp_path / "link" / "out"):
        with pytest.raises(InputError, match="lies in the folder of the download"):
            run(source, out)
    with pytest.raises(InputError, match="contains the folder of the download"):
        run(source, tmp_path)
    assert not (source / "out").exists()


def test_other_files_in_the_output_are_neither_mixed_in_nor_removed(source: Path, out: Path) -> None:
    foreign = out / "targets" / "images" / "mine.nii.gz"
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"mine")
    with pytest.raises(StorageError, match=r"contains targets/images/mine\.nii\.gz"):
        run(source, out)
    shutil.rmtree(out)
    out.mkdir()
    (out / "dataset.json").write_text('{"labels": {"background": 0}}')  # nnU-Net's
    with pytest.raises(StorageError, match="is a file of another program"):
        run(source, out)
    assert "background" in (out / "dataset.json").read_text()


def test_another_data_set_in_the_output_is_refused(source: Path, out: Path) -> None:
    run(source, out)
    with pytest.raises(StorageError, match="contains the data set amos, not other"):
        prepare("other", AMOS, source, out, PrepareOptions(CHOICE))


def test_a_damaged_record_cannot_remove_files_elsewhere(source: Path, out: Path, tmp_path: Path) -> None:
    run(source, out)
    victim = tmp_path / "victim.nii.gz"
    victim.write_bytes(b"kept")
    content = json.loads((out / "dataset.json").read_text())
    content["cases"][2]["name"] = "../../../victim"
    (out / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="not the name of a case"):
        run(source, out)
    assert victim.exists()


def test_if_no_case_can_be_used_the_first_reason_is_given(source: Path, out: Path) -> None:
    spoil(source, "value")
    with pytest.raises(InputError, match=r"has no case that can be used\. amos_0003: labelsTr/amos_0003\.nii\.gz: contains"):
        run(source, out, Choice((), ("amos_0003",)))


def test_a_full_disk_is_an_error_and_not_a_bad_case(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(preparing, "write_volume", full)
    with pytest.raises(OSError, match="No space left"):
        run(source, out)


def totalsegmentator(folder: Path, values: int = 1) -> Path:
    _, layout = read_layout("totalsegmentator")
    case = folder / "s0001"
    write(case / "ct.nii.gz", ct(1), "RAS")
    for organ, names in layout.mask_names.items():
        number = list(layout.mask_names).index(organ)
        mask = np.zeros(downloads.SHAPE, np.uint8)
        if organ != "gallbladder":  # an organ outside the field of view has an empty mask
            mask[number : number + 2, 6:9, 6:9] = values
        write(case / "segmentations" / f"{names[0]}.nii.gz", mask, "RAS")
    return folder


def test_masks_are_merged_and_the_overlap_is_reported(tmp_path: Path, out: Path) -> None:
    source = totalsegmentator(tmp_path / "data")
    dataset = run(source, out, Choice(), "totalsegmentator").dataset
    (case,) = dataset.cases
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "targets" / "labels" / "s0001.nii.gz")))
    assert [int(array[z, 7, 7]) for z in range(8)] == [1, 2, 3, 3, 5, 6, 7, 8]
    assert "gallbladder" not in case.organs and len(case.organs) == 14
    assert len(case.labels) == 15 and case.labels[0].file == "s0001/segmentations/spleen.nii.gz"
    assert "The masks of spleen and right_kidney share 9 voxels; they became the latter's." in case.remarks
    assert 15 not in dataset.annotated_organs and 4 in dataset.annotated_organs


def test_a_mask_has_one_value_only(tmp_path: Path, out: Path) -> None:
    source = totalsegmentator(tmp_path / "data", values=255)
    run(source, out, Choice(), "totalsegmentator")
    write(source / "s0001" / "segmentations" / "liver.nii.gz", organs((1, 2)), "RAS")
    with pytest.raises(InputError, match=r"liver\.nii\.gz: is not a mask: it has the values \[1, 2\]"):
        run(source, out, Choice(), "totalsegmentator")


def test_label_maps_of_totalsegmentator_are_mapped(tmp_path: Path, out: Path) -> None:
    write(tmp_path / "data" / "s0001" / "ct.nii.gz", ct(1))
    write(tmp_path / "data" / "s0001" / "segmentations.nii.gz", organs((5, 52, 117)))
    dataset = run(tmp_path / "data", out, Choice(), "totalsegmentator_labels").dataset
    assert dataset.cases[0].organs == ("liver", "aorta")


def test_segments_of_slicer_are_not_taken_for_values_of_the_data_set(tmp_path: Path, out: Path) -> None:
    source = tmp_path / "data"
    write(source / "img" / "img0001.nii.gz", ct(1))
    image = sitk.GetImageFromArray(organs((1,)))
    image.CopyInformation(sitk.ReadImage(str(source / "img" / "img0001.nii.gz")))
    for key, value in (("Segment0_ID", "1"), ("Segment0_Name", "liver"), ("Segment0_LabelValue", "1"), ("Segment0_Layer", "0")):
        image.SetMetaData(key, value)
    (source / "label").mkdir()
    sitk.WriteImage(image, str(source / "label" / "label0001.nrrd"))
    with pytest.raises(InputError, match="is a segmentation of 3D Slicer"):
        run(source, out, Choice(), "btcv", strict=True)
