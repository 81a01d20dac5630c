"""A label map gets exactly its image's grid, or an error explains the difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.evaluation import compare_labels
from medsam2_atlas.imaging.volume import Volume, read_labels, read_volume, to_sitk
from medsam2_atlas.storage import check_label

SPACING = (0.7031250001, 0.8, 2.5)


@pytest.fixture
def image(tmp_path: Path) -> Volume:
    picture = sitk.GetImageFromArray(np.arange(12 * 10 * 8, dtype=np.int16).reshape(8, 10, 12))
    picture.SetSpacing(SPACING)
    picture.SetOrigin((-170.5, -150.25, 33.125))
    sitk.WriteImage(picture, str(tmp_path / "ct.nrrd"))
    return read_volume(tmp_path / "ct.nrrd")


def label_of(image: Volume) -> sitk.Image:
    return to_sitk((np.arange(image.array.size) % 16).astype(np.uint8).reshape(image.array.shape), image.geometry)


def rounded_spacing(label: sitk.Image) -> None:
    label.SetSpacing((0.703, 0.8, 2.5))


def rounded_origin(label: sitk.Image) -> None:
    label.SetOrigin((-170.45, -150.2, 33.0))


def rounded_axes(label: sitk.Image) -> None:
    tilt = 0.002
    label.SetDirection((np.cos(tilt), -np.sin(tilt), 0, np.sin(tilt), np.cos(tilt), 0, 0, 0, 1))


@pytest.mark.parametrize("change", [rounded_spacing, rounded_origin, rounded_axes])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_rounded_grid_is_replaced_by_the_images(
    tmp_path: Path, image: Volume, change: Callable[[sitk.Image], None], suffix: str
) -> None:
    label = label_of(image)
    change(label)
    sitk.WriteImage(label, str(tmp_path / f"label{suffix}"))
    found = read_labels(tmp_path / f"label{suffix}", image)
    assert found.geometry == image.geometry
    assert found.file_geometry == image.file_geometry
    assert (found.array == sitk.GetArrayFromImage(label)).all()
    assert "voxels; it was replaced by the image's grid" in " ".join(found.remarks)
    exact = tmp_path / "exact.nrrd"
    sitk.WriteImage(label_of(image), str(exact))
    assert read_labels(exact, image).remarks == ()
    checked = [check_label(file, tmp_path / "ct.nrrd") for file in (tmp_path / f"label{suffix}", exact)]
    assert checked[0].digest == checked[1].digest  # so a confirmation recognises the same label map
    alone = read_labels(tmp_path / f"label{suffix}")
    assert compare_labels(found, alone, [3])[3].dice == 1.0


def test_a_label_map_of_another_orientation_gets_the_images_grid(tmp_path: Path, image: Volume) -> None:
    label = label_of(image)
    rounded_spacing(label)
    sitk.WriteImage(sitk.DICOMOrient(label, "RAS"), str(tmp_path / "label.nii.gz"))
    found = read_labels(tmp_path / "label.nii.gz", image)
    assert (found.array == sitk.GetArrayFromImage(label)).all()
    assert found.restored().GetDirection() == image.restored().GetDirection()


def crop(label: sitk.Image) -> sitk.Image:
    return label[2:9, 1:8, 3:8]


def other_spacing(label: sitk.Image) -> sitk.Image:
    label.SetSpacing((0.7031250001, 0.8, 2.6))
    return label


def moved(label: sitk.Image) -> sitk.Image:
    label.SetOrigin((-170.5, -150.25, 35.625))
    return label


def turned(label: sitk.Image) -> sitk.Image:
    tilt = np.radians(2)
    label.SetDirection((np.cos(tilt), -np.sin(tilt), 0, np.sin(tilt), np.cos(tilt), 0, 0, 0, 1))
    return label


def coarser(label: sitk.Image) -> sitk.Image:
    return label[::2, ::2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            crop,
            r"7 x 7 x 5 voxels instead of 12 x 10 x 8; first voxel .* mm away, at voxel \(2, 1, 3\) of the image; it is a crop",
        ),
        (other_spacing, r"spacing \(0.703125, 0.8, 2.6\) instead of \(0.703125, 0.8, 2.5\) mm"),
        (moved, r"first voxel 2.5 mm away, at voxel \(0, 0, 1\) of the image\."),
        (turned, "axes turned by 2°"),
        (coarser, r"6 x 5 x 8 voxels instead of 12 x 10 x 8; spacing \(1.40625, 1.6, 2.5\)"),
    ],
)
def test_the_difference_of_two_grids_is_explained(
    tmp_path: Path, image: Volume, change: Callable[[sitk.Image], sitk.Image], words: str
) -> None:
    file = tmp_path / "label.nrrd"
    sitk.WriteImage(change(label_of(image)), str(file))
    with pytest.raises(InputError, match=f"has a different grid from .*ct.nrrd: .*{words}"):
        read_labels(file, image)
    with pytest.raises(InputError, match=r"has a different grid from .*ct.nrrd: |has size .* the image has"):
        check_label(file, tmp_path / "ct.nrrd")
    with pytest.raises(InputError, match="has a different grid from"):
        compare_labels(image.with_array(image.array.astype(np.uint8)), read_labels(file), [1])


def test_a_label_map_in_layers_is_refused(tmp_path: Path, image: Volume) -> None:
    layers = sitk.Compose(label_of(image), label_of(image))
    sitk.WriteImage(layers, str(tmp_path / "label.nrrd"))
    for read in (
        lambda: read_labels(tmp_path / "label.nrrd", image),
        lambda: check_label(tmp_path / "label.nrrd", tmp_path / "ct.nrrd"),
    ):
        with pytest.raises(InputError, match="contains 2 values per voxel, such as layers of segments"):
            read()


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_values_within_a_thousandth_of_whole_numbers_are_rounded(tmp_path: Path, image: Volume, suffix: str) -> None:
    label = label_of(image)
    known = sitk.GetArrayFromImage(label)
    for kind in (np.float32, np.float64):
        near = to_sitk(known.astype(kind) - kind(1e-4), image.geometry)
        sitk.WriteImage(near, str(tmp_path / f"label{suffix}"))
        found = read_labels(tmp_path / f"label{suffix}", image)
        assert (found.array == known).all()
        assert "they were rounded" in " ".join(found.remarks)
        assert check_label(tmp_path / f"label{suffix}", tmp_path / "ct.nrrd").organs == tuple(range(1, 16))
        sitk.WriteImage(to_sitk(known.astype(kind) + kind(0.01), image.geometry), str(tmp_path / f"label{suffix}"))
        with pytest.raises(InputError, match="not whole numbers"):
            read_labels(tmp_path / f"label{suffix}", image)


@pytest.mark.parametrize("value", [-1, 256, np.nan, np.inf])
def test_values_that_are_not_labels_are_refused(tmp_path: Path, image: Volume, value: float) -> None:
    array = np.zeros(image.array.shape, np.float32)
    array[1, 2, 3] = value
    sitk.WriteImage(to_sitk(array, image.geometry), str(tmp_path / "label.nii"))
    with pytest.raises(InputError, match="not a label map"):
        read_labels(tmp_path / "label.nii", image)


def test_a_skewed_image_and_its_label_map_get_the_same_grid(tmp_path: Path) -> None:
    lines = ["NRRD0005", "type: uchar", "dimension: 3", "sizes: 10 8 6", "encoding: raw", "space: left-posterior-superior"]
    lines += ["space directions: (0.7,0,0) (0.002,0.8,0) (0,0,5)", "space origin: (1,2,3)", "", ""]
    for name in ("ct", "label"):
        (tmp_path / f"{name}.nrrd").write_bytes("\n".join(lines).encode() + (np.arange(480) % 16).astype(np.uint8).tobytes())
    image = read_volume(tmp_path / "ct.nrrd")
    label = read_labels(tmp_path / "label.nrrd", image)
    assert label.geometry == image.geometry
    assert replace(label, source="x").digest == label.digest
