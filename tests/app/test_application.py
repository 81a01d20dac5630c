"""The web application around MONAI Label's routes, in the real server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import SimpleITK as sitk
from monailabel.client import MONAILabelClient

from app.running import server
from medsam2_atlas.atlas import ReferenceFiles


@pytest.fixture(scope="module")
def studies(target_files: ReferenceFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    for name in ("first", "second"):
        shutil.copy(target_files.image, folder / f"{name}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def url(studies: Path, atlas_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    conf = {"atlas": str(atlas_folder), "learning": "false", "server_queue": "2", "server_label_mb": "1"}
    with server(studies, tmp_path_factory.mktemp("server"), conf) as client:
        yield client.get_server_url().rstrip("/")


def until(happened: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        found = happened()
        if found:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.05)


def begin(url: str, study: str = "first", model: str = "medsam2_atlas", name: str = "", **params: Any) -> dict[str, Any]:
    """A job that nobody waits for. Its weights of options make it one that is not in the cache."""
    answer = requests.post(
        f"{url}/infer/{model}",
        {"params": json.dumps(params)},
        params={"image": study, "wait": "false"},
        headers={"X-Request-ID": name} if name else {},
    )
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"/jobs/{job['id']}"
    return job


def state(url: str, job: dict[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = requests.get(f"{url}/jobs/{job['id']}").json()
    return about


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


def test_a_running_model_keeps_nobody_waiting_and_stops_when_it_is_cancelled(url: str) -> None:
    job = begin(url, name="my-job-1", strategy="D")
    assert job["id"] == "my-job-1"
    running = until(lambda: (about := state(url, job))["state"] == "running" and about["stage"] and about)
    assert running["kind"] == "medsam2_atlas"
    times = []
    for _ in range(20):
        began = time.perf_counter()
        assert requests.get(f"{url}/info/").status_code == 200
        times.append(time.perf_counter() - began)
    assert state(url, job)["state"] == "running"
    assert sorted(times)[10] < 0.5  # it would be the rest of the run
    waiting = begin(url, "second")
    assert state(url, waiting)["position"] == 1
    until(lambda: state(url, job)["stage"] == "propagation" and state(url, job)["organs"], 120)
    began = time.perf_counter()
    requests.delete(f"{url}/jobs/{job['id']}")
    requests.delete(f"{url}/jobs/{waiting['id']}")
    until(lambda: state(url, job)["state"] == "cancelled")
    assert time.perf_counter() - began < 5
    assert state(url, waiting)["state"] == "cancelled"
    assert "registration" in state(url, job)["stage_seconds"]
    assert requests.get(f"{url}/jobs/{job['id']}/result").status_code == 409


def test_events_follow_a_job_to_its_end_and_its_result_can_be_fetched(url: str, studies: Path) -> None:
    job = begin(url, model="unet_3d", organs="liver")
    events = []
    with requests.get(f"{url}/jobs/{job['id']}/events", stream=True, timeout=120) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) for line in stream.iter_lines(decode_unicode=True) if line.startswith("data: ")]
    assert events[-1]["state"] == "done"
    assert [e["revision"] for e in events] == sorted(e["revision"] for e in events)
    for _ in range(2):
        result = requests.get(f"{url}/jobs/{job['id']}/result", params={"output": "image"})
        assert result.status_code == 200
        assert len(result.content) > 200


def test_a_full_queue_says_when_to_come_back(url: str) -> None:
    jobs = [begin(url, strategy="D", organs=organ) for organ in ("liver", "spleen")]
    until(lambda: state(url, jobs[0])["state"] == "running")
    jobs.append(begin(url, strategy="D", organs="aorta"))
    answer = requests.post(f"{url}/infer/medsam2_atlas", params={"image": "first", "wait": "false"})
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 1
    assert "Try again" in answer.json()["error"]["remedy"]
    for job in reversed(jobs):
        requests.delete(f"{url}/jobs/{job['id']}")
    until(lambda: state(url, jobs[0])["state"] == "cancelled")


def test_a_client_that_goes_away_frees_its_place(url: str) -> None:
    with pytest.raises(requests.Timeout):
        requests.post(
            f"{url}/infer/medsam2_atlas", params={"image": "second"}, headers={"X-Request-ID": "gone"}, timeout=(5, 1.5)
        )
    until(lambda: requests.get(f"{url}/jobs/gone").json()["state"] == "cancelled")


def test_what_is_stored_is_given_at_once_even_while_another_model_runs(url: str) -> None:
    first = requests.post(f"{url}/infer/unet_3d", params={"image": "first", "output": "json"})
    assert first.status_code == 200, first.text
    if "X-Job-ID" in first.headers:  # another test may have filled the cache
        answer = requests.get(f"{url}/jobs/{first.headers['X-Job-ID']}/result")
        assert answer.status_code == 404
        assert "fetched already" in answer.json()["detail"]
    job = begin(url, "second", strategy="D")
    until(lambda: state(url, job)["state"] == "running")
    again = requests.post(f"{url}/infer/unet_3d", params={"image": "first", "output": "json"})
    assert again.json()["report"]["from_cache"] is True
    assert state(url, job)["state"] == "running"
    requests.delete(f"{url}/jobs/{job['id']}")


@pytest.mark.parametrize(
    ("method", "path", "query", "status", "told"),
    [
        ("POST", "/infer/none", {"image": "first"}, 404, "no model"),
        ("POST", "/infer/unet_2d", {"image": "first"}, 409, "Train it"),
        ("POST", "/infer/unet_3d", {"image": "nobody"}, 404, "no study"),
        ("POST", "/infer/unet_3d", {"image": "/etc/passwd"}, 404, "no study"),
        ("POST", "/infer/unet_3d", {"image": "../studies0/first"}, 404, "no study"),
        ("POST", "/infer/unet_3d", {}, 422, "is missing"),
        ("POST", "/infer/unet_3d", {"session_id": "none"}, 404, "no session"),
        ("POST", "/activelearning/none", {}, 404, "no strategy"),
        ("GET", "/datastore/image", {"image": "/etc/passwd"}, 404, "no study"),
        ("GET", "/datastore/image", {}, 422, "image"),
        ("GET", "/datastore/label", {"label": "first", "tag": "../../x"}, 404, "no label"),
        ("GET", "/datastore/label/versions", {"label": "first", "tag": "../.."}, 404, "no label"),
        ("GET", "/datastore/label/version", {"label": "first", "version": 7}, 404, "no label"),
        ("DELETE", "/datastore/label", {"id": "../first", "tag": "final"}, 404, "no label"),
        ("DELETE", "/datastore/image", {"id": "../first"}, 404, "no study"),
        ("GET", "/jobs/none", {}, 404, "no job"),
        ("GET", "/nowhere", {}, 404, "Not Found"),
        ("GET", "/train/", {}, 404, "No Train"),
    ],
)
def test_errors_are_json_with_a_status_that_fits(
    url: str, method: str, path: str, query: dict[str, Any], status: int, told: str
) -> None:
    answer = requests.request(method, url + path, params=query, headers={"X-Request-ID": "look-me-up"})
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert told in body["detail"] + body["error"]["remedy"]
    assert body["error"]["request_id"] == answer.headers["X-Request-ID"] == "look-me-up"


def test_options_that_are_not_options_change_nothing(url: str, studies: Path) -> None:
    params = {"image": "/etc/passwd", "model": "none", "upload": "/etc/passwd", "device": "cuda", "organs": "liver"}
    answer = requests.post(f"{url}/infer/unet_3d", {"params": json.dumps(params)}, params={"image": "first", "output": "json"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["report"]["organs"] == ["liver"]
    for wrong in ("[1]", "{", "null"):
        answer = requests.post(f"{url}/infer/unet_3d", {"params": wrong}, params={"image": "first"})
        assert answer.status_code == 422


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


def test_weights_are_checked_before_they_are_served(url: str, studies: Path, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"no weights")
    with (tmp_path / "w.pt").open("rb") as stream:
        answer = requests.put(f"{url}/model/unet_3d", files={"file": ("w.pt", stream)})
    assert answer.status_code == 409
    with (tmp_path / "w.pt").open("rb") as stream:
        assert requests.put(f"{url}/model/medsam2_atlas", files={"file": ("w.pt", stream)}).status_code == 404
    assert requests.delete(f"{url}/model/unet_3d").status_code == 405
    assert not (studies / ".medsam2_atlas" / "unet_3d" / "best.pt").exists()


def test_many_annotators_at_once_are_all_answered(url: str) -> None:
    def ask(number: int) -> set[int]:
        session = requests.Session()
        found = set()
        for _ in range(5):
            found.add(session.get(f"{url}/info/").status_code)
            found.add(session.post(f"{url}/activelearning/random", json={"client_id": str(number)}).status_code)
            found.add(session.get(f"{url}/datastore/", params={"output": "all"}).status_code)
        return found

    with ThreadPoolExecutor(12) as pool:
        assert set().union(*pool.map(ask, range(12))) == {200}


def test_a_page_shows_the_cases_with_pictures(url: str) -> None:
    requests.post(f"{url}/infer/unet_3d", params={"image": "first", "output": "json"})
    page = requests.get(f"{url}/review")
    assert page.headers["content-type"].startswith("text/html")
    assert "/review/cases" in page.text
    cases = {case["study"]: case for case in requests.get(f"{url}/review/cases").json()}
    assert set(cases) == {"first", "second"}
    assert "unet_3d" in cases["first"]["models"]
    shown = requests.get(f"{url}/review/picture", {"study": "first"})
    assert shown.headers["content-type"] == "image/png"
    assert shown.content.startswith(b"\x89PNG")
    assert requests.get(f"{url}/review/picture", {"study": "../first"}).status_code == 404


def test_health_and_counts(url: str) -> None:
    assert requests.get(f"{url}/healthz").json() == {"status": "ok"}
    requests.get(f"{url}/info/")
    text = requests.get(f"{url}/metrics").text
    assert 'medsam2_atlas_requests_total{method="GET",route="/info/",status="200"}' in text
    assert 'medsam2_atlas_studies{state="total"} 2.0' in text
    assert 'medsam2_atlas_stage_seconds_count{model="unet_3d",stage="U-Net"}' in text
    assert "first" not in text  # names of studies stay out of it


def test_others_than_this_machine_s_own_pages_are_refused(url: str) -> None:
    foreign = {"Origin": "https://elsewhere.example"}
    assert requests.put(f"{url}/datastore/label", params={"image": "first"}, headers=foreign).status_code == 403
    assert requests.get(f"{url}/info/", headers={"Host": "elsewhere.example"}).status_code == 403
    answer = requests.get(f"{url}/info/", headers=foreign)
    assert "access-control-allow-origin" not in answer.headers


def test_monai_label_s_client_needs_no_change(url: str, tmp_path: Path) -> None:
    client = MONAILabelClient(url, tmpdir=str(tmp_path), client_id="kim")
    assert client.auth_enabled() is False
    file, answer = client.infer("unet_3d", "first", {"organs": "liver"})
    assert Path(file).exists()
    assert answer["label_names"] == {"liver": 6}


def test_no_request_that_the_openapi_allows_breaks_the_server(url: str) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    options = ["--checks", "not_a_server_error", "--max-examples", "15", "--request-timeout", "60", "--seed", "1"]
    done = subprocess.run(
        [str(program), "run", f"{url}/openapi.json", *options], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout
    assert requests.get(f"{url}/info/").json()["datastore"]["total"] == 2


@pytest.mark.parametrize("name", ["..", "../../etc", "x", "0" * 36, "%2e%2e", "/etc"])
def test_sessions_lead_nowhere_else(url: str, name: str) -> None:
    for method in ("GET", "DELETE"):
        request = requests.Request(method, url).prepare()
        request.url = f"{url}/session/{name}"  # as it is: requests would tidy it
        assert requests.Session().send(request).status_code == 404
    assert requests.post(f"{url}/infer/unet_3d", params={"session_id": name}).status_code == 404


def test_a_session_s_image_is_segmented_without_becoming_a_study(
    url: str, target_files: ReferenceFiles, tmp_path: Path
) -> None:
    client = MONAILabelClient(url, tmpdir=str(tmp_path))
    session = client.create_session(str(target_files.image))["session_id"]
    file, answer = client.infer("unet_3d", "", {"organs": "liver"}, session_id=session)
    assert Path(file).exists()
    assert answer["label_names"] == {"liver": 6}
    assert client.get_session(session)["name"] == session
    client.remove_session(session)
    assert requests.get(f"{url}/session/{session}").status_code == 404
    assert requests.get(f"{url}/info/").json()["datastore"]["total"] == 2
