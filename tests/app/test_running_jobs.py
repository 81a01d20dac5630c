"""Jobs of the real server: they block no request, can be followed and cancelled, and the queue is limited."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest
import requests

from waiting import until


def begin(url: str, study: str = "first", model: str = "medsam2_atlas", **params: Any) -> dict[str, Any]:
    """Starts a job without waiting for it. `params` can make it one that is not in the cache."""
    answer = requests.post(
        f"{url}/infer/{model}",
        {"params": json.dumps(params)},
        params={"image": study, "wait": "false"},
        headers={"X-Request-ID": "chosen-by-the-client"},
    )
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"/jobs/{job['id']}"
    assert answer.headers["X-Request-ID"] == "chosen-by-the-client"
    assert len(job["id"]) == 22  # 128 random bits
    return job


def state(url: str, job: dict[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = requests.get(f"{url}/jobs/{job['id']}").json()
    return about


def shown(url: str, job: dict[str, Any]) -> dict[str, Any]:
    """Returns a job from the list of jobs; listing jobs does not count as following them."""
    return next(one for one in requests.get(f"{url}/jobs").json() if one["id"] == job["id"])


def test_a_running_model_blocks_no_request_and_can_be_cancelled(url: str) -> None:
    job = begin(url, strategy="D")
    running = until(lambda: (about := state(url, job))["state"] == "running" and about["stage"] and about, 60)
    assert running["kind"] == "medsam2_atlas"
    times = []
    for _ in range(20):
        began = time.perf_counter()
        assert requests.get(f"{url}/info/").status_code == 200
        times.append(time.perf_counter() - began)
    assert state(url, job)["state"] == "running"
    assert sorted(times)[10] < 0.5  # a blocked request would take the rest of the run
    waiting = begin(url, "second")
    assert state(url, waiting)["position"] == 1
    until(lambda: state(url, job)["stage"] == "propagation" and state(url, job)["organs"], 120)
    began = time.perf_counter()
    requests.delete(f"{url}/jobs/{job['id']}")
    requests.delete(f"{url}/jobs/{waiting['id']}")
    until(lambda: state(url, job)["state"] == "cancelled", 60)
    assert time.perf_counter() - began < 5
    assert state(url, waiting)["state"] == "cancelled"
    assert "registration" in state(url, job)["stage_seconds"]
    assert requests.get(f"{url}/jobs/{job['id']}/result").status_code == 409


def test_events_follow_a_job_to_its_end_and_its_result_can_be_fetched(url: str) -> None:
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


def test_the_real_server_closes_an_incomplete_request(url: str) -> None:
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30) as link:
        link.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        assert link.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_a_full_queue_reports_when_to_try_again(url: str) -> None:
    jobs = [begin(url, strategy="D", organs=organ) for organ in ("liver", "spleen")]
    until(lambda: state(url, jobs[0])["state"] == "running", 60)
    jobs.append(begin(url, strategy="D", organs="aorta"))
    assert [job["options"] for job in jobs] == [{"strategy": "D", "organs": organ} for organ in ("liver", "spleen", "aorta")]
    answer = requests.post(f"{url}/infer/medsam2_atlas", params={"image": "first", "wait": "false"})
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 1
    assert "Try again" in answer.json()["error"]["remedy"]
    for job in reversed(jobs):
        requests.delete(f"{url}/jobs/{job['id']}")
    until(lambda: state(url, jobs[0])["state"] == "cancelled", 60)


def test_a_job_is_cancelled_when_its_client_disconnects(url: str) -> None:
    with pytest.raises(requests.Timeout):
        requests.post(f"{url}/infer/medsam2_atlas", params={"image": "second"}, timeout=(5, 1.5))
    job = requests.get(f"{url}/jobs").json()[-1]
    assert job["subject"] == "second"
    until(lambda: state(url, job)["state"] == "cancelled", 60)


def test_a_viewers_job_is_cancelled_when_nobody_follows_it_and_others_go_on(url: str) -> None:
    attended = {"image": "second", "wait": "false", "attended": "true"}
    job = requests.post(f"{url}/infer/medsam2_atlas", {"params": '{"strategy": "C"}'}, params=attended).json()
    script = begin(url, "first", strategy="C")
    assert (job["attended"], script["attended"]) == (True, False)
    with requests.get(f"{url}/jobs/{job['id']}/events", stream=True, timeout=60) as stream:
        lines = (line for line in stream.iter_lines(decode_unicode=True) if line.startswith("data: "))
        until(lambda: json.loads(next(lines)[6:])["state"] == "running", 60)
        time.sleep(3)
        assert shown(url, job)["state"] == "running"
    for _ in range(4):  # the page is loaded again
        time.sleep(1)
        (mine,) = [one for one in requests.get(f"{url}/jobs", {"mine": "true"}).json() if one["id"] == job["id"]]
    assert mine["state"] == "running"
    gone = until(lambda: (about := shown(url, job))["state"] == "cancelled" and about, 60)
    assert gone["reason"] == "nobody has followed it for 2 s"
    until(lambda: shown(url, script)["state"] == "running", 60)
    time.sleep(3)
    assert shown(url, script)["state"] == "running"
    requests.delete(f"{url}/jobs/{script['id']}")
    recorded = requests.get(f"{url}/audit", {"action": "job.cancel"}).text.splitlines()
    (line,) = [json.loads(line) for line in recorded if job["id"] in line]
    assert line["details"]["reason"] == gone["reason"]
    assert "who" not in line


def test_stored_results_are_returned_at_once_while_another_model_runs(url: str) -> None:
    first = requests.post(f"{url}/infer/unet_3d", params={"image": "first", "output": "json"})
    assert first.status_code == 200, first.text
    if "X-Job-ID" in first.headers:  # another test may have filled the cache
        result = f"{url}/jobs/{first.headers['X-Job-ID']}/result"
        until(lambda: requests.get(result).status_code == 404, 10)  # the file is removed after the last byte was sent
        assert "already been fetched" in requests.get(result).json()["detail"]
    job = begin(url, "second", strategy="D")
    until(lambda: state(url, job)["state"] == "running", 60)
    again = requests.post(f"{url}/infer/unet_3d", params={"image": "first", "output": "json"})
    assert again.json()["report"]["from_cache"] is True
    assert state(url, job)["state"] == "running"
    requests.delete(f"{url}/jobs/{job['id']}")
