"""A studies folder as a DICOMweb server: the real server, with dicomweb-client as the viewer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
import SimpleITK as sitk
from dicomweb_client import DICOMwebClient
from PIL import Image
from scipy.spatial import cKDTree

from app.cases import listed
from app.running import server
from medsam2_atlas.dicom import LabelOrigin, write_seg
from medsam2_atlas.imaging.volume import read_labels, read_volume
from oriented_files import ORIENTATIONS, direction_of, small_ct, write_all

STUDIES = [*ORIENTATIONS, "oblique"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("oriented")
    write_all(path)
    (path / "broken.nii.gz").write_bytes(b"no image")
    whole = path.joinpath("LPS.nii.gz").read_bytes()
    (path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    return path


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server(folder, tmp_path_factory.mktemp("server"), {"learning": "false", "server_hu": "as-is"}) as client:
        yield client.get_server_url().rstrip("/")


@pytest.fixture(scope="module")
def viewer(url: str) -> DICOMwebClient:
    return DICOMwebClient(f"{url}/proxy/dicom/wado")


def uids_of(viewer: DICOMwebClient, study: str) -> tuple[str, str]:
    (found,) = viewer.search_for_series(search_filters={"PatientID": study, "Modality": "CT"})
    return found["0020000D"]["Value"][0], found["0020000E"]["Value"][0]


def file_of(folder: Path, study: str) -> Path:
    (file,) = (file for file in folder.iterdir() if file.name.split(".")[0] == study)
    return file


def placed(items: Sequence[Any], planes: Sequence[np.ndarray]) -> dict[tuple[float, ...], float]:
    """Returns the values by position (x, y, z) in mm, rounded, as a viewer derives them (PS3.3, C.7.6.2.1.1, equation 1)."""
    found = {}
    for item, plane in zip(items, planes, strict=True):
        ds = item if isinstance(item, pydicom.Dataset) else pydicom.Dataset.from_json(item)
        start, axes = np.array(ds.ImagePositionPatient, float), np.array(ds.ImageOrientationPatient, float).reshape(2, 3)
        down, across = (float(v) for v in ds.PixelSpacing)
        for (row, column), value in np.ndenumerate(plane):
            place = start + axes[0] * across * column + axes[1] * down * row
            found[tuple(np.round(place, 3) + 0.0)] = float(value) * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    return found


def placed_in_file(image: sitk.Image) -> dict[tuple[float, ...], float]:
    return {
        tuple(np.round(image.TransformIndexToPhysicalPoint(index[::-1]), 3) + 0.0): float(value)
        for index, value in np.ndenumerate(sitk.GetArrayFromImage(image))
    }


def close(found: dict[tuple[float, ...], float], expected: dict[tuple[float, ...], float]) -> bool:
    """Returns whether the same values lie at the same positions, to a thousandth of a mm, by which rounding may differ."""
    tree = cKDTree(np.array(list(expected)))
    distances, nearest = tree.query(np.array(list(found)))
    values = np.array(list(expected.values()))[nearest]
    everywhere = len(found) == len(expected) == len(set(nearest.tolist()))
    return everywhere and bool(distances.max() < 0.003) and values.tolist() == list(found.values())


@pytest.mark.parametrize("study", STUDIES)
def test_voxels_and_positions_equal_the_file_s(viewer: DICOMwebClient, folder: Path, study: str) -> None:
    uids = uids_of(viewer, study)
    items = viewer.retrieve_series_metadata(*uids)
    planes = []
    for item in items:
        (frame,) = viewer.retrieve_instance_frames(*uids, item["00080018"]["Value"][0], [1])
        planes.append(np.frombuffer(frame, "<i2").reshape(item["00280010"]["Value"][0], item["00280011"]["Value"][0]))
    image = sitk.ReadImage(str(file_of(folder, study)))
    assert close(placed(items, planes), placed_in_file(image))
    normal = np.cross(*np.array(items[0]["00200037"]["Value"]).reshape(2, 3))
    heights = [np.dot(normal, item["00200032"]["Value"]) for item in items]
    assert heights == sorted(heights), "the order is not that of viewers"


@pytest.mark.parametrize("study", ["RAS", "LAS", "IAR", "oblique"])
def test_dicom_files_equal_the_file(viewer: DICOMwebClient, folder: Path, study: str) -> None:
    files = viewer.retrieve_series(*uids_of(viewer, study))
    found = placed(files, [ds.pixel_array for ds in files])
    assert close(found, placed_in_file(sitk.ReadImage(str(file_of(folder, study)))))


def test_studies_are_listed_without_bad_files(viewer: DICOMwebClient) -> None:
    listed = viewer.search_for_studies()
    assert {item["00100020"]["Value"][0] for item in listed} >= set(STUDIES)
    assert not {"broken"} & {item["00100020"]["Value"][0] for item in listed}


def test_a_ct_with_damaged_voxels_is_refused_with_the_reason_and_then_left_out(url: str, viewer: DICOMwebClient) -> None:
    listed = viewer.search_for_series(search_filters={"PatientID": "cut"})
    if listed:
        study, series = listed[0]["0020000D"]["Value"][0], listed[0]["0020000E"]["Value"][0]
        answer = requests.get(f"{url}/proxy/dicom/wado/studies/{study}/series/{series}/metadata")
        assert answer.status_code == 422
        assert "cut" in answer.json()["detail"]
    assert viewer.search_for_series(search_filters={"PatientID": "cut"}) == []


def test_searches_filter_and_page(viewer: DICOMwebClient, url: str) -> None:
    (found,) = viewer.search_for_studies(search_filters={"PatientName": "OB*"})
    assert found["00100020"]["Value"] == ["oblique"]
    names = [item["00100020"]["Value"][0] for item in viewer.search_for_studies(limit=3, offset=2)]
    assert names == sorted(STUDIES)[2:5]
    assert viewer.search_for_studies(search_filters={"ModalitiesInStudy": "MR"}) == []
    assert requests.get(f"{url}/proxy/dicom/qido/studies", {"limit": "many"}).status_code == 422
    study, series = uids_of(viewer, "RAS")
    (only,) = viewer.search_for_studies(search_filters={"StudyInstanceUID": study})
    assert (only["00201208"]["Value"], only["00201206"]["Value"], only["00080061"]["Value"]) == ([6], [1], ["CT"])
    assert only["00081190"]["Value"] == [f"/proxy/dicom/wado/studies/{study}"]
    assert len(viewer.search_for_instances(study, series)) == 6
    assert len(viewer.search_for_instances(study)) == 6
    assert viewer.search_for_series(study)[0]["0020000E"]["Value"] == [series]
    assert viewer.search_for_instances("1.2.3") == []


def test_metadata_of_study_series_and_instance_agree(viewer: DICOMwebClient) -> None:
    study, series = uids_of(viewer, "LAS")
    items = viewer.retrieve_series_metadata(study, series)
    assert viewer.retrieve_study_metadata(study) == items
    assert viewer.retrieve_instance_metadata(study, series, items[3]["00080018"]["Value"][0]) == items[3]
    assert (items[0]["00281051"]["Value"], items[0]["00281050"]["Value"]) == ([400], [40])


@pytest.mark.parametrize(
    ("what", "accept", "status"),
    [
        ("metadata", "application/dicom+xml", 406),
        ("metadata", "application/json", 200),
        ("instances/{i}/frames/1", "image/jpeg", 406),
        ("instances/{i}/frames/1", 'multipart/related; type="image/jls"', 406),
        ("instances/{i}/frames/1", "multipart/related; type=application/octet-stream; transfer-syntax=*", 200),
        ("instances/{i}/frames/2", "*/*", 404),
        ("instances/{i}/frames/1,1", "*/*", 200),
        ("instances/{i}/frames/x", "*/*", 404),
        ("instances/{i}/frames/1/2", "*/*", 404),
        ("instances/{i}", 'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.90', 406),
        ("instances/{i}", 'multipart/related; type="application/dicom"', 200),
        ("instances/{i}0", "*/*", 404),
        ("instances/{i}/bulk", "*/*", 404),
        ("frames/1", "*/*", 404),
        ("thumbnail", "image/png", 200),
        ("instances/{i}/rendered", "video/mp4", 406),
    ],
)
def test_the_accept_header_and_the_path_are_honoured(
    url: str, viewer: DICOMwebClient, what: str, accept: str, status: int
) -> None:
    study, series = uids_of(viewer, "RAS")
    instance = viewer.search_for_instances(study, series)[0]["00080018"]["Value"][0]
    address = f"{url}/proxy/dicom/wado/studies/{study}/series/{series}/{what.format(i=instance)}"
    assert requests.get(address, headers={"Accept": accept}).status_code == status


@pytest.mark.parametrize(
    "path", ["studies/1.2.3/metadata", "series/1.2.3/metadata", "instances/1.2.3", "studies/x", "studies/1.2/1.3"]
)
def test_unknown_objects_are_not_found(url: str, path: str) -> None:
    assert requests.get(f"{url}/proxy/dicom/wado/{path}").status_code == 404


def test_pictures_of_slices(url: str, viewer: DICOMwebClient) -> None:
    study, series = uids_of(viewer, "RAS")
    answer = requests.get(f"{url}/proxy/dicom/wado/studies/{study}/series/{series}/rendered", headers={"Accept": "image/png"})
    picture = Image.open(BytesIO(answer.content))
    assert picture.format == "PNG"
    assert picture.size == (9, 14)  # pixels of 0.75 x 1.5 mm


def test_a_seg_from_a_viewer_is_saved_on_the_file_s_grid_and_offered_back(
    url: str, viewer: DICOMwebClient, folder: Path, tmp_path: Path
) -> None:
    study, series = uids_of(viewer, "ASL")
    files = viewer.retrieve_series(study, series)
    drawn = np.zeros((len(files), files[0].Rows, files[0].Columns), np.uint8)
    drawn[1:4, 2, 1:3], drawn[2, 3:5, 1] = 6, 1
    headers = []
    for ds in files:
        del ds.PixelData
        headers.append(ds)
    seg = write_seg(sitk.GetImageFromArray(drawn), headers, LabelOrigin("x", 1))
    stream = BytesIO()
    seg.save_as(stream, enforce_file_format=True)
    stream.seek(0)
    answer = viewer.store_instances([pydicom.dcmread(stream)])
    assert len(answer.ReferencedSOPSequence) == 1
    saved = folder / "labels" / "final" / "ASL.nii.gz"
    image = sitk.ReadImage(str(file_of(folder, "ASL")))
    label = sitk.ReadImage(str(saved))
    assert label.GetSize() == image.GetSize()
    np.testing.assert_allclose(label.GetDirection(), image.GetDirection(), atol=1e-5)
    np.testing.assert_array_equal(read_labels(saved, read_volume(file_of(folder, "ASL"))).array, drawn)

    listed = {item["00080060"]["Value"][0]: item for item in viewer.search_for_series(study)}
    assert set(listed) == {"CT", "SEG"}
    seg_series = listed["SEG"]["0020000E"]["Value"][0]
    (offered,) = viewer.retrieve_series(study, seg_series)
    (about,) = viewer.retrieve_series_metadata(study, seg_series)
    assert about["00080018"]["Value"] == [offered.SOPInstanceUID]
    named = {i.ReferencedSOPInstanceUID for i in offered.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert named == {files[n].SOPInstanceUID for n in (1, 2, 3)}
    assert (offered.StudyInstanceUID, str(offered.PatientName)) == (study, "ASL")
    again = viewer.store_instances([offered])  # the server's own SEG comes back as the same label map
    assert len(again.ReferencedSOPSequence) == 1
    np.testing.assert_array_equal(read_labels(saved, read_volume(file_of(folder, "ASL"))).array, drawn)
    structures = requests.get(f"{url}/datastore/label/rtstruct", {"label": series})
    outlined = pydicom.dcmread(BytesIO(structures.content))
    assert outlined.StudyInstanceUID == study
    assert len(viewer.search_for_studies(search_filters={"ModalitiesInStudy": "SEG"})) == 1
    assert len(viewer.search_for_instances(study)) == len(files) + 1
    assert viewer.retrieve_study_metadata(study)[-1]["00080060"]["Value"] == ["SEG"]


def test_a_ct_opens_without_a_label_map_that_cannot_be_written_as_seg(url: str, viewer: DICOMwebClient, folder: Path) -> None:
    file = folder / "unwritable.nii.gz"
    image = small_ct(direction_of("LPS"), 9)
    sitk.WriteImage(image, str(file))
    label = folder / "labels" / "final" / file.name
    label.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.Cast(image > 0, sitk.sitkUInt8) * 200, str(label))  # an organ that SEGs of this server cannot name
    study, series = uids_of(viewer, "unwritable")
    count = image.GetSize()[2]
    assert len(viewer.retrieve_study_metadata(study)) == count
    assert len(viewer.retrieve_study(study)) == count
    assert len(viewer.search_for_instances(study)) == count
    assert [item["00080060"]["Value"] for item in viewer.search_for_series(study)] == [["CT"]]
    assert len(viewer.retrieve_series_metadata(study, series)) == count
    file.unlink()
    label.unlink()


def test_a_seg_of_a_replaced_image_is_refused(url: str, viewer: DICOMwebClient, folder: Path) -> None:
    file = folder / "changing.nii.gz"
    sitk.WriteImage(small_ct(direction_of("LPS"), 7), str(file))
    uids = uids_of(viewer, "changing")
    headers = viewer.retrieve_series(*uids)
    drawn = np.zeros((len(headers), headers[0].Rows, headers[0].Columns), np.uint8)
    drawn[2, 2, 2] = 6
    seg = write_seg(sitk.GetImageFromArray(drawn), headers, LabelOrigin("x", 1))
    sitk.WriteImage(small_ct(direction_of("LPS"), 8), str(file))
    assert uids_of(viewer, "changing") == uids
    now = viewer.retrieve_series_metadata(*uids)
    assert not {ds.SOPInstanceUID for ds in headers} & {item["00080018"]["Value"][0] for item in now}
    stream = BytesIO()
    seg.save_as(stream, enforce_file_format=True)
    stream.seek(0)
    with pytest.raises(requests.HTTPError, match="422"):
        viewer.store_instances([pydicom.dcmread(stream)])
    assert not (folder / "labels" / "final" / "changing.nii.gz").exists()


def test_uids_stay_the_same_after_a_restart(url: str, viewer: DICOMwebClient, folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    copied.mkdir()
    shutil.copy(folder / "RAS.nii.gz" if (folder / "RAS.nii.gz").exists() else file_of(folder, "RAS"), copied)
    conf = {"learning": "false", "server_hu": "as-is"}
    found = []
    for number in range(2):
        with server(copied, tmp_path / f"work{number}", conf) as client:
            other = DICOMwebClient(f"{client.get_server_url().rstrip('/')}/proxy/dicom/wado")
            uids = uids_of(other, "RAS")
            found.append((uids, [item["00080018"]["Value"][0] for item in other.retrieve_series_metadata(*uids)]))
    assert found[0] == found[1]
    assert found[0][0] != uids_of(viewer, "RAS"), "two folders share UIDs"


def test_a_study_is_named_by_its_uid_in_other_routes(url: str, viewer: DICOMwebClient) -> None:
    study, series = uids_of(viewer, "SAR")
    for uid in (study, series):
        about = requests.get(f"{url}/datastore/image/info", {"image": uid}).json()
        assert (about["StudyInstanceUID"], about["SeriesInstanceUID"]) == (study, series)
        assert about["name"].startswith("SAR.")
    assert requests.get(f"{url}/datastore/image/info", {"image": "2.25.1"}).status_code == 404
    assert listed(url)["SAR"]["viewer"].endswith(f"StudyInstanceUIDs={study}")


def test_a_removed_study_vanishes(url: str, viewer: DICOMwebClient, folder: Path) -> None:
    file = folder / "leaving.nii.gz"
    sitk.WriteImage(small_ct(direction_of("LPS"), 5), str(file))
    study, series = uids_of(viewer, "leaving")
    assert len(viewer.retrieve_series_metadata(study, series)) == 6
    assert requests.delete(f"{url}/datastore/image", params={"id": "leaving"}).ok
    assert viewer.search_for_studies(search_filters={"PatientID": "leaving"}) == []
    assert requests.get(f"{url}/proxy/dicom/wado/studies/{study}/series/{series}/metadata").status_code == 404
