"""Uploads of CTs: image files, DICOM slices and ZIP archives, from well-meaning people and from attackers."""

from __future__ import annotations

import errno
import io
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import numpy as np
import pytest
import requests
import SimpleITK as sitk

from app.running import server
from datastores import sent_cts
from datastores.sent_cts import SentFile, add_cts
from datastores.study_datastore import StudyDatastore
from medsam2_atlas.imaging.volume import read_volume
from oriented_files import direction_of, small_ct
from series_files import write_series
from server import sent_images
from server.access import LOCAL
from server.in_turn import in_turn
from token_files import token_of, tokens_for


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def url(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    conf = {"learning": "false", "server_hu": "as-is", "server_upload_mb": "2"}
    with server(studies, tmp_path_factory.mktemp("server"), conf) as client:
        yield client.get_server_url().rstrip("/")


def send(url: str, files: dict[str, bytes], image: str = "", **options: Any) -> requests.Response:
    parts = [("files", (name, content)) for name, content in files.items()]
    return requests.put(f"{url}/datastore/upload", params={"image": image} if image else {}, files=parts, **options)


def image_file(folder: Path, name: str, code: str = "RAS", seed: int = 0) -> bytes:
    sitk.WriteImage(small_ct(direction_of(code), seed), str(folder / name))
    return (folder / name).read_bytes()


def slices(folder: Path, seed: int = 0) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in write_series(folder, small_ct(direction_of("LPS"), seed))}


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def files_in(studies: Path) -> set[str]:
    return {file.name for file in studies.iterdir() if file.is_file()}


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_an_image_file_becomes_a_study(url: str, studies: Path, tmp_path: Path, suffix: str) -> None:
    name = f"sent{suffix.replace('.', '_')}"
    content = image_file(tmp_path, f"{name}{suffix}")
    answer = send(url, {f"{name}{suffix}": content})
    assert (answer.status_code, answer.json()["added"]) == (200, [{"file": f"{name}{suffix}", "image": name}])
    assert (studies / f"{name}{suffix}").read_bytes() == content
    listed = requests.get(f"{url}/proxy/dicom/qido/studies", {"PatientID": name}).json()
    assert len(listed) == 1


def test_the_slices_of_a_series_become_one_study(url: str, studies: Path, tmp_path: Path) -> None:
    answer = send(url, slices(tmp_path / "series"), image="patient 7")
    assert [one["image"] for one in answer.json()["added"]] == ["patient 7"]
    np.testing.assert_array_equal(read_volume(studies / "patient 7.nii.gz").array, read_volume(tmp_path / "series").array)


def test_an_archive_with_two_series_and_a_text_becomes_two_studies(url: str, tmp_path: Path) -> None:
    files = {f"disc/a/{name}": content for name, content in slices(tmp_path / "a", 1).items()}
    files |= {f"disc/b/{name}": content for name, content in slices(tmp_path / "b", 2).items()}
    answer = send(url, {"disc.zip": zipped(files | {"disc/readme.txt": b"hello", "DICOMDIR": b"x"})})
    assert answer.status_code == 200, answer.text
    names = {one["image"] for one in answer.json()["added"]}
    assert len(names) == 2
    assert all(name.startswith("disc_") for name in names)


def test_each_bad_file_has_its_reason_and_does_not_stop_the_others(url: str, tmp_path: Path) -> None:
    files = {"good.nii.gz": image_file(tmp_path, "good.nii.gz", seed=5), "bad.nii.gz": b"no image", "empty.zip": zipped({})}
    answer = send(url, files)
    assert answer.status_code == 207
    assert [one["image"] for one in answer.json()["added"]] == ["good"]
    failed = {one["file"]: one for one in answer.json()["failed"]}
    assert set(failed) == {"bad.nii.gz", "empty.zip"}
    assert all(one["message"] and one["remedy"] for one in failed.values())
    assert "/tmp" not in answer.text


def test_an_image_never_replaces_another_one(url: str, studies: Path, tmp_path: Path) -> None:
    first, second = (image_file(tmp_path, "same.nii.gz", seed=seed) for seed in (1, 2))
    assert send(url, {"same.nii.gz": first}).status_code == 200
    answer = send(url, {"same.nii.gz": second})
    assert (answer.status_code, "another image" in answer.text) == (422, True)
    assert (studies / "same.nii.gz").read_bytes() == first


@pytest.mark.parametrize("name", ["../../evil.nii.gz", "/etc/evil.nii.gz", "..\\evil.nii.gz", ".hidden.nii.gz"])
def test_names_cannot_lead_out_of_the_studies_folder(url: str, studies: Path, tmp_path: Path, name: str) -> None:
    before = set(studies.parent.rglob("*evil*"))
    inner = image_file(tmp_path, "x.nii.gz", seed=11)
    send(url, {"traversal.zip": zipped({name: inner})})
    send(url, {name: inner})
    made = set(studies.parent.rglob("*evil*")) - before
    assert all(file.parent == studies or ".medsam2_atlas" in file.parts for file in made)
    assert not (studies.parent / "evil.nii.gz").exists()
    assert not (studies / ".hidden.nii.gz").exists()


def test_a_study_name_that_is_a_path_is_refused(url: str, tmp_path: Path) -> None:
    answer = send(url, {"a.nii.gz": image_file(tmp_path, "a.nii.gz", seed=12)}, image="../evil")
    assert (answer.status_code, "cannot name a study" in answer.text) == (422, True)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"bomb.zip": zipped({"a.nii": b"\0" * 8_000_000})}, "unpacks to more than 6 MB"),
        ({"many.zip": zipped({f"{n}.dcm": b"" for n in range(10_001)})}, "more than 10000 files"),
        ({"inner.zip": zipped({"b.zip": zipped({"c.nii": b"x"})})}, "archive inside an archive"),
        ({"no.zip": b"PK\x03\x04 nothing"}, "cannot be unpacked"),
        ({"cut.zip": zipped({"a.nii": b"abc" * 1000})[:-40]}, "cannot be unpacked"),
        ({"text.txt": b"hello"}, "neither an image nor a slice"),
        ({"a.txt": b"hello", "b.txt": b"hello"}, "no slices of a DICOM series"),
        ({"label.seg.nrrd": b"NRRD0004\n"}, "neither an image nor a slice"),
    ],
)
def test_hostile_and_wrong_files_are_refused_with_the_reason(
    url: str, studies: Path, files: dict[str, bytes], problem: str
) -> None:
    before = files_in(studies)
    answer = send(url, files)
    assert (answer.status_code, problem in answer.text) == (422, True), answer.text
    assert files_in(studies) == before


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
def test_a_damaged_archive_is_refused_and_does_not_stop_the_others(url: str, tmp_path: Path, method: int) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("a.nii", bytes(range(256)) * 400)
    content = bytearray(stream.getvalue())
    content[60:90] = b"\xff" * 30
    name = f"beside-{method}.nii.gz"
    answer = send(url, {"damaged.zip": bytes(content), name: image_file(tmp_path, name, seed=20 + method)})
    assert answer.status_code == 207, answer.text
    (failed,) = answer.json()["failed"]
    assert (failed["file"], "cannot be unpacked" in failed["message"]) == ("damaged.zip", True)


def test_an_error_of_the_disk_for_one_file_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "studies").mkdir()
    datastore, sent = StudyDatastore(tmp_path / "studies"), []
    for number, name in enumerate(("full.nii.gz", "slice", "packed.zip", "good.nii.gz")):
        image_file(tmp_path, "x.nii.gz", seed=number)
        sent.append(SentFile(name, (tmp_path / "x.nii.gz").rename(tmp_path / f"sent{number}")))
    add = datastore.add_image

    def add_image(name: str, file: str, info: dict[str, Any]) -> str:
        if name == "full":
            raise OSError(errno.ENOSPC, "No space left on device", file)
        return add(name, file, info)

    def run_task(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr(datastore, "add_image", add_image)
    monkeypatch.setattr(sent_cts, "run_task", run_task)
    outcomes = {one.name: one for one in add_cts(datastore, sent, "", {}, 10**9)}
    assert outcomes["good.nii.gz"].study == "good"
    for name in ("full.nii.gz", "slice", "packed.zip"):
        error = outcomes[name].error
        assert error is not None
        assert (error.problem, "Free some space" in error.remedy) == ("cannot be stored (No space left on device).", True)


def test_an_upload_does_not_stop_annotators(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def add(*_: Any) -> list[Any]:
        assert ended.wait(30)
        return []

    monkeypatch.setattr(sent_images, "app_instance", lambda: SimpleNamespace(datastore=lambda: None))
    monkeypatch.setattr(sent_images, "add_cts", add)
    state = SimpleNamespace(config=SimpleNamespace(upload_mb=1))
    request: Any = SimpleNamespace(scope={"medsam2_atlas.user": LOCAL}, app=SimpleNamespace(state=state))

    async def both() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(sent_images.upload, request, [])
            await anyio.sleep(0.05)  # the upload has begun
            with anyio.fail_after(20):
                await in_turn(ended.set)

    anyio.run(both)


def test_a_request_that_is_too_large_is_refused(url: str) -> None:
    assert send(url, {"a.nii": b"\0" * 3_000_000}).status_code == 413


def test_series_of_other_modalities_are_refused(url: str, tmp_path: Path) -> None:
    image = small_ct(direction_of("LPS"), 3)
    files = write_series(tmp_path / "mr", image, lambda ds, _: setattr(ds, "Modality", "MR"))
    answer = send(url, {file.name: file.read_bytes() for file in files})
    assert (answer.status_code, "modality MR" in answer.text) == (422, True)


def test_only_admins_may_upload(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    tokens = tokens_for(tmp_path / "tokens.yaml", {"Ann": "annotator", "Rev": "reviewer", "Adm": "admin"})
    with server(
        tmp_path / "studies", tmp_path / "work", {"learning": "false", "server_tokens": str(tokens)}, token=token_of("Adm")
    ) as client:
        url = client.get_server_url().rstrip("/")
        content = {"a.nii.gz": image_file(tmp_path, "a.nii.gz")}
        status = {
            name: send(url, content, headers={"Authorization": f"Bearer {token_of(name)}"}).status_code
            for name in ("Ann", "Rev", "Adm")
        }
    assert status == {"Ann": 403, "Rev": 403, "Adm": 200}
