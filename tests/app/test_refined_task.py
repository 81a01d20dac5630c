"""The interactive task refines masks in the real server: uploaded ones, and stored versions of the study."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import SimpleITK as sitk

from app.running import process_of, server
from medsam2_atlas.atlas import ReferenceFiles
from server.access import role_for
from waiting import until

LIVER, RIGHT_KIDNEY = 6, 2


@pytest.fixture(scope="module")
def place(
    short_files: ReferenceFiles, atlas_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, Path]]:
    """Yields the server's URL, the studies folder and the server's folder for temporary files."""
    folder = tmp_path_factory.mktemp("refined")
    (folder / "studies").mkdir()
    (folder / "tmp").mkdir()
    for name in ("one", "two"):
        shutil.copy(short_files.image, folder / "studies" / f"{name}.nii.gz")
    conf = {"atlas": str(atlas_folder), "learning": "false", "server_label_mb": "1"}
    with server(folder / "studies", folder / "server", conf, {"TMPDIR": str(folder / "tmp")}, anew=True) as client:
        yield str(client.get_server_url()).rstrip("/"), folder / "studies", folder / "tmp"


@pytest.fixture
def url(place: tuple[str, Path, Path]) -> Iterator[str]:
    yield place[0]
    until(lambda: not [f for f in place[2].glob("medsam2_atlas-*") if f.is_file()], 10, "the server leaves temporary files")


@pytest.fixture(scope="module")
def truth(short_files: ReferenceFiles) -> np.ndarray:
    """Returns the organ numbers in the file's axes `[z, y, x]`."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(short_files.label)))


@pytest.fixture(scope="module")
def sparse(truth: np.ndarray) -> np.ndarray:
    """Returns the right kidney on every third slice, and the whole liver."""
    labels = np.where(truth == LIVER, truth, 0).astype(np.uint8)
    slices = np.flatnonzero((truth == RIGHT_KIDNEY).any((1, 2)))
    drawn = [*slices[::3], slices[-1]]
    labels[drawn] = np.where(truth[drawn] == RIGHT_KIDNEY, RIGHT_KIDNEY, labels[drawn])
    return labels


def written(labels: np.ndarray, like: Path, file: Path) -> Path:
    image = sitk.GetImageFromArray(labels)
    image.CopyInformation(sitk.ReadImage(str(like)))
    sitk.WriteImage(image, str(file))
    return file


def infer(
    url: str, params: dict[str, Any], mask: Path | bytes | None = None, name: str = "m.nii.gz", study: str = "one", **more: Any
) -> requests.Response:
    content = mask.read_bytes() if isinstance(mask, Path) else mask
    return requests.post(
        f"{url}/infer/{more.pop('model', 'medsam2')}",
        params={"image": study, "output": more.pop("output", "json")} | more,
        data={"params": json.dumps(params)},
        files=None if content is None else {"mask": (name, content)},
        timeout=120,
    )


def result_of(url: str, *arguments: Any, folder: Path, **more: Any) -> np.ndarray:
    answer = infer(url, *arguments, output="image", **more)
    assert answer.status_code == 200, answer.text
    (folder / "answer.nii.gz").write_bytes(answer.content)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "answer.nii.gz")))


def test_an_uploaded_mask_is_completed(
    url: str, truth: np.ndarray, sparse: np.ndarray, short_files: ReferenceFiles, tmp_path: Path
) -> None:
    mask = written(sparse, short_files.image, tmp_path / "mask.nii.gz")
    found = result_of(url, {"label": "right_kidney"}, mask, folder=tmp_path)
    assert set(np.unique(found)) == {0, RIGHT_KIDNEY}
    drawn = (sparse == RIGHT_KIDNEY).any((1, 2))
    assert ((found == RIGHT_KIDNEY) == (sparse == RIGHT_KIDNEY))[drawn].all()
    kidney = truth == RIGHT_KIDNEY
    assert 2 * ((found == RIGHT_KIDNEY) & kidney).sum() > 0.85 * ((found == RIGHT_KIDNEY).sum() + kidney.sum())
    report = infer(url, {"label": "right_kidney"}, mask).json()["report"]
    assert report["refined"]["mask"] == "upload"
    assert report["refined"]["added"] == int((found == RIGHT_KIDNEY).sum() - (sparse == RIGHT_KIDNEY).sum())
    assert report["refined"]["removed"] == 0
    assert len(report["refined"]["sha256"]) == 64


def test_a_mask_of_another_type_or_axes_gives_the_same_result(
    url: str, sparse: np.ndarray, short_files: ReferenceFiles, tmp_path: Path
) -> None:
    first = infer(url, {"label": "liver"}, written(sparse, short_files.image, tmp_path / "a.nii.gz")).json()
    other = sitk.Cast(sitk.ReadImage(str(tmp_path / "a.nii.gz")), sitk.sitkFloat32)
    sitk.WriteImage(sitk.DICOMOrient(other, "RAI"), str(tmp_path / "b.nrrd"), True)
    second = infer(url, {"label": "liver"}, tmp_path / "b.nrrd", name="b.nrrd").json()
    assert first["report"]["refined"] == second["report"]["refined"]


def test_a_stored_version_is_refined_and_named_in_the_report(
    url: str, place: tuple[str, Path, Path], truth: np.ndarray, sparse: np.ndarray, short_files: ReferenceFiles, tmp_path: Path
) -> None:
    for labels in (sparse, np.where(truth == LIVER, truth, 0).astype(np.uint8)):
        file = written(labels, short_files.image, tmp_path / "label.nii.gz")
        saved = requests.put(
            f"{url}/datastore/label?image=one&tag=draft", files={"label": ("l.nii.gz", file.read_bytes())}, timeout=60
        )
        assert saved.status_code == 200, saved.text
    newest = infer(url, {"label": "liver", "mask": "draft"}).json()["report"]["refined"]
    assert newest["mask"] == "draft, version 2"
    assert (newest["added"], newest["removed"]) == (0, 0)
    first = infer(url, {"label": "right_kidney", "mask": "draft", "mask_version": 1}).json()["report"]["refined"]
    assert first["mask"] == "draft, version 1"
    assert first["added"] > 0
    missing = infer(url, {"label": "right_kidney", "mask": "draft"})  # version 2 has no kidney
    assert missing.status_code == 422
    assert "has no voxel of right_kidney" in missing.json()["error"]["message"]
    audit = requests.get(f"{url}/audit/", params={"action": "model.run"}, timeout=10).text
    assert "draft, version 1" in audit


def test_a_mask_of_the_session_is_uploaded_with_the_request(
    url: str, sparse: np.ndarray, short_files: ReferenceFiles, tmp_path: Path
) -> None:
    opened = requests.put(f"{url}/session/", files={"files": ("ct.nii.gz", short_files.image.read_bytes())}, timeout=60).json()
    session = opened["session_id"]
    mask = written(sparse, short_files.image, tmp_path / "mask.nii.gz")
    answer = infer(url, {"label": "liver"}, mask, study="", session_id=session)
    assert answer.status_code == 200, answer.text
    stored = infer(url, {"label": "liver", "mask": "final"}, study="", session_id=session)
    assert (stored.status_code, "is not a study" in stored.text) == (422, True)
    requests.delete(f"{url}/session/{session}", timeout=10)


def test_points_correct_an_uploaded_mask(
    url: str, sparse: np.ndarray, truth: np.ndarray, short_files: ReferenceFiles, tmp_path: Path
) -> None:
    leaking = np.where(truth == LIVER, truth, 0).astype(np.uint8)
    z = int(np.median(np.flatnonzero((truth == LIVER).any((1, 2)))))
    leaking[z - 1 : z + 2, :8, :8] = LIVER
    mask = written(leaking, short_files.image, tmp_path / "mask.nii.gz")
    found = result_of(url, {"label": "liver", "background": [[3, 3, z]]}, mask, folder=tmp_path)
    assert not found[z - 1 : z + 2, :8, :8].any()
    assert ((found == LIVER) == (truth == LIVER)).mean() > 0.999


@pytest.mark.parametrize(
    ("params", "status", "message"),
    [
        ({"label": "liver", "mask": "nothing"}, 404, "has no label map under"),
        ({"label": "liver", "mask": "final", "mask_version": 9}, 404, "has no"),
        ({"label": "liver", "mask": "final", "mask_version": 0}, 422, "invalid parameters"),
        ({"label": "liver", "mask": "final", "mask_version": "../1"}, 422, "invalid parameters"),
        ({"label": "liver", "mask": "../../two"}, 404, "has no label map under"),
        ({"label": "liver", "mask": "/etc/passwd"}, 404, "has no label map under"),
        ({"label": "liver", "mask": "x" * 500}, 422, "invalid parameters"),
        ({"label": "liver", "mask": "a\x00b"}, 422, "invalid parameters"),
        ({"label": "liver", "given_mask": {"file": "/etc/passwd"}}, 422, "do not show the organ"),
    ],
)
def test_a_request_names_only_label_maps_of_its_own_study(url: str, params: dict[str, Any], status: int, message: str) -> None:
    answer = infer(url, params)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]["message"]


def test_naming_a_label_map_needs_the_rights_of_reading_it() -> None:
    assert role_for("POST", "/infer/medsam2") == role_for("GET", "/datastore/label/version")


def test_masks_that_cannot_be_used_are_refused(
    url: str, place: tuple[str, Path, Path], sparse: np.ndarray, short_files: ReferenceFiles, tmp_path: Path
) -> None:
    good = written(sparse, short_files.image, tmp_path / "good.nii.gz")
    moved = sitk.ReadImage(str(good))
    moved.SetOrigin((500.0, 0.0, 0.0))
    sitk.WriteImage(moved, str(tmp_path / "moved.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(sparse[:-1]), str(tmp_path / "short.nii.gz"))
    written(sparse.astype(np.float32) + 0.4, short_files.image, tmp_path / "fractions.nii.gz")
    written(sparse.astype(np.int16) * 100, short_files.image, tmp_path / "large.nii.gz")
    liver = {"label": "liver"}
    for params, mask, name, message in (
        (liver, tmp_path / "moved.nii.gz", "m.nii.gz", "different grid"),
        (liver, tmp_path / "short.nii.gz", "m.nii.gz", "different grid"),
        (liver, tmp_path / "fractions.nii.gz", "m.nii.gz", "whole numbers"),
        (liver, tmp_path / "large.nii.gz", "m.nii.gz", "0 to 255"),
        (liver, b"", "m.nii.gz", ""),
        (liver, b"no image" * 100, "m.nii.gz", ""),
        (liver, gzip.compress(bytes(1 << 20))[:200], "m.nii.gz", ""),
        (liver, good, "m.exe", "unsupported type"),
        (liver, good, "../../m", "unsupported type"),
        (liver | {"mask": "final"}, good, "m.nii.gz", "given twice"),
        ({"label": "stomach"}, good, "m.nii.gz", "has no voxel of stomach"),
    ):
        answer = infer(url, params, mask, name=name)
        assert answer.status_code == 422, (message, answer.text)
        assert message in answer.json()["error"]["message"], answer.text
        assert str(place[2]) not in answer.text
    assert infer(url, liver, good, model="atlas").status_code == 422
    assert "refines no mask" in infer(url, liver, good, model="atlas").text


def test_a_mask_may_be_as_large_as_a_label_map(url: str) -> None:
    """`server_label_mb` is 1 here; the whole request may have `server_upload_mb`."""
    assert infer(url, {"label": "liver"}, bytes(1_000_001)).status_code == 413
    assert infer(url, {"label": "liver"}, bytes(1_000_000)).status_code == 422


def test_the_server_still_runs(place: tuple[str, Path, Path]) -> None:
    assert process_of(place[0]).poll() is None
