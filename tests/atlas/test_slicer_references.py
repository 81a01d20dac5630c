"""Segmentations from 3D Slicer are used as references and training cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from blocks import PATIENT, QUICK, labelled
from files.slicer_files import segment, write_segmentation
from medsam2_atlas.atlas import BuildOptions, build_atlas, find_references
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.unet.config import UNetConfig
from medsam2_atlas.unet.data import TrainingCase, usable_cases


def by_slicer(folder: Path, name: str) -> Path:
    """Replaces a label map by a segmentation that is cropped to its organs."""
    file = folder / "labels" / f"{name}.nii.gz"
    image = sitk.ReadImage(str(file))
    array = sitk.GetArrayFromImage(image)
    file.unlink()
    z, y, x = (slice(int(n.min()), int(n.max()) + 1) for n in np.nonzero(array))
    names = [segment(organ_table()[k].display, k) for k in np.unique(array).tolist() if k]
    target = folder / "labels" / f"{name}.seg.nrrd"
    return write_segmentation(target, [array[z, y, x]], names, image, (x.start, y.start, z.start))


def test_a_reference_from_slicer_equals_the_one_from_its_label_map(tmp_path: Path) -> None:
    labelled(tmp_path / "one", "a", PATIENT)
    labelled(tmp_path / "two", "a", PATIENT)
    by_slicer(tmp_path / "two", "a")
    (one,), (two,) = (
        build_atlas(find_references(tmp_path / name), BuildOptions(registration=QUICK)).references for name in ("one", "two")
    )
    assert one.organs == two.organs
    assert (one.covered == two.covered).all()  # the image's field of view, not that of the crop
    assert all((one.shares[k].values == two.shares[k].values).all() for k in one.organs)


def test_a_case_from_slicer_is_usable_for_training(tmp_path: Path) -> None:
    for name in ("a", "b"):
        labelled(tmp_path, name, PATIENT)
    label = by_slicer(tmp_path, "b")
    cases = [TrainingCase(f.name, f.image, f.label) for f in find_references(tmp_path)]
    assert cases[1].label == label
    config = UNetConfig.model_validate(
        {"dimensions": 3, "spacing": [8, 8, 8], "patch": [16, 16, 16], "filters": [4, 8, 16], "heads": 1}
    )
    usable, problems, _ = usable_cases(cases, config, tmp_path / "cache")
    assert ([case.name for case in usable], problems) == (["a", "b"], {})


def test_segmentations_among_the_cts_are_reported(tmp_path: Path) -> None:
    labelled(tmp_path, "a", PATIENT)
    by_slicer(tmp_path, "a").rename(tmp_path / "images" / "a.seg.nrrd")
    skipped: dict[str, str] = {}
    with pytest.raises(InputError, match="is a segmentation, not a CT"):
        find_references(tmp_path, skipped)
    labelled(tmp_path, "a", PATIENT)
    assert [files.name for files in find_references(tmp_path, skipped)] == ["a"]
    assert [Path(name).name for name in skipped] == ["a.seg.nrrd"]
    with pytest.raises(InputError, match="is a segmentation, not a CT"):
        find_references(tmp_path)
