"""Labels and images that the real server stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import requests
import SimpleITK as sitk

from medsam2_atlas.atlas import ReferenceFiles


def label_file(studies: Path, file: Path, organ: int) -> Path:
    image = sitk.ReadImage(str(studies / "first.nii.gz"))
    array = np.zeros(image.GetSize()[::-1], np.uint8)
    array[2:5, 10:20, 10:20] = organ
    label = sitk.GetImageFromArray(array)
    label.CopyInformation(image)
    sitk.WriteImage(label, str(file))
    return file


def save(url: str, file: Path, study: str = "first", tag: str = "final", **query: Any) -> requests.Response:
    with file.open("rb") as stream:
        return requests.put(
            f"{url}/datastore/label", files={"label": (file.name, stream)}, params={"image": study, "tag": tag, **query}
        )


def test_labels_are_versioned_and_two_annotators_see_each_other(url: str, studies: Path, tmp_path: Path) -> None:
    six, two = label_file(studies, tmp_path / "six.nii.gz", 6), label_file(studies, tmp_path / "two.nii.gz", 2)
    assert save(url, six, expected_version=0).json()["version"] == 1
    late = save(url, two, expected_version=0)
    assert late.status_code == 409
    assert "version 1" in late.json()["detail"]
    saved = save(url, two, expected_version=1).json()
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
    requests.delete(f"{url}/datastore/label", params={"id": "first", "tag": "final"})
    assert requests.get(f"{url}/info/").json()["datastore"]["completed"] == 0


def test_labels_that_cannot_be_right_are_refused(url: str, studies: Path, tmp_path: Path) -> None:
    (tmp_path / "garbage.nii.gz").write_bytes(b"\x1f\x8b garbage")
    assert save(url, tmp_path / "garbage.nii.gz").status_code == 422
    assert save(url, label_file(studies, tmp_path / "x.nii.gz", 77)).status_code == 422
    assert save(url, label_file(studies, tmp_path / "x.nii.gz", 6), tag="unet_3d").status_code == 422
    assert save(url, label_file(studies, tmp_path / "x.nii.gz", 6), study="nobody").status_code == 404
    (tmp_path / "large.nii.gz").write_bytes(b"0" * 1_100_000)
    assert save(url, tmp_path / "large.nii.gz").status_code == 413
    assert not (studies / "labels" / "final" / "first.nii.gz").exists()

    def chunks() -> Iterator[bytes]:  # of untold length
        yield b'--x\r\nContent-Disposition: form-data; name="label"; filename="l.nii.gz"\r\n\r\n'
        yield from (b"0" * 100_000 for _ in range(12))
        yield b"\r\n--x--\r\n"

    multipart = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = requests.put(f"{url}/datastore/label", params={"image": "first"}, data=chunks(), headers=multipart)
    assert answer.status_code == 413


def test_images_keep_their_whole_names(url: str, target_files: ReferenceFiles, studies: Path) -> None:
    for name in ("a.1.nii.gz", "a.2.nii.gz"):
        with target_files.image.open("rb") as stream:
            answer = requests.put(f"{url}/datastore/image", files={"file": (name, stream)})
        assert answer.json() == {"image": name.removesuffix(".nii.gz")}
    with target_files.image.open("rb") as stream:
        answer = requests.put(f"{url}/datastore/image", files={"file": ("x.exe", stream)})
    assert answer.status_code == 422
    for name in ("a.1", "a.2"):
        assert requests.delete(f"{url}/datastore/image", params={"id": name}).status_code == 200
    assert not (studies / "a.1.nii.gz").exists()
