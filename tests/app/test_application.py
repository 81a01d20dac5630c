"""The web application around MONAI Label's routes in the real server: errors, pages, clients, sessions."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from monailabel.client import MONAILabelClient

from app.cases import listed
from medsam2_atlas.atlas import ReferenceFiles
from waiting import until


@pytest.mark.parametrize(
    ("method", "path", "query", "status", "words"),
    [
        ("POST", "/infer/none", {"image": "first"}, 404, "not a known model"),
        ("POST", "/infer/unet_2d", {"image": "first"}, 409, "Train it"),
        ("POST", "/infer/unet_3d", {"image": "nobody"}, 404, "not a known study"),
        ("POST", "/infer/unet_3d", {"image": "/etc/passwd"}, 404, "not a known study"),
        ("POST", "/infer/unet_3d", {"image": "../studies0/first"}, 404, "not a known study"),
        ("POST", "/infer/unet_3d", {}, 422, "is missing"),
        ("POST", "/infer/unet_3d", {"session_id": "none"}, 404, "no session"),
        ("POST", "/activelearning/none", {}, 404, "not a known strategy"),
        ("GET", "/datastore/image", {"image": "/etc/passwd"}, 404, "not a study"),
        ("GET", "/datastore/image", {}, 422, "image"),
        ("GET", "/datastore/label", {"label": "first", "tag": "../../x"}, 404, "no label"),
        ("GET", "/datastore/label/versions", {"label": "first", "tag": "../.."}, 404, "no label"),
        ("GET", "/datastore/label/version", {"label": "first", "version": 7}, 404, "no version"),
        ("DELETE", "/datastore/label", {"id": "../first", "tag": "final"}, 404, "no label"),
        ("DELETE", "/datastore/image", {"id": "../first"}, 404, "not a study"),
        ("GET", "/jobs/none", {}, 404, "not the id of a job"),
        ("GET", "/nowhere", {}, 404, "Not Found"),
        ("GET", "/train/", {}, 404, "No Train"),
    ],
)
def test_errors_are_json_with_a_matching_status(
    url: str, method: str, path: str, query: dict[str, Any], status: int, words: str
) -> None:
    answer = requests.request(method, url + path, params=query, headers={"X-Request-ID": "look-me-up"})
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert words in body["detail"] + body["error"]["remedy"]
    assert body["error"]["request_id"] == answer.headers["X-Request-ID"] == "look-me-up"


def test_unknown_options_have_no_effect(url: str, studies: Path) -> None:
    params = {"image": "/etc/passwd", "model": "none", "upload": "/etc/passwd", "device": "cuda", "organs": "liver"}
    answer = requests.post(f"{url}/infer/unet_3d", {"params": json.dumps(params)}, params={"image": "first", "output": "json"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["report"]["organs"] == ["liver"]
    for wrong in ("[1]", "{", "null"):
        answer = requests.post(f"{url}/infer/unet_3d", {"params": wrong}, params={"image": "first"})
        assert answer.status_code == 422


def test_weights_are_checked_before_they_are_served(url: str, studies: Path, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"no weights")
    with (tmp_path / "w.pt").open("rb") as stream:
        answer = requests.put(f"{url}/model/unet_3d", files={"file": ("w.pt", stream)})
    assert answer.status_code == 409
    with (tmp_path / "w.pt").open("rb") as stream:
        assert requests.put(f"{url}/model/medsam2_atlas", files={"file": ("w.pt", stream)}).status_code == 404
    assert requests.delete(f"{url}/model/unet_3d").status_code == 405
    assert not (studies / ".medsam2_atlas" / "unet_3d" / "best.pt").exists()


def test_many_simultaneous_annotators_are_all_answered(url: str) -> None:
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


def test_the_worklist_shows_the_cases_with_pictures(url: str) -> None:
    requests.post(f"{url}/infer/unet_3d", params={"image": "first", "output": "json"})
    assert requests.get(f"{url}/review?q=a").url == f"{url}/?q=a"
    cases = listed(url)
    assert set(cases) == {"first", "second"}
    assert "unet_3d" in cases["first"]["models"]
    shown = requests.get(f"{url}/worklist/picture", {"study": "first"})
    assert shown.headers["content-type"] == "image/png"
    assert shown.content.startswith(b"\x89PNG")
    assert requests.get(f"{url}/worklist/picture", {"study": "../first"}).status_code == 404


def test_health_and_metrics_are_served(url: str) -> None:
    assert requests.get(f"{url}/healthz").json() == {"status": "ok"}
    requests.get(f"{url}/info/")
    text = requests.get(f"{url}/metrics").text
    assert 'medsam2_atlas_requests_total{method="GET",route="/info/",status="200"}' in text
    assert 'medsam2_atlas_studies{state="total"} 2.0' in text
    assert 'medsam2_atlas_stage_seconds_count{model="unet_3d",stage="U-Net"}' in text
    assert "first" not in text  # metrics contain no study names


def test_the_log_contains_no_forged_lines_and_no_study_names(url: str) -> None:
    forged = "[2026-11-26 10:00:00,000] [1] [MainThread] [ERROR] (root:1) - forged"
    requests.get(f"{url}/x%0a{forged}%1b[31m")
    requests.post(f"{url}/infer/none%0a{forged}", params={"image": "first"})
    requests.post(f"{url}/infer/unet_3d", params={"image": "Nobody Known"})
    requests.put(f"{url}/datastore/image", files={"file": ("Up^Load.nii.gz", b"none")})
    requests.post(f"{url}/infer/unet_3d", params={"image": "first", "output": "json"})
    scored = requests.post(f"{url}/scoring/organs", json={})  # in a separate process
    assert scored.ok
    until(lambda: "Return code" in requests.get(f"{url}/logs/").text, 60)
    shown = requests.get(f"{url}/logs/", {"lines": 10000})
    assert shown.headers["content-type"].startswith("text/plain")
    lines = shown.text.splitlines()
    assert sum("forged" in line for line in lines) >= 2
    assert not [line for line in lines if line.startswith(forged[:20])]
    assert "\\x1b[31m" in shown.text
    for name in ("first", "Nobody", "Load"):
        assert not [line for line in lines if name in line]
    assert not [line for line in lines if not line.startswith(("[2026", "  | ", "task_", "[")) and line]


def test_requests_of_foreign_pages_are_refused(url: str) -> None:
    foreign = {"Origin": "https://elsewhere.example"}
    assert requests.put(f"{url}/datastore/label", params={"image": "first"}, headers=foreign).status_code == 403
    assert requests.get(f"{url}/info/", headers={"Host": "elsewhere.example"}).status_code == 403
    answer = requests.get(f"{url}/info/", headers=foreign)
    assert "access-control-allow-origin" not in answer.headers


def test_monai_labels_client_works_unchanged(url: str, tmp_path: Path) -> None:
    client = MONAILabelClient(url, tmpdir=str(tmp_path), client_id="kim")
    assert client.auth_enabled() is False
    file, answer = client.infer("unet_3d", "first", {"organs": "liver"})
    assert Path(file).exists()
    assert answer["label_names"] == {"liver": 6}


def test_no_valid_request_causes_a_server_error(url: str) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    options = ["--checks", "not_a_server_error", "--max-examples", "15", "--request-timeout", "60", "--seed", "1"]
    done = subprocess.run(
        [str(program), "run", f"{url}/openapi.json", *options], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout
    assert requests.get(f"{url}/info/").json()["datastore"]["total"] == 2


@pytest.mark.parametrize("name", ["..", "../../etc", "x", "0" * 36, "%2e%2e", "/etc"])
def test_session_ids_cannot_be_used_as_paths(url: str, name: str) -> None:
    for method in ("GET", "DELETE"):
        request = requests.Request(method, url).prepare()
        request.url = f"{url}/session/{name}"  # set directly, because requests would normalise it
        assert requests.Session().send(request).status_code == 404
    assert requests.post(f"{url}/infer/unet_3d", params={"session_id": name}).status_code == 404


def test_a_sessions_image_is_segmented_without_becoming_a_study(url: str, short_files: ReferenceFiles, tmp_path: Path) -> None:
    client = MONAILabelClient(url, tmpdir=str(tmp_path))
    session = client.create_session(str(short_files.image))["session_id"]
    file, answer = client.infer("unet_3d", "", {"organs": "liver"}, session_id=session)
    assert Path(file).exists()
    assert answer["label_names"] == {"liver": 6}
    assert client.get_session(session)["name"] == session
    client.remove_session(session)
    assert requests.get(f"{url}/session/{session}").status_code == 404
    assert requests.get(f"{url}/info/").json()["datastore"]["total"] == 2
