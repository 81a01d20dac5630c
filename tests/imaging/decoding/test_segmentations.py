"""Segmentations of 3D Slicer are read as label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from files.slicer_files import segment, terms, write_segmentation
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.decoding import check_same_size, checked_header, read_segments
from medsam2_atlas.imaging.volume import Volume, from_sitk, read_grid, read_labels, read_volume, write_volume
from medsam2_atlas.storage import check_label
from series_files import upright

CT = np.random.default_rng(3).integers(-1000, 1000, (6, 20, 24))
LEFT, RIGHT = "SCT^7771000^Left", "SCT^24028007^Right"
LIVER, SPLEEN = (slice(1, 4), slice(2, 9), slice(3, 12)), (slice(2, 5), slice(5, 12), slice(10, 20))


def box(*boxes: tuple[tuple[slice, ...], int], kind: type = np.uint8) -> np.ndarray:
    array = np.zeros(CT.shape, kind)
    for where, value in boxes:
        array[where] = value
    return array


@pytest.fixture(params=["LPS", "RAI", "ASL"])
def image(request: pytest.FixtureRequest) -> sitk.Image:
    """Returns a CT with axes in different orders and directions."""
    return sitk.DICOMOrient(upright(CT), request.param)


@pytest.fixture
def plain_image() -> sitk.Image:
    return upright(CT)


def on_axes_of(image: sitk.Image, array: np.ndarray) -> np.ndarray:
    """Returns an array `[z, y, x]` on the LPS grid turned to the axes of an image."""
    found: np.ndarray = sitk.GetArrayFromImage(from_sitk(image).with_array(array).restored())
    return found


def read(file: Path, image: sitk.Image) -> Volume:
    return read_labels(file, from_sitk(image))


def test_segments_become_organs_by_name(tmp_path: Path, image: sitk.Image) -> None:
    drawn = box((LIVER, 7), (SPLEEN, 2))
    names = [segment("IVC", 2), segment("Kidney_Left", 7), segment("never drawn", 9)]
    file = write_segmentation(tmp_path / "x.seg.nrrd", [on_axes_of(image, drawn)], names, image)
    labels = read(file, image)
    assert (labels.array == box((LIVER, 3), (SPLEEN, 9))).all()
    assert labels.array.dtype == np.uint8
    assert labels.remarks == ()
    assert labels.restored().GetSize() == image.GetSize()
    assert (read_labels(file).array == labels.array).all()


def test_a_cropped_segmentation_is_padded_to_its_image(tmp_path: Path, image: sitk.Image) -> None:
    whole = on_axes_of(image, box((LIVER, 1), (SPLEEN, 2)))
    z, y, x = (slice(int(n.min()), int(n.max()) + 1) for n in np.nonzero(whole))
    names = [segment("Liver", 1), segment("Spleen", 2)]
    start = (x.start, y.start, z.start)
    file = write_segmentation(tmp_path / "x.seg.nrrd", [whole[z, y, x]], names, image, start)
    write_volume(from_sitk(image), tmp_path / "ct.nii.gz")
    check_same_size(file, tmp_path / "ct.nii.gz")
    larger = write_segmentation(tmp_path / "large.seg.nrrd", [np.ones((13, 20, 48), np.uint8)], names, image)
    with pytest.raises(InputError, match="has size"):
        check_same_size(larger, tmp_path / "ct.nii.gz")
    for labels in (read(file, image), read_labels(file, image=tmp_path / "ct.nii.gz")):
        assert (labels.array == box((LIVER, 6), (SPLEEN, 1))).all()
        assert labels.geometry.matches(from_sitk(image).geometry, 1e-3)
    assert check_label(file, tmp_path / "ct.nii.gz").organs == (1, 6)
    assert read_labels(file).array.shape != CT.shape
    hint = {"Segmentation_ReferenceImageExtentOffset": "0 0 0"}  # only the position in world coordinates is used
    other = write_segmentation(tmp_path / "y.seg.nrrd", [whole[z, y, x]], names, image, start, hint)
    assert (read(other, image).array == box((LIVER, 6), (SPLEEN, 1))).all()


def test_the_later_of_overlapping_segments_wins_with_a_remark(
    tmp_path: Path, image: sitk.Image, caplog: pytest.LogCaptureFixture
) -> None:
    layers = [on_axes_of(image, box((LIVER, 1))), on_axes_of(image, box((SPLEEN, 1)))]
    names = [segment("liver", 1, 0), segment("spleen", 1, 1)]
    labels = read(write_segmentation(tmp_path / "x.seg.nrrd", layers, names, image), image)
    assert (labels.array == box((LIVER, 6), (SPLEEN, 1))).all()
    shared = np.count_nonzero((box((LIVER, 1)) > 0) & (box((SPLEEN, 1)) > 0))
    assert labels.remarks == (f"'liver' and 'spleen' share {shared} voxels, which are 'spleen'.",)
    assert labels.remarks[0] in caplog.text
    names = [segment("spleen", 1, 1), segment("liver", 1, 0)]  # the order of the segments decides, not the order of the layers
    labels = read(write_segmentation(tmp_path / "y.seg.nrrd", layers, names, image), image)
    assert (labels.array == box((SPLEEN, 1), (LIVER, 6))).all()


def test_several_segments_of_one_organ_are_combined(tmp_path: Path, plain_image: sitk.Image) -> None:
    names = [segment("liver", 1), segment("Liver ", 2)]
    file = write_segmentation(tmp_path / "x.seg.nrrd", [box((LIVER, 1), (SPLEEN, 2))], names, plain_image)
    labels = read(file, plain_image)
    assert (labels.array == box((LIVER, 6), (SPLEEN, 6))).all()
    assert labels.remarks == ("Liver is combined from the segments 'liver', 'Liver'.",)


def test_unnamed_segments_are_identified_by_their_codes(tmp_path: Path, plain_image: sitk.Image) -> None:
    kidney = ("64033007", "Kidney")
    names = [segment("Segment_1", 1, tags=terms(*kidney, LEFT)), segment("kidney", 2, tags=terms(*kidney, RIGHT), named=False)]
    file = write_segmentation(tmp_path / "x.seg.nrrd", [box((LIVER, 1), (SPLEEN, 2))], names, plain_image)
    assert (read(file, plain_image).array == box((LIVER, 3), (SPLEEN, 2))).all()
    names = [segment("Segment_1", 1, tags=terms(*kidney)), segment("cyst", 2, tags=terms("10200004", "Liver"))]
    file = write_segmentation(tmp_path / "y.seg.nrrd", [box((LIVER, 1), (SPLEEN, 2))], names, plain_image)
    with pytest.raises(InputError, match="not organs: 'Segment_1', 'cyst'"):  # a kidney without a side, and a name by hand
        read(file, plain_image)
    names = [segment("Segment_1", 1, tags=terms("41216001", "Prostate")), segment("Segment_2", 2, tags=terms("1", "x"))]
    file = write_segmentation(tmp_path / "z.seg.nrrd", [box((LIVER, 1))], names, plain_image)
    assert (read(file, plain_image).array == box((LIVER, 15))).all()


def test_the_error_names_all_segments_that_are_not_organs(tmp_path: Path, plain_image: sitk.Image) -> None:
    names = [segment("Tumour", 1), segment("leber", 2), segment("lung", 3)]
    file = write_segmentation(tmp_path / "x.seg.nrrd", [box((LIVER, 1), (SPLEEN, 2))], names, plain_image)
    with pytest.raises(InputError, match=r"not organs: 'Tumour', 'leber'\. Rename .*segment_names.yaml. Organs are Spleen, "):
        read(file, plain_image)


def test_a_segmentation_without_names_of_segments_is_refused(tmp_path: Path, plain_image: sitk.Image) -> None:
    sitk.WriteImage(from_sitk(plain_image).with_array(box((LIVER, 6))).restored(), str(tmp_path / "x.seg.nrrd"))
    with pytest.raises(InputError, match=r"does not name its segments.*end its name in \.nrrd instead"):
        read(tmp_path / "x.seg.nrrd", plain_image)
    (tmp_path / "x.seg.nrrd").rename(tmp_path / "x.nrrd")
    assert (read(tmp_path / "x.nrrd", plain_image).array == box((LIVER, 6))).all()


def test_a_segmentation_is_recognised_by_its_header_too(tmp_path: Path, plain_image: sitk.Image) -> None:
    file = write_segmentation(tmp_path / "x.nrrd", [box((LIVER, 1))], [segment("liver")], plain_image)
    assert (read(file, plain_image).array == box((LIVER, 6))).all()
    for open_image in (read_volume, read_grid):
        with pytest.raises(InputError, match="is a segmentation from 3D Slicer, not a CT"):
            open_image(file)
    file = write_segmentation(tmp_path / "y.nrrd", [box((LIVER, 6))], [segment("Segment_6", 6)], plain_image)
    assert (read(file, plain_image).array == box((LIVER, 6))).all()  # by its values, not by the default name
    with pytest.raises(InputError, match="not organs: 'Segment_6'"):
        read(file.rename(tmp_path / "y.seg.nrrd"), plain_image)


def test_an_empty_segmentation_contains_no_organ(tmp_path: Path, plain_image: sitk.Image) -> None:
    for n, names in enumerate(([segment("liver"), segment("whatever", 1)], [])):  # Slicer writes one voxel
        file = write_segmentation(tmp_path / f"{n}.seg.nrrd", [np.zeros((1, 1, 1), np.uint8)], names, plain_image)
        assert not read(file, plain_image).array.any()
        with pytest.raises(InputError, match="contains no segment with voxels"):
            read_labels(file)


def test_segments_of_one_slice_and_of_other_types_are_read(tmp_path: Path, plain_image: sitk.Image) -> None:
    flat = (slice(2, 3), slice(4, 9), slice(3, 8))
    file = write_segmentation(
        tmp_path / "x.seg.nrrd", [box((flat, 1))[2:3, 4:9, 3:8]], [segment("liver")], plain_image, (3, 4, 2)
    )
    assert (read(file, plain_image).array == box((flat, 6))).all()
    for kind in (np.int16, np.int32, np.float32):
        drawn = box((flat, 300), (LIVER, -5), (SPLEEN, 12), kind=kind)
        file = write_segmentation(tmp_path / "y.seg.nrrd", [drawn], [segment("liver", 300)], plain_image)
        labels = read(file, plain_image)
        assert (labels.array == (drawn == 300) * 6).all()
        assert "belong to no segment" in labels.remarks[0]


def test_voxels_outside_of_the_image_are_dropped_with_a_remark(tmp_path: Path, plain_image: sitk.Image) -> None:
    drawn, names = np.ones((2, 3, 4), np.uint8), [segment("liver")]
    labels = read(write_segmentation(tmp_path / "x.seg.nrrd", [drawn], names, plain_image, (-1, 0, 5)), plain_image)
    assert (labels.array == box(((slice(5, 6), slice(0, 3), slice(0, 3)), 6))).all()
    assert labels.remarks == ("15 voxels of segments are outside of the image; they are dropped.",)
    with pytest.raises(InputError, match="is outside of its image"):
        read(write_segmentation(tmp_path / "x.seg.nrrd", [drawn], names, plain_image, (99, 0, 0)), plain_image)
    near = sitk.Image(plain_image)
    near.SetOrigin([o + 0.09 * s for o, s in zip(near.GetOrigin(), near.GetSpacing(), strict=True)])
    assert read(write_segmentation(tmp_path / "y.seg.nrrd", [drawn], names, near), plain_image).array[0, 0, 0] == 6
    near.SetSpacing((1.5, 2.0, 3.5))
    with pytest.raises(InputError, match=r"up to 0.\d+ voxels away.*spacing is \(1.5, 2, 3.5\) mm, the image's \(1.5, 2, 3\)"):
        read(write_segmentation(tmp_path / "z.seg.nrrd", [drawn], names, near), plain_image)


MALFORMED = {
    "value of the background": ({"Segment0_LabelValue": "0"}, "not 1 to"),
    "value that is none": ({"Segment0_LabelValue": "1e9"}, "LabelValue is '1e9'"),
    "value beyond the type": ({"Segment0_LabelValue": "300"}, "value 300, which uint8 cannot hold"),
    "huge value": ({"Segment0_LabelValue": "9" * 30}, "LabelValue is"),
    "layer out of range": ({"Segment0_Layer": "1"}, "is in layer 1, but it has 1 layers"),
    "layer below": ({"Segment0_Layer": "-1"}, "Layer is '-1'"),
    "long name": ({"Segment0_Name": "x" * 300}, "Segment0_Name is"),
    "hidden characters": ({"Segment0_Name": "liver\u202egnul"}, "Segment0_Name is"),
    "same place": ({"Segment1_ID": "b", "Segment1_Name": "spleen"}, "same layer and value"),
    "fractions": ({"Segmentation_MasterRepresentation": "Fractional labelmap"}, "fractional"),
    "many": ({f"Segment{n}_ID": "" for n in range(1001)}, "has 1001 segments"),
    "axes that are no layers": ({"dimension": "4", "sizes": "24 20 6 1", "kinds": "domain " * 4}, "dimensions|cannot be read"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_entries_are_refused(tmp_path: Path, plain_image: sitk.Image, case: str) -> None:
    more, message = MALFORMED[case]
    file = write_segmentation(tmp_path / "x.seg.nrrd", [box((LIVER, 1))], [segment("liver")], plain_image, more=more)
    with pytest.raises(InputError, match=message):
        read(file, plain_image)


def test_hostile_headers_are_refused_before_anything_is_decoded(tmp_path: Path, plain_image: sitk.Image) -> None:
    file = write_segmentation(tmp_path / "x.seg.nrrd", [box((LIVER, 1))], [segment("liver")], plain_image)
    good = file.read_bytes()
    many = "".join(f"Segment{n}_ID:=x\n" for n in range(10**6)).encode()
    for old, new, message in (
        (b"Segment0_ID", many + b"Segment0_ID", "header is longer than"),
        (b"Segment0_ID:=", b"Segment0_ID:=x\nSegment0_ID:=", "has Segment0_ID twice"),
        (b"sizes: 24 20 6", b"sizes: 24000 20000 6000", "million voxels"),
        (b"Name:=liver", b"Name:=li\x07ver", "control characters"),
    ):
        file.write_bytes(good.replace(old, new))
        with pytest.raises(InputError, match=message):
            read_segments(file, checked_header(file))
        with pytest.raises(InputError, match=message):
            read(file, plain_image)
    file.write_bytes(good.replace(b"Segment0_Extent:=0 1 0 1 0 1", b"Segment0_Extent:=0 99999999 0 99999999 -5 x"))
    assert read(file, plain_image).array.any()  # the extent is redundant, and is ignored
