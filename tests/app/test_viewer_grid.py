"""Models and label maps for viewers that name a folder's study by its UID: voxels have the order of the DICOM instances."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import SimpleITK as sitk

from app.running import server
from medsam2_atlas.atlas import ReferenceFiles

LIVER = 6
FILED_AS = "SAR"


@pytest.fixture(scope="module")
def studies(short_files: ReferenceFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("turned")
    image = sitk.DICOMOrient(sitk.ReadImage(str(short_files.image)), FILED_AS)
    sitk.WriteImage(image, str(folder / "turned.nii.gz"))
    return folder


@pytest.fixture(scope="module")
def url(studies: Path, atlas_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    conf = {"atlas": str(atlas_folder), "learning": "false"}
    with server(studies, tmp_path_factory.mktemp("server"), conf) as client:
        yield client.get_server_url().rstrip("/")


@pytest.fixture(scope="module")
def series(url: str) -> str:
    (found,) = requests.get(f"{url}/proxy/dicom/qido/series").json()
    return str(found["0020000E"]["Value"][0])


def infer(url: str, model: str, image: str, folder: Path, **params: Any) -> sitk.Image:
    answer = requests.post(
        f"{url}/infer/{model}", params={"image": image, "output": "image"}, data={"params": json.dumps(params)}
    )
    assert answer.ok, answer.text
    file = folder / f"{len(list(folder.iterdir()))}{params.get('result_extension', '.nii.gz')}"
    file.write_bytes(answer.content)
    return sitk.ReadImage(str(file))


def in_lps(image: sitk.Image) -> np.ndarray:
    """Returns the voxels `[z, y, x]` in LPS orientation."""
    return np.asarray(sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS")))


def test_a_label_map_for_a_viewer_has_the_order_of_the_instances(url: str, series: str, tmp_path: Path) -> None:
    by_name = infer(url, "atlas", "turned", tmp_path)
    assert sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(by_name.GetDirection()) == FILED_AS
    for extra in ({}, {"result_extension": ".nrrd", "result_compress": False}):  # the second is what OHIF's panel sends
        by_uid = infer(url, "atlas", series, tmp_path, **extra)
        assert (sitk.GetArrayFromImage(by_uid) > 0).any()
        np.testing.assert_array_equal(sitk.GetArrayFromImage(by_uid), in_lps(by_name))


def test_marks_of_a_viewer_are_indices_of_the_instances(
    url: str, series: str, short_files: ReferenceFiles, studies: Path, tmp_path: Path
) -> None:
    liver = in_lps(sitk.ReadImage(str(short_files.label))) == LIVER
    z = int(liver.sum((1, 2)).argmax())
    rows, columns = np.nonzero(liver[z])
    corners = [[int(columns.min()), int(rows.min()), z], [int(columns.max()), int(rows.max()), z]]
    image = sitk.ReadImage(str(studies / "turned.nii.gz"))
    upright = sitk.DICOMOrient(image, "LPS")
    filed = [list(image.TransformPhysicalPointToIndex(upright.TransformIndexToPhysicalPoint(point))) for point in corners]
    assert filed != corners
    by_uid = sitk.GetArrayFromImage(infer(url, "medsam2", series, tmp_path, label="liver", boxes=[corners]))
    by_name = in_lps(infer(url, "medsam2", "turned", tmp_path, label="liver", boxes=[filed]))
    np.testing.assert_array_equal(by_uid, by_name)
    overlap = ((by_uid > 0) & liver)[z].sum() / liver[z].sum()
    assert overlap > 0.5


def test_a_label_map_that_a_viewer_sends_is_saved_under_the_study_s_name(url: str, series: str, studies: Path) -> None:
    upright = sitk.DICOMOrient(sitk.ReadImage(str(studies / "turned.nii.gz")), "LPS")
    voxels = np.zeros(upright.GetSize()[::-1], np.uint8)
    voxels[3:5, 10:20, 12:30] = LIVER
    grid = {
        "dimensions": upright.GetSize(),
        "spacing": upright.GetSpacing(),
        "origin": upright.GetOrigin(),
        "direction": list(np.array(upright.GetDirection()).reshape(3, 3).T.ravel()),  # one axis after the other
    }
    params = {"volume": grid, "label_info": [{"name": "liver", "idx": LIVER}], "from": "OHIF"}
    answer = requests.put(
        f"{url}/datastore/label",
        params={"image": series, "tag": "final"},
        data={"params": json.dumps(params)},
        files={"label": ("label.bin", voxels.tobytes())},
    )
    assert answer.ok, answer.text
    assert answer.json()["image"] == "turned"
    saved = sitk.ReadImage(str(studies / "labels" / "final" / "turned.nii.gz"))
    np.testing.assert_array_equal(in_lps(saved), voxels)
    log = "".join(file.read_text() for file in (studies / ".medsam2_atlas").rglob("*.jsonl"))
    assert series not in log
