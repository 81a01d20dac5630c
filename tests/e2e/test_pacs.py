"""A real Orthanc behind the real server: series are fetched, and label maps are sent back as DICOM SEG."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
import requests
import SimpleITK as sitk
from dicomweb_client import DICOMwebClient
from monailabel.client import MONAILabelClient
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from app.running import server
from datastores.pacs_datastore import PacsDatastore
from e2e.orthanc import orthanc, orthanc_program, send
from medsam2_atlas.atlas import ReferenceFiles
from medsam2_atlas.base.errors import NotFoundError
from medsam2_atlas.cli import app
from medsam2_atlas.dicom import LabelOrigin, read_rtstruct, read_seg, seg_series_uid, write_seg
from medsam2_atlas.dicom.web import DicomWeb
from medsam2_atlas.imaging.volume import read_volume, write_volume
from series_files import compress, upright, write_enhanced, write_series

pytestmark = pytest.mark.skipif(orthanc_program() is None, reason="Orthanc with its DICOMweb plugin is not installed")


@dataclass
class Hospital:
    """A PACS with one study, the server in front of it, and the study's UIDs and files."""

    pacs: DICOMwebClient
    client: MONAILabelClient
    url: str
    study: str
    series: str
    files: Path
    pacs_url: str

    def segs(self) -> list[Dataset]:
        """Returns all instances of the study's segmentations."""
        found = self.pacs.search_for_series(self.study, search_filters={"Modality": "SEG"})
        series = [str(Dataset.from_json(item).SeriesInstanceUID) for item in found]
        return [ds for uid in series for ds in self.pacs.retrieve_series(self.study, uid)]


def described(ds: Dataset, n: int) -> None:
    ds.StudyDescription = "abdomen, portal venous"


@pytest.fixture(scope="module")
def hospital(target_files: ReferenceFiles, atlas_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("hospital")
    files = write_series(folder / "series", sitk.ReadImage(str(target_files.image)), described)
    with orthanc(folder / "orthanc") as url:
        study, series = send(url, files)
        with server(url, folder / "server", {"atlas": str(atlas_folder)}) as client:
            yield Hospital(
                DICOMwebClient(url), client, client.get_server_url().rstrip("/"), study, series, folder / "series", url
            )


def test_a_list_of_studies_shows_their_descriptions(hospital: Hospital) -> None:
    """The viewer asks for all fields of its list in one parameter, with escaped commas."""
    query = {"StudyInstanceUID": hospital.study, "includefield": "00081030,00080060"}
    (found,) = requests.get(f"{hospital.url}/proxy/dicom/qido/studies", query, timeout=30).json()
    assert found["00081030"]["Value"] == ["abdomen, portal venous"]


def test_the_command_sends_a_folder_whose_instances_the_pacs_may_have(hospital: Hospital) -> None:
    done = CliRunner().invoke(app, ["dicom", "send", str(hospital.files), hospital.pacs_url], catch_exceptions=False)
    count = len([*hospital.files.iterdir()])
    assert done.stdout == f"sent to {hospital.pacs_url}: {count} instances; not sent: 0 instances, 0 files of other kinds\n"
    assert len(hospital.pacs.search_for_instances(hospital.study, hospital.series)) == count


def labels_of(file: str | Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def test_a_series_is_listed_segmented_and_comes_back_in_its_own_grid_and_order(hospital: Hospital) -> None:
    about = hospital.client.info()
    assert about["datastore"]["total"] == 1
    chosen = hospital.client.next_sample("first", {})
    assert chosen["id"] == hospital.series
    file, answer = hospital.client.infer("unet_3d", hospital.series, {"result_extension": ".nrrd"})
    image = sitk.ReadImage([str(f) for f in sorted(hospital.files.iterdir())])
    label = sitk.ReadImage(file)
    assert label.GetSize() == image.GetSize()
    assert np.allclose(label.GetOrigin(), image.GetOrigin(), atol=1e-3)
    assert label.GetPixelID() == sitk.sitkUInt8
    assert answer["label_names"]["liver"] == 6
    hu = sitk.GetArrayFromImage(image)[labels_of(file) == 6]
    assert 0 < np.median(hu) < 150


def test_a_jpeg_2000_series_that_orthanc_does_not_convert_is_segmented(hospital: Hospital, tmp_path: Path) -> None:
    image = sitk.ReadImage([str(file) for file in sorted(hospital.files.iterdir())])
    files = write_series(tmp_path / "series", image)
    for file in files:
        compress(file)
    study, series = send(hospital.pacs_url, files)
    plain, _ = hospital.client.infer("unet_3d", hospital.series, {"result_extension": ".nrrd"})
    until = time.monotonic() + 60
    while requests.get(f"{hospital.url}/datastore/image/info", {"image": series}).status_code == 404:
        assert time.monotonic() < until  # the server looks for new series every few seconds
        time.sleep(0.5)
    file, _ = hospital.client.infer("unet_3d", series, {"result_extension": ".nrrd"})
    assert (labels_of(file) == labels_of(plain)).all()
    orthanc_url = hospital.pacs_url.removesuffix("/dicom-web")
    (found,) = requests.post(f"{orthanc_url}/tools/lookup", study, timeout=30).json()
    requests.delete(f"{orthanc_url}{found['Path']}", timeout=30).raise_for_status()


def test_signed_off_label_maps_arrive_as_segmentations_with_increasing_versions(hospital: Hospital, tmp_path: Path) -> None:
    file, _ = hospital.client.infer("unet_3d", hospital.series, {})
    hospital.client.save_label(hospital.series, file, tag="final")
    (seg,) = hospital.segs()
    assert seg.SeriesInstanceUID == seg_series_uid(hospital.series, "final")
    assert (read_seg(seg, hospital.files) == labels_of(file)).all()
    assert {item.SegmentAlgorithmType for item in seg.SegmentSequence} == {"SEMIAUTOMATIC"}
    assert hospital.client.info()["datastore"]["completed"] == 1  # at once
    label = sitk.ReadImage(file)
    emptied = sitk.GetImageFromArray(np.zeros(label.GetSize()[::-1], np.uint8))
    emptied.CopyInformation(label)
    sitk.WriteImage(emptied, str(tmp_path / "empty.nii.gz"))
    hospital.client.save_label(hospital.series, str(tmp_path / "empty.nii.gz"), tag="final", params={"confirm": True})
    segs = sorted(hospital.segs(), key=lambda ds: ds.InstanceNumber)
    assert [ds.InstanceNumber for ds in segs] == [1, 2]
    assert len({ds.SeriesInstanceUID for ds in segs}) == 1
    assert not read_seg(segs[1], hospital.files).any()
    shown = requests.get(
        f"{hospital.url}/proxy/dicom/wado/studies/{hospital.study}/series/{segs[0].SeriesInstanceUID}/metadata"
    ).json()
    assert [item["00080018"]["Value"][0] for item in shown] == [segs[1].SOPInstanceUID]
    info = requests.get(f"{hospital.url}/datastore/label/info", {"label": hospital.series, "tag": "final"}).json()
    assert info["pacs"]["state"] == "sent"


def test_a_segmentation_that_a_viewer_stores_becomes_the_next_version(hospital: Hospital) -> None:
    image = read_volume(hospital.files)
    drawn = np.zeros(image.array.shape, np.uint8)
    drawn[3:6, 40:60, 40:60], drawn[4:8, 70:80, 70:80] = 3, 9
    seg = write_seg(image.with_array(drawn).restored(), hospital.files, LabelOrigin("drawn", 1, "Viewer"))
    before = len(requests.get(f"{hospital.url}/datastore/label/versions", {"label": hospital.series}).json())
    answer = DICOMwebClient(f"{hospital.url}/proxy/dicom/wado").store_instances([seg])
    assert answer.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == seg.SOPInstanceUID
    versions = requests.get(f"{hospital.url}/datastore/label/versions", {"label": hospital.series}).json()
    assert len(versions) == before + 1
    file = hospital.client.download_label(hospital.series, "final")
    expected = sitk.GetArrayFromImage(image.with_array(drawn).restored())
    assert (labels_of(file) == expected).all()
    newest = max(hospital.segs(), key=lambda ds: ds.InstanceNumber)
    assert (read_seg(newest, hospital.files) == expected).all()


def test_a_label_map_with_other_axes_is_sent_in_the_series_order(hospital: Hospital, tmp_path: Path) -> None:
    file, _ = hospital.client.infer("unet_3d", hospital.series, {})
    turned = sitk.DICOMOrient(sitk.ReadImage(file), "RAS")
    sitk.WriteImage(turned, str(tmp_path / "turned.nii.gz"))
    hospital.client.save_label(hospital.series, str(tmp_path / "turned.nii.gz"), tag="final")
    newest = max(hospital.segs(), key=lambda ds: ds.InstanceNumber)
    assert (read_seg(newest, hospital.files) == labels_of(file)).all()


def test_a_label_map_is_exported_as_a_structure_set(hospital: Hospital) -> None:
    file, _ = hospital.client.infer("unet_3d", hospital.series, {})
    hospital.client.save_label(hospital.series, file, tag="final")
    for tag, made in (("final", "SEMIAUTOMATIC"), ("unet_3d", "AUTOMATIC")):
        answer = requests.get(f"{hospital.url}/datastore/label/rtstruct", {"label": hospital.series, "tag": tag})
        assert answer.headers["content-type"] == "application/dicom"
        ds = pydicom.dcmread(BytesIO(answer.content))
        assert (read_rtstruct(ds, hospital.files) == labels_of(file)).all()
        assert {item.ROIGenerationAlgorithm for item in ds.StructureSetROISequence} == {made}
    assert requests.get(f"{hospital.url}/datastore/label/rtstruct", {"label": "1.2.3"}).status_code == 404


def test_objects_that_viewers_may_not_store_are_refused(hospital: Hospital) -> None:
    before = len(hospital.segs())
    stow = f"{hospital.url}/proxy/dicom/wado/studies"
    ct = next(hospital.files.iterdir())
    multipart = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}

    def post(content: bytes) -> requests.Response:
        body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--b--\r\n"
        return requests.post(stow, body, headers=multipart)

    assert post(ct.read_bytes()).status_code == 422
    assert post(b"garbage").status_code == 422
    assert requests.post(stow, b"x", headers={"Content-Type": "application/dicom"}).status_code == 422
    image = read_volume(hospital.files)
    seg = write_seg(image.with_array(np.zeros(image.array.shape, np.uint8)).restored(), hospital.files, LabelOrigin("x", 1))
    seg.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"
    stream = BytesIO()
    seg.save_as(stream, enforce_file_format=True)
    answer = post(stream.getvalue())
    assert answer.status_code == 422
    assert "does not refer to a CT series" in answer.json()["detail"]
    assert len(hospital.segs()) == before


@pytest.mark.parametrize(
    "path", ["wado/../instances", "../system", "wado/studies/../../system", "system", "wado/studies/%2e%2e/x"]
)
def test_the_route_to_the_pacs_reaches_only_dicomweb_paths(hospital: Hospital, path: str) -> None:
    request = requests.Request("GET", hospital.url).prepare()
    request.url = f"{hospital.url}/proxy/dicom/{path}"  # set directly, because requests would normalise it
    answer = requests.Session().send(request)
    assert answer.status_code in (404, 422)
    assert "DicomAet" not in answer.text


def test_viewers_get_pixels_and_lists_through_the_server(hospital: Hospital) -> None:
    through = DICOMwebClient(f"{hospital.url}/proxy/dicom/wado", qido_url_prefix="../qido")
    listed = requests.get(f"{hospital.url}/proxy/dicom/qido/studies").json()
    assert listed[0]["0020000D"]["Value"] == [hospital.study]
    instances = through.retrieve_series(hospital.study, hospital.series)
    assert len(instances) == len(list(hospital.files.iterdir()))
    first = {pydicom.dcmread(f).SOPInstanceUID: f for f in hospital.files.iterdir()}
    assert (instances[0].pixel_array == pydicom.dcmread(first[instances[0].SOPInstanceUID]).pixel_array).all()


def test_a_label_map_is_saved_while_the_pacs_is_down_and_sent_later(
    target_files: ReferenceFiles, atlas_folder: Path, tmp_path: Path
) -> None:
    files = write_series(tmp_path / "series", sitk.ReadImage(str(target_files.image)))
    conf = {"atlas": str(atlas_folder)}
    with orthanc(tmp_path / "orthanc") as url:
        port = url.split(":")[2].split("/")[0]
        _, series = send(url, files)
        with server(url, tmp_path / "server", conf) as client:
            base = client.get_server_url().rstrip("/")
            file, _ = client.infer("unet_3d", series, {})
            config = json.loads((tmp_path / "orthanc" / "orthanc.json").read_text())
            assert str(config["HttpPort"]) == port
            requests.post(f"http://127.0.0.1:{port}/tools/shutdown")
            time.sleep(1)
            answer = client.save_label(series, file, tag="final")
            assert answer["version"] == 1
            about = requests.get(f"{base}/datastore/label/info", {"label": series, "tag": "final"}).json()
            assert about["pacs"]["state"] == "pending"
            assert (labels_of(client.download_label(series, "final")) == labels_of(file)).all()


def test_waiting_label_maps_are_sent_when_the_pacs_is_back(target_files: ReferenceFiles, tmp_path: Path) -> None:
    files = write_series(tmp_path / "series", sitk.ReadImage(str(target_files.image)))
    with orthanc(tmp_path / "orthanc") as url:
        study, series = send(url, files)
        there, web = DICOMwebClient(url), DicomWeb(url)
        datastore = PacsDatastore(web, tmp_path / "work")
        image = read_volume(datastore.get_image_uri(series))
        write_volume(image.with_array(np.zeros(image.array.shape, np.uint8)), tmp_path / "label.nii.gz")
        datastore.web = DicomWeb("http://127.0.0.1:9/dicom-web")
        datastore.save_person_label(series, tmp_path / "label.nii.gz", "final", {"user": "kim", "confirm": True})
        assert datastore.get_label_info(series, "final")["pacs"]["state"] == "pending"
        datastore.send_pending()
        assert datastore.get_label_info(series, "final")["pacs"]["state"] == "pending"
        datastore.web = web
        for known in ({}, {"pacs": {}}):  # the second time as if the record of the sending had been lost
            datastore.store.update_label_info(series, "final", known)
            datastore.send_pending()
            assert datastore.get_label_info(series, "final")["pacs"]["state"] == "sent"
        (seg,) = there.retrieve_series(study, seg_series_uid(series, "final"))
        datastore.restore_label(series, "final", 1, "lee")
        segs = there.retrieve_series(study, seg_series_uid(series, "final"))
        assert {(ds.InstanceNumber, str(ds.ContentCreatorName)) for ds in segs} == {(1, "kim^"), (2, "lee^")}
        assert str(seg.ContentCreatorName) == "kim^"
        assert {item.SegmentAlgorithmType for item in seg.SegmentSequence} == {"MANUAL"}


def test_a_series_with_a_hostile_name_in_orthanc_erases_nothing(target_files: ReferenceFiles, tmp_path: Path) -> None:
    files = write_series(tmp_path / "series", sitk.ReadImage(str(target_files.image)))

    def hostile(ds: Dataset, n: int) -> None:
        ds.SeriesInstanceUID = ".."

    others = write_series(tmp_path / "hostile", sitk.ReadImage(str(target_files.image))[:, :, :3], hostile)
    with orthanc(tmp_path / "orthanc") as url:
        _, series = send(url, files)
        send(url, others)
        datastore = PacsDatastore(DicomWeb(url), tmp_path / "work")
        assert datastore.list_images() == [series]
        image = read_volume(datastore.get_image_uri(series))
        write_volume(image.with_array((image.array > 0).astype(np.uint8)), tmp_path / "label.nii.gz")
        datastore.save_person_label(series, tmp_path / "label.nii.gz", "final", {})
        with pytest.raises(NotFoundError):
            datastore.get_image_uri("..")
        assert "'..'" in datastore.problems()
        assert datastore.store.versions(series, "final")


def test_an_enhanced_ct_in_the_pacs_is_read_and_its_label_map_refers_to_frames(tmp_path: Path) -> None:
    array = np.random.default_rng(2).integers(-1000, 1000, (6, 20, 24))
    files = write_enhanced(tmp_path / "series", upright(array), order=[3, 0, 5, 1, 4, 2])
    with orthanc(tmp_path / "orthanc") as url:
        study, series = send(url, files)
        datastore = PacsDatastore(DicomWeb(url), tmp_path / "work")
        image = read_volume(datastore.get_image_uri(series))
        assert (image.array == array).all()
        drawn = np.zeros(array.shape, np.uint8)
        drawn[1:4, 2:9, 3:12] = 6
        write_volume(image.with_array(drawn), tmp_path / "label.nii.gz")
        datastore.save_person_label(series, tmp_path / "label.nii.gz", "final", {})
        (seg,) = DICOMwebClient(url).retrieve_series(study, seg_series_uid(series, "final"))
    assert (read_seg(seg, tmp_path / "series") == drawn).all()
    items = [frame.DerivationImageSequence[0].SourceImageSequence[0] for frame in seg.PerFrameFunctionalGroupsSequence]
    assert {item.ReferencedSOPInstanceUID for item in items} == {pydicom.dcmread(files[0]).SOPInstanceUID}
    assert {item.ReferencedFrameNumber for item in items} <= set(range(1, 7))
