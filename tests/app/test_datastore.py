"""The datastore of a studies folder, and the real server's routes for images and label maps."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import SimpleITK as sitk
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException

from datastores.archive import write_archive
from datastores.confirmations import Confirmations, Refusal
from datastores.study_datastore import StudyDatastore
from files.slicer_files import segment, write_segmentation
from medsam2_atlas.atlas import ReferenceFiles
from medsam2_atlas.base.errors import ConfirmError, InputError
from medsam2_atlas.imaging.sent_labels import renumber
from medsam2_atlas.imaging.volume import read_labels, read_volume
from tasks.scoring_method import OrganScoring


def label_file(studies: Path, file: Path, *organs: int) -> Path:
    image = sitk.ReadImage(str(studies / "first.nii.gz"))
    array = np.zeros(image.GetSize()[::-1], np.uint8)
    for number, organ in enumerate(organs):
        array[2:5, 10:20, 10 + 10 * number : 20 + 10 * number] = organ
    label = sitk.GetImageFromArray(array)
    label.CopyInformation(image)
    sitk.WriteImage(label, str(file))
    return file


def save(url: str, file: Path, study: str = "first", tag: str = "final", **query: Any) -> requests.Response:
    with file.open("rb") as stream:
        return requests.put(
            f"{url}/datastore/label", files={"label": (file.name, stream)}, params={"image": study, "tag": tag, **query}
        )


def test_label_maps_are_versioned_and_a_conflicting_change_is_refused(url: str, studies: Path, tmp_path: Path) -> None:
    six, two = label_file(studies, tmp_path / "six.nii.gz", 6), label_file(studies, tmp_path / "two.nii.gz", 2)
    assert save(url, six, expected_version=0).json()["version"] == 1
    late = save(url, two, expected_version=0)
    assert late.status_code == 409
    assert late.json()["error"]["reason"] == "conflict"
    assert "version 1" in late.json()["detail"]
    saved = save(url, two, expected_version=1, confirm=True).json()
    assert (saved["version"], saved["replaced"]["version"]) == (2, 1)
    about = requests.get(f"{url}/datastore/label/info", {"label": "first", "tag": "final"}).json()
    assert (about["version"], about["origin"]) == (2, "person")
    status = requests.get(f"{url}/info/").json()["datastore"]
    assert (status["completed"], status["label_tags"]["final"]) == (1, 1)
    restored = requests.post(f"{url}/datastore/label/restore", params={"label": "first", "version": 1}).json()
    assert restored["version"] == 3
    assert [v["origin"] for v in requests.get(f"{url}/datastore/label/versions", {"label": "first"}).json()] == [
        "person",
        "person",
        "restored",
    ]
    old = requests.get(f"{url}/datastore/label/version", {"label": "first", "version": 2})
    assert old.content == two.read_bytes()
    confirmed = requests.post(f"{url}/datastore/label/confirm", params={"label": "first"}).json()
    assert (confirmed["version"], confirmed["origin"], confirmed["info"]["confirmed"]) == (4, "person", 3)
    requests.delete(f"{url}/datastore/label", params={"id": "first", "tag": "final"})
    assert requests.get(f"{url}/info/").json()["datastore"]["completed"] == 0


def test_an_empty_label_map_is_signed_off_only_after_confirmation(url: str, studies: Path, tmp_path: Path) -> None:
    empty = label_file(studies, tmp_path / "empty.nii.gz")
    refused = save(url, empty, study="second")
    assert refused.status_code == 409
    assert refused.json()["error"]["reason"] == "confirm"
    assert refused.json()["error"]["organs"] == []
    assert "empty" in refused.json()["error"]["message"]
    assert not list((studies / "labels").glob("final/second*"))
    assert requests.get(f"{url}/info/").json()["datastore"]["completed"] == 0
    again = save(url, empty, study="second")  # sending the same label map again confirms it
    assert again.status_code == 200
    assert again.json()["organs"] == []
    requests.delete(f"{url}/datastore/label", params={"id": "second", "tag": "final"})


def test_organs_are_removed_only_after_confirmation(url: str, studies: Path, tmp_path: Path) -> None:
    both, one = label_file(studies, tmp_path / "both.nii.gz", 6, 2), label_file(studies, tmp_path / "one.nii.gz", 2)
    assert sorted(save(url, both, study="second").json()["organs"]) == ["liver", "right_kidney"]
    refused = save(url, one, study="second")
    assert refused.status_code == 409
    assert refused.json()["error"]["organs"] == ["liver"]
    assert "liver" in refused.json()["error"]["message"]
    assert (studies / "labels" / "final" / "second.nii.gz").read_bytes() == both.read_bytes()
    assert save(url, one, study="second", confirm=True).json()["organs"] == ["right_kidney"]
    assert save(url, both, study="second").status_code == 200  # added organs need no confirmation
    with one.open("rb") as stream:
        answer = requests.put(
            f"{url}/datastore/label",
            files={"label": ("one.nii.gz", stream)},
            data={"params": '{"confirm": "true"}'},
            params={"image": "second"},
        )
    assert answer.json()["organs"] == ["right_kidney"]
    about = requests.get(f"{url}/datastore/label/info", {"label": "second", "tag": "final"}).json()
    assert "confirm" not in about


def test_a_client_without_confirmation_dialog_confirms_by_sending_again(url: str, studies: Path, tmp_path: Path) -> None:
    client = MONAILabelClient(url, tmpdir=str(tmp_path))
    empty = label_file(studies, tmp_path / "empty.nii.gz")
    with pytest.raises(MONAILabelClientException, match="409"):
        client.save_label("second", str(empty), "final", {"label_info": []})
    assert client.save_label("second", str(empty), "final", {"label_info": []})["organs"] == []


@pytest.fixture
def shelf(tmp_path: Path) -> tuple[StudyDatastore, list[float]]:
    """Returns a datastore with a signed-off liver, and the time of its clock in seconds."""
    now = [0.0]
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((8, 8, 8), np.int16)), str(tmp_path / "first.nii.gz"))
    datastore = StudyDatastore(tmp_path, models=("unet_3d",), clock=lambda: now[0])
    datastore.save_label("first", str(cube(tmp_path, 6)), "final", {"user": "kim"})
    return datastore, now


def cube(folder: Path, organ: int) -> Path:
    array = np.zeros((8, 8, 8), np.uint8)
    array[2:5, 2:5, 2:5] = organ
    (folder / "sent").mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / "sent" / f"{organ}.nii.gz"))
    return folder / "sent" / f"{organ}.nii.gz"


def test_only_the_same_label_map_of_the_same_person_confirms(shelf: tuple[StudyDatastore, list[float]], tmp_path: Path) -> None:
    datastore, now = shelf
    for author, organ in (("kim", 2), ("lee", 2), ("kim", 0), ("", 2)):
        with pytest.raises(ConfirmError, match="liver"):
            datastore.save_label("first", str(cube(tmp_path, organ)), "final", {"user": author})
    now[0] = 601.0  # after ten minutes, a refusal is no longer kept
    with pytest.raises(ConfirmError):
        datastore.save_label("first", str(cube(tmp_path, 2)), "final", {"user": "kim"})
    now[0] = 1100.0
    datastore.save_label("first", str(cube(tmp_path, 2)), "final", {"user": "kim"})
    assert datastore.store.label("first", "final").version.organs == (2,)


def test_another_person_of_the_same_name_cannot_confirm(shelf: tuple[StudyDatastore, list[float]], tmp_path: Path) -> None:
    datastore, _ = shelf
    for who in ("token:kim", "oidc:https://login.example#7"):
        with pytest.raises(ConfirmError, match="liver"):
            datastore.save_person_label("first", cube(tmp_path, 2), "final", {"user": "kim", "author_id": "token:kim"}, who)
    saved = datastore.save_person_label("first", cube(tmp_path, 2), "final", {"user": "kim"}, "token:kim")
    assert (saved.label.version.author, saved.label.version.author_id) == ("kim", "token:kim")


def test_sending_again_does_not_confirm_if_the_client_asks_the_person(
    shelf: tuple[StudyDatastore, list[float]], tmp_path: Path
) -> None:
    datastore, _ = shelf
    for _ in range(3):
        with pytest.raises(ConfirmError):
            datastore.save_label("first", str(cube(tmp_path, 0)), "final", {"user": "kim", "confirm": False})
    assert datastore.store.label("first", "final").version.number == 1


def test_a_confirmation_is_not_valid_for_other_organs(shelf: tuple[StudyDatastore, list[float]], tmp_path: Path) -> None:
    datastore, _ = shelf
    with pytest.raises(ConfirmError, match="liver"):
        datastore.save_label("first", str(cube(tmp_path, 0)), "final", {"user": "kim"})
    datastore.save_label("first", str(cube(tmp_path, 2)), "final", {"user": "lee", "confirm": True})
    with pytest.raises(ConfirmError, match="kidney"):
        datastore.save_label("first", str(cube(tmp_path, 0)), "final", {"user": "kim"})


def test_the_number_of_recorded_refusals_is_limited() -> None:
    confirmations = Confirmations(kept=100)
    refusals = [Refusal("s", "final", "kim", str(n), ()) for n in range(1000)]
    assert not any(confirmations.confirms(refusal) for refusal in refusals)
    assert not confirmations.confirms(refusals[0])
    assert len(confirmations._times) == 100
    assert confirmations.confirms(refusals[-1])


def test_a_label_map_of_another_tag_may_be_empty(shelf: tuple[StudyDatastore, list[float]], tmp_path: Path) -> None:
    datastore, _ = shelf
    datastore.save_label("first", str(cube(tmp_path, 0)), "draft", {"user": "kim"})
    saved = datastore.store.labels()["first"]
    assert {tag: (label.version.number, label.problem) for tag, label in saved.items()} == {"draft": (1, ""), "final": (1, "")}


def test_damaged_files_do_not_break_listings(url: str, studies: Path) -> None:
    work = studies / ".medsam2_atlas"
    for name in (
        "about.json",
        "scores/x-against-y.json",
        "reports/unet_3d/first.json",
        "atlas/stats.json",
        "unet_3d/stats.json",
    ):
        file = work / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("[1, ")
    (work / "scores" / "z-against-y.json").write_text("[]")
    requests.put(f"{url}/datastore/image/info", params={"image": "first"}, data={"info": '{"strategy": {"first": "x"}}'})
    about = requests.get(f"{url}/info/")
    assert about.status_code == 200
    assert "cannot be read" in about.json()["scoring"]["organs"]["results"]["x-against-y"]["problem"]
    assert "cannot be read" in about.json()["train_stats"]["unet_3d"]["problem"]
    for route in ("/datastore/?output=all", "/datastore/?output=train", "/datastore/", "/worklist/cases"):
        assert requests.get(url + route).status_code == 200, route
    assert requests.post(f"{url}/activelearning/first", json={"client_id": "x"}).json()["id"] == "first"
    (work / "about.json").unlink()


def test_a_case_that_cannot_be_read_is_left_out_of_the_archive(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    pairs = {"a": (tmp_path / "a", tmp_path / "b"), "gone": (tmp_path / "a", tmp_path / "gone")}
    left_out = write_archive(tmp_path / "x.zip", pairs, {"name": "n"})
    assert "gone" in left_out["gone"]
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert sorted(archive.namelist()) == ["image/a", "label/b", "metadata.json"]
        reason = json.loads(archive.read("metadata.json"))["left_out"]["gone"]
    assert reason.endswith("/gone'")
    assert str(tmp_path) not in reason


def test_invalid_label_maps_are_refused(url: str, studies: Path, tmp_path: Path) -> None:
    (tmp_path / "garbage.nii.gz").write_bytes(b"\x1f\x8b garbage")
    assert save(url, tmp_path / "garbage.nii.gz").status_code == 422
    assert save(url, label_file(studies, tmp_path / "x.nii.gz", 77)).status_code == 422
    assert save(url, label_file(studies, tmp_path / "x.nii.gz", 6), tag="unet_3d").status_code == 422
    assert save(url, label_file(studies, tmp_path / "x.nii.gz", 6), study="nobody").status_code == 404
    (tmp_path / "large.nii.gz").write_bytes(b"0" * 1_100_000)
    assert save(url, tmp_path / "large.nii.gz").status_code == 413
    assert not (studies / "labels" / "final" / "first.nii.gz").exists()

    def chunks() -> Iterator[bytes]:  # makes the request chunked, so that it has no Content-Length
        yield b'--x\r\nContent-Disposition: form-data; name="label"; filename="l.nii.gz"\r\n\r\n'
        yield from (b"0" * 100_000 for _ in range(12))
        yield b"\r\n--x--\r\n"

    multipart = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = requests.put(f"{url}/datastore/label", params={"image": "first"}, data=chunks(), headers=multipart)
    assert answer.status_code == 413


def test_images_keep_their_full_names(url: str, short_files: ReferenceFiles, studies: Path) -> None:
    for name in ("a.1.nii.gz", "a.2.nii.gz"):
        with short_files.image.open("rb") as stream:
            answer = requests.put(f"{url}/datastore/image", files={"file": (name, stream)})
        assert answer.json() == {"image": name.removesuffix(".nii.gz")}
    with short_files.image.open("rb") as stream:
        answer = requests.put(f"{url}/datastore/image", files={"file": ("x.exe", stream)})
    assert answer.status_code == 422
    for name in ("a.1", "a.2"):
        assert requests.delete(f"{url}/datastore/image", params={"id": name}).status_code == 200
    assert not (studies / "a.1.nii.gz").exists()


def test_a_segmentation_of_slicer_is_stored_unchanged(url: str, studies: Path, tmp_path: Path) -> None:
    image = sitk.ReadImage(str(studies / "first.nii.gz"))
    liver, kidney = np.zeros((2, 3, 10, 20), np.uint8)
    liver[:, :, :12], kidney[:, :, 8:] = 1, 1
    layers = segment("Liver", 1, 0), segment("Kidney_left", 1, 1)
    file = write_segmentation(tmp_path / "first.seg.nrrd", [liver, kidney], layers, image, (10, 10, 2))
    client = MONAILabelClient(url, tmpdir=str(tmp_path))
    names = [{"name": "Liver", "idx": 1}, {"name": "Kidney_left", "idx": 2}]  # numbered as by Slicer's module
    saved = client.save_label("first", str(file), "by_slicer", {"label_info": names})
    assert sorted(saved["organs"]) == ["left_kidney", "liver"]
    assert saved["info"]["remarks"] == ["'Liver' and 'Kidney_left' share 120 voxels, which are 'Kidney_left'."]
    back = Path(client.download_label("first", "by_slicer"))
    assert back.name.endswith(".seg.nrrd")
    assert back.read_bytes() == file.read_bytes()
    labels = read_labels(back, read_volume(studies / "first.nii.gz"))
    assert np.bincount(labels.array.ravel(), minlength=7)[[3, 6]].tolist() == [360, 240]
    entry = requests.get(f"{url}/datastore/?output=all").json()["objects"]["first"]["labels"]["by_slicer"]
    assert (entry["ext"], entry["info"]["name"]) == (".seg.nrrd", "first.seg.nrrd")
    old = requests.get(f"{url}/datastore/label/version", {"label": "first", "tag": "by_slicer", "version": 1})
    assert "first.by_slicer.1.seg.nrrd" in old.headers["content-disposition"]

    unknown = write_segmentation(tmp_path / "x.seg.nrrd", [liver], [segment("cyst", 1)], image, (10, 10, 2))
    refused = save(url, unknown, tag="by_slicer")
    assert refused.status_code == 422
    assert "not organs: 'cyst'." in refused.json()["detail"]
    assert "Organs are Spleen, " in refused.json()["error"]["remedy"]
    with file.open("rb") as stream:
        refused = requests.put(f"{url}/datastore/image", files={"file": (file.name, stream)})
    assert refused.status_code == 422
    assert "is a segmentation, not a CT" in refused.json()["detail"]


def test_a_cropped_segmentation_is_scored_on_its_image(shelf: tuple[StudyDatastore, list[float]], tmp_path: Path) -> None:
    datastore, _ = shelf
    image = sitk.ReadImage(str(tmp_path / "first.nii.gz"))
    write_segmentation(tmp_path / "sent" / "x.seg.nrrd", [np.ones((3, 3, 3), np.uint8)], [segment("liver")], image, (2, 2, 2))
    datastore.save_label("first", str(tmp_path / "sent" / "x.seg.nrrd"), "slicer", {"user": "kim"})
    scoring = OrganScoring(datastore.store.work)
    for truth, predicted in (("final", "slicer"), ("slicer", "final")):
        assert scoring({"y": truth, "y_pred": predicted}, datastore)["mean"]["dice"] == 1.0


def test_voxels_are_renumbered_by_other_names_of_organs(tmp_path: Path) -> None:
    file = cube(tmp_path, 1)
    renumber(file, [{"name": "IVC", "idx": 1}, {"name": "cyst", "idx": 2}])
    assert read_labels(file).array.max() == 9
    with pytest.raises(InputError, match="contains 'cyst', which is not an organ"):
        renumber(cube(tmp_path, 2), [{"name": "IVC", "idx": 1}, {"name": "cyst", "idx": 2}])
