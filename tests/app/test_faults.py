"""The real server starts with leftovers of a killed server, and gets requests that are too large or invalid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
import SimpleITK as sitk

from app.running import process_of, server
from medsam2_atlas.atlas import ReferenceFiles
from medsam2_atlas.base.processes import ProcessMark
from medsam2_atlas.base.resource import resource
from series_files import write_series
from tasks.claims import SERVER_VARIABLE
from token_files import bearer, token_of, tokens_for
from waiting import until

HOURS_AGO = time.time() - 7200
STAND_IN = """
import sys, time
from pathlib import Path
from tasks.claims import claimed
from medsam2_atlas.storage import WorkFolder
with claimed(WorkFolder(Path(sys.argv[2])), "train", "unet_3d"):
    print("claimed", flush=True)
    time.sleep(600)
"""


def mark_of(number: int) -> ProcessMark:
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return ProcessMark(ProcessMark.own().namespace, number, int(fields[19]))


class Training:
    """A process that claims the studies for training as MONAI Label's process does, and a process that acts as its server."""

    def __init__(self, work: Path) -> None:
        self.server = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        paths = os.pathsep.join([str(resource("apps/medsam2_atlas")), str(resource("lib"))])
        self.process = subprocess.Popen(
            [sys.executable, "-c", STAND_IN, "monailabel.interfaces.utils.app", str(work)],
            stdout=subprocess.PIPE,
            env=os.environ | {SERVER_VARIABLE: str(mark_of(self.server.pid)), "PYTHONPATH": paths},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"claimed\n"

    def kill_server(self) -> None:
        self.server.kill()
        self.server.wait()

    def end(self) -> None:
        for process in (self.server, self.process):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def studies(root: Path, short_files: ReferenceFiles) -> Path:
    """Returns a studies folder with temporary files of interrupted writes."""
    folder = root / "studies"
    (folder / "labels/final").mkdir(parents=True)
    (folder / ".medsam2_atlas/versions").mkdir(parents=True)
    (folder / "first.nii.gz").write_bytes(short_files.image.read_bytes())
    for left in (".part-abcdef01.nii.gz", "labels/final/.part-abcdef02.nii.gz", ".medsam2_atlas/versions/.part-abcdef03"):
        (folder / left).write_bytes(b"x")
        os.utime(folder / left, (HOURS_AGO, HOURS_AGO))
    return folder


@pytest.fixture(scope="module")
def orphan(studies: Path) -> Iterator[Training]:
    training = Training(studies / ".medsam2_atlas")
    training.kill_server()
    yield training
    training.end()


@pytest.fixture(scope="module")
def client(studies: Path, orphan: Training, root: Path) -> Iterator[Any]:
    temporary, sessions = root / "temporary", root / "work/sessions"
    temporary.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "none", temporary], stderr=subprocess.DEVNULL)
    (temporary / f"medsam2_atlas-{ProcessMark(mark_of(os.getpid()).namespace, 4_000_000, 1)}-abc.nii.gz").write_bytes(b"x")
    broken = sessions / str(uuid.uuid4())
    broken.mkdir(parents=True)
    os.utime(broken, (HOURS_AGO, HOURS_AGO))
    tokens_for(root / "tokens.yaml", {"max": "admin", "kim": "annotator"})
    conf = {"learning": "false", "server_tokens": str(root / "tokens.yaml"), "server_upload_mb": "40"}
    try:
        with server(studies, root / "work", conf, {"TMPDIR": str(temporary)}, token=token_of("max")) as connected:
            yield connected
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", temporary], check=True)


@pytest.fixture
def url(client: Any) -> str:
    return str(client.get_server_url()).rstrip("/")


MAX, KIM = bearer(token_of("max")), bearer(token_of("kim"))


def files_left(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "temporary").glob("medsam2_atlas-*"))


def test_leftovers_of_a_killed_server_are_removed_at_start(client: Any, studies: Path, root: Path) -> None:
    assert [path for path in studies.rglob("*") if path.name.startswith(".part-")] == []
    assert [name for name in files_left(root) if "-abc" in name] == []
    assert list((root / "work/sessions").iterdir()) == []


def test_a_training_that_has_outlived_its_server_is_ended_by_the_next_one(client: Any, orphan: Training, root: Path) -> None:
    assert orphan.process.wait(20) is not None
    assert "because its server has ended" in (root / "work/server.log").read_text()


def test_two_servers_never_train_on_the_same_studies(url: str, studies: Path) -> None:
    other = Training(studies / ".medsam2_atlas")
    try:
        answer = requests.post(f"{url}/train/unet_3d", json={}, headers=MAX)
        assert answer.status_code == 409
        assert "unet_3d" in answer.json()["detail"]
        assert str(other.process.pid) in answer.json()["detail"]
        assert other.process.poll() is None
        other.kill_server()
        assert requests.post(f"{url}/train/unet_3d", json={}, headers=MAX).ok
        assert other.process.wait(20) is not None
        assert requests.delete(f"{url}/train/", headers=MAX).ok
    finally:
        other.end()


def test_readiness_is_public_and_its_reasons_are_for_admins(url: str, studies: Path) -> None:
    assert requests.get(f"{url}/readyz").json() == {"ready": True}
    assert requests.get(f"{url}/readyz", headers=MAX).json() == {"ready": True, "problems": []}
    work, moved = studies / ".medsam2_atlas", studies / "moved"
    work.rename(moved)  # like a missing disk
    try:
        work.write_bytes(b"")
        until(lambda: requests.get(f"{url}/readyz").status_code == 503, 15)
        assert requests.get(f"{url}/readyz").json() == {"ready": False}
        assert requests.get(f"{url}/readyz", headers=KIM).json() == {"ready": False}
        problems = requests.get(f"{url}/readyz", headers=MAX).json()["problems"]
        assert problems
        assert set(problems[0]) == {"what", "problem", "remedy"}
        assert requests.get(f"{url}/healthz").status_code == 200
    finally:
        work.unlink()
        moved.rename(work)
    until(lambda: requests.get(f"{url}/readyz").status_code == 200, 15)


def parts(count: int, size: int, name: str = 'name="files"; filename="x.dcm"') -> Iterator[bytes]:
    """Yields a multipart body in chunks, without a length."""
    for _ in range(count):
        yield f"--b\r\nContent-Disposition: form-data; {name}\r\n\r\n".encode() + b"x" * size + b"\r\n"
    yield b"--b--\r\n"


MULTIPART = MAX | {"Content-Type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/session/", parts(10_000, 1), 413),  # too many files
        ("/session/", parts(50, 1_000_000), 413),  # too many bytes in total
        ("/session/", parts(1, 50_000_000), 413),
        ("/datastore/label?image=first&tag=mine", parts(10_000, 1, 'name="params"'), 413),
        ("/datastore/label?image=first&tag=mine", parts(1, 5_000_000, 'name="params"'), 413),
        ("/datastore/image", parts(1, 5_000_000, 'name="image"'), 413),
        ("/datastore/image", iter([b"no multipart at all" * 1000]), 422),
        ("/datastore/image", iter([b"--b\r\n" + b"X-Long: " + b"x" * 10_000_000]), 422),
    ],
)
def test_too_large_uploads_are_refused_without_filling_the_server(
    client: Any, url: str, root: Path, path: str, body: Any, status: int
) -> None:
    process = psutil.Process(process_of(client).pid)
    before = process.memory_info().rss
    answer = requests.put(f"{url}{path}", data=body, headers=MULTIPART)
    assert answer.status_code == status, answer.text
    assert process.memory_info().rss - before < 150_000_000
    assert files_left(root) == []
    assert requests.get(f"{url}/healthz").ok


def test_a_full_disk_is_reported_and_uploads_work_again_once_it_has_room(
    url: str, root: Path, short_files: ReferenceFiles
) -> None:
    temporary = root / "temporary"
    if not temporary.is_mount():
        pytest.skip("needs a separate small disk")
    room = os.statvfs(temporary)
    (temporary / "filler").write_bytes(b"x" * (room.f_bavail * room.f_frsize - 1_000_000))
    try:
        image = {"file": ("big.nii.gz", b"x" * 5_000_000)}
        label = {"label": ("label.nii.gz", b"x" * 5_000_000)}
        for answer in (
            requests.put(f"{url}/datastore/image", files=image, headers=MAX),
            requests.put(f"{url}/session/", data=parts(3, 1_000_000), headers=MULTIPART),
            requests.put(f"{url}/datastore/label", params={"image": "first", "tag": "mine"}, files=label, headers=MAX),
            requests.post(f"{url}/infer/unet_3d", files=image, headers=MAX),
        ):
            assert answer.status_code == 507, answer.text
            assert "space" in answer.json()["error"]["remedy"]
        assert requests.get(f"{url}/info/", headers=MAX).ok
        assert files_left(root) == []
    finally:
        (temporary / "filler").unlink()
    with short_files.image.open("rb") as stream:
        assert requests.put(f"{url}/session/", files={"files": ("x.nii.gz", stream)}, headers=MAX).ok


def test_a_large_body_without_multipart_is_not_kept_in_memory(client: Any, url: str) -> None:
    process = psutil.Process(process_of(client).pid)
    before = process.memory_info().rss
    form = MAX | {"Content-Type": "application/x-www-form-urlencoded"}
    for path in ("/infer/atlas?image=first", "/login"):
        answer = requests.post(f"{url}{path}", data=(b"x" * 1_000_000 for _ in range(30)), headers=form)
        assert answer.status_code == 413, answer.text
    assert (
        requests.put(f"{url}/datastore/image/info?image=first", data=b"info=" + b"x" * 30_000_000, headers=form).status_code
        == 413
    )
    assert process.memory_info().rss - before < 100_000_000


def test_a_series_of_many_slices_can_still_be_uploaded(url: str, root: Path, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.arange(1100 * 16, dtype=np.int16).reshape(1100, 4, 4) % 1000)
    image.SetSpacing((1.0, 1.0, 0.5))
    slices = [("files", (file.name, file.read_bytes())) for file in write_series(tmp_path / "series", image)]
    answer = requests.put(f"{url}/session/", files=slices, headers=MAX)
    assert answer.status_code == 200, answer.text
    session = root / "work" / "sessions" / answer.json()["session_id"]
    assert len(list((session / "series").iterdir())) == 1100
    assert requests.delete(f"{url}/session/{session.name}", headers=MAX).ok
    assert not session.exists()


@pytest.mark.parametrize("params", ["[" * 100_000, '{"a": "\\ud800"}', "nonsense", "[]", "3"])
def test_invalid_options_do_not_cause_error_500(url: str, params: str) -> None:
    for method, path in (("POST", "/infer/unet_3d?image=first"), ("PUT", "/datastore/image/info?image=first")):
        field = "params" if method == "POST" else "info"
        assert requests.request(method, f"{url}{path}", data={field: params}, headers=MAX).status_code == 422


def test_a_refused_upload_leaves_no_files(url: str, root: Path, short_files: ReferenceFiles) -> None:
    with short_files.image.open("rb") as stream:
        answer = requests.post(f"{url}/infer/atlas", files={"file": ("x.nii.gz", stream)}, headers=MAX)
    assert answer.status_code == 409  # there is no atlas
    assert files_left(root) == []


@pytest.mark.parametrize(("lines", "status"), [("3", 200), ("0", 422), ("-1", 422), ("9" * 40, 422)])
def test_the_log_is_shown_for_any_number_of_lines(url: str, lines: str, status: int) -> None:
    answer = requests.get(f"{url}/logs/", params={"lines": lines}, headers=MAX)
    assert answer.status_code == status
    assert status != 200 or len(answer.text.splitlines()) <= 3
    assert requests.get(f"{url}/logs/", headers=KIM).status_code == 403


def test_info_counts_existing_studies(url: str) -> None:
    about = requests.get(f"{url}/info/", headers=MAX).json()
    assert about["datastore"]["total"] == 1
    assert json.dumps(about)
