"""Requests of an annotator's viewer that the server refuses, and that change nothing."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from app.annotating import KIM, ask, case, submit
from medsam2_atlas.imaging.packed_labels import pack
from token_files import token_of


@pytest.fixture(scope="module")
def url(place: tuple[str, Path]) -> str:
    return place[0]


HOSTILE = {
    "nothing": b"",
    "no gzip": b"no gzip",
    "a bomb": gzip.compress(bytes(300_000_000), 9),
    "cut off": None,
    "another size": pack(np.zeros((2, 3, 4))),
    "an unknown organ": None,
    "two members": None,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_bodies_that_are_no_label_map_are_refused_and_change_nothing(url: str, truth: np.ndarray, kind: str) -> None:
    whole = pack(truth)
    made = {"cut off": whole[:-20], "an unknown organ": pack(np.full_like(truth, 16)), "two members": whole + whole}
    body = made.get(kind) or HOSTILE[kind]
    before = case(url, "kept")
    for method, path in (("PUT", "draft"), ("POST", "changes"), ("POST", "submit")):
        answer = ask(url, method, path, image="kept", data=body)
        assert answer.status_code == 400, answer.text
        assert "label map: " in answer.json()["error"]["message"]
        assert answer.json()["error"]["remedy"]
    answer = ask(url, "POST", "refine", image="kept", label=6, data={"params": "{}"}, files={"mask": ("m.gz", body)})
    assert answer.status_code == 400, answer.text
    assert case(url, "kept") == before


def test_bodies_larger_than_a_label_map_are_refused(url: str) -> None:
    for method, path in (("PUT", "draft"), ("POST", "changes"), ("POST", "submit")):
        assert ask(url, method, path, image="kept", data=bytes(1_000_001)).status_code == 413
    answer = ask(url, "POST", "refine", image="kept", label=6, data={"params": "{}"}, files={"mask": ("m", bytes(1_000_001))})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "params", "status"),
    [
        ("GET", "case", {"image": "nobody"}, 404),
        ("GET", "case", {"image": "../opened"}, 404),
        ("GET", "case", {}, 422),
        ("GET", "case", {"study": "1.2", "series": "1.2.3"}, 404),
        ("GET", "label", {"image": "opened", "tag": "../../x"}, 404),
        ("GET", "label", {"image": "opened", "tag": "final", "version": 99}, 404),
        ("GET", "label", {"image": "opened", "tag": "final", "version": 0}, 422),
        ("GET", "label", {"image": "../opened", "tag": "draft"}, 404),
        ("DELETE", "draft", {"image": "../opened"}, 404),
        ("GET", "compare", {"image": "opened", "first": "final/1", "second": "final/x"}, 422),
        ("GET", "compare", {"image": "opened", "first": "final/1", "second": "nothing/1"}, 404),
        ("GET", "compare/label", {"image": "opened", "first": "", "second": "final/1"}, 422),
    ],
)
def test_requests_for_what_does_not_exist_are_refused(
    url: str, method: str, path: str, params: dict[str, Any], status: int
) -> None:
    answer = ask(url, method, path, **params)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "params",
    [
        {"base_tag": "final"},
        {"base_version": 1},
        {"base_tag": "final", "base_version": 0},
        {"base_tag": "atlas", "base_version": 77},
        {"checked": "1,99"},
        {"checked": "liver"},
        {"confirm": "yes"},
        {"over": -1},
        {"known": -1},
        {"active_seconds": -1},
        {"active_seconds": "nan"},
        {"organ_seconds": "6"},
        {"organ_seconds": "99:1"},
        {"organ_seconds": "6:1e3"},
    ],
)
def test_wrong_parameters_of_a_submission_save_nothing(url: str, truth: np.ndarray, params: dict[str, Any]) -> None:
    before = case(url, "opened")["versions"]
    answer = submit(url, "opened", truth, **params)
    assert answer.status_code in (404, 422), answer.text
    assert case(url, "opened")["versions"] == before
    assert submit(url, "nobody", truth).status_code == 404


@pytest.mark.parametrize(
    ("query", "params", "message"),
    [
        ({"label": 6}, "{}", "do not show the organ"),
        ({"label": 6}, "[]", "not a JSON object"),
        ({"label": 6}, '{"boxes": [[1, 2], [3]]}', "marks"),
        ({"label": 6}, '{"foreground": [[1, 2, "x"]]}', "marks"),
        ({"label": 6}, '{"foreground": [[100000, 2, 3]]}', ""),
        ({"label": 16}, "{}", "number of an organ"),
        ({"label": 6, "model": "atlas"}, "{}", "refines no mask"),
        ({"label": 6, "mode": "faster"}, '{"foreground": [[1, 2, 3]]}', "faster"),
    ],
)
def test_refinements_that_cannot_be_done_are_refused(url: str, query: dict[str, Any], params: str, message: str) -> None:
    answer = ask(url, "POST", "refine", image="marked", data={"params": params}, files={"x": ("x", b"")}, **query)
    assert answer.status_code == 422, answer.text
    assert message in answer.text


def test_requests_of_foreign_pages_are_refused(url: str, truth: np.ndarray) -> None:
    foreign = {"Origin": "https://evil.example"}
    session = requests.Session()
    session.post(f"{url}/login", data={"username": KIM, "password": token_of(KIM)}, timeout=10)
    for method, path in (("PUT", "draft"), ("DELETE", "draft"), ("POST", "submit"), ("POST", "refine"), ("POST", "changes")):
        address = f"{url}/annotation/{path}?image=marked"
        answer = session.request(method, address, data=pack(truth), headers=foreign, timeout=10)
        assert answer.status_code == 403, (path, answer.text)
        assert "another site" in answer.text
    assert case(url, "marked")["versions"] == []
