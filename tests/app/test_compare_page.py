"""The routes of the page that compares two label maps of a case, and the pages' files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import SimpleITK as sitk
from PIL import Image

from app.running import server
from oriented_files import direction_of, small_ct

PAIR = {"study": "a", "first": "final/1", "second": "final/2"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("comparison")
    studies = folder / "studies"
    studies.mkdir()
    image = small_ct(direction_of("LAS"), 3)
    for name in ("a", "b"):
        sitk.WriteImage(image, str(studies / f"{name}.nii.gz"))
    with server(studies, folder / "work", {"learning": "false", "server_hu": "as-is"}) as client:
        found = client.get_server_url().rstrip("/")
        for shift in (0, 2):
            array = np.zeros(image.GetSize()[::-1], np.uint8)
            array[2:5, 2 + shift : 6 + shift, 3:7] = 6
            labels = sitk.GetImageFromArray(array)
            labels.CopyInformation(image)
            sitk.WriteImage(labels, str(folder / "label.nii.gz"))
            with (folder / "label.nii.gz").open("rb") as stream:
                sent = {"files": {"label": ("label.nii.gz", stream)}, "data": {"params": '{"label_info": []}'}}
                requests.put(f"{found}/datastore/label", params={"image": "a"}, **sent).raise_for_status()
        yield found


def test_a_case_names_its_versions_and_looking_at_it_claims_nothing(url: str) -> None:
    about = requests.get(f"{url}/compare/case", {"study": "a"}).json()
    assert [(one["tag"], one["version"]) for one in about["versions"]] == [("final", 2), ("final", 1)]
    assert len(about["organs"]) == 15
    assert about["viewer"].startswith("ohif/")
    assert requests.get(f"{url}/compare/case", {"study": "b"}).json()["versions"] == []
    (row,) = requests.get(f"{url}/worklist/cases", {"q": "a", "state": "signed off"}).json()["rows"]
    assert (row["claimed"], row["opened"]) == (None, [])


def test_the_worst_slice_is_drawn_and_the_next_request_gets_the_same_picture(url: str) -> None:
    organs = requests.get(f"{url}/annotation/compare", {"image": "a", **{k: PAIR[k] for k in ("first", "second")}}).json()[
        "organs"
    ]
    (worst, *_) = organs["6"]["worst"]
    answers = [requests.get(f"{url}/compare/picture", PAIR | {"organ": 6, "slice": worst}) for _ in range(2)]
    assert [answer.headers["content-type"] for answer in answers] == ["image/png", "image/png"]
    assert answers[0].content == answers[1].content
    assert answers[0].headers["cache-control"] == "no-store"
    pixels = np.asarray(Image.open(io.BytesIO(answers[0].content)).convert("RGB"), int)
    green = (pixels[..., 1] - pixels[..., 0] > 60) & (pixels[..., 1] - pixels[..., 2] > 20)
    pink = (pixels[..., 0] - pixels[..., 1] > 60) & (pixels[..., 2] - pixels[..., 1] > 40)
    assert green[:, 612:].sum() > 500
    assert pink[:, 612:].sum() > 500


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"slice": "9999"}, 422),
        ({"organ": "99"}, 422),
        ({"first": "final"}, 422),
        ({"first": "draft/0"}, 404),
        ({"first": "final/7"}, 404),
        ({"first": "../x/1"}, 422),
        ({"study": "../a"}, 404),
        ({"study": "b"}, 404),
    ],
)
def test_unknown_pictures_are_refused(url: str, changes: dict[str, str], status: int) -> None:
    answer = requests.get(f"{url}/compare/picture", PAIR | {"organ": "6", "slice": "1"} | changes)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


def test_pages_and_their_files_are_served_and_nothing_else(url: str) -> None:
    for path in ("/", "/figures", "/compare"):
        page = requests.get(url + path)
        assert page.headers["content-type"].startswith("text/html")
        assert page.headers["cache-control"] == "no-store"
        for file in ("page/page.css", "page/icon.svg"):
            assert file in page.text
    moved = requests.get(f"{url}/review?q=x", allow_redirects=False)
    assert (moved.status_code, moved.headers["location"]) == (308, "./?q=x")
    kinds = dict.fromkeys(("worklist.js", "organs.js"), "text/javascript") | {
        "page.css": "text/css",
        "icon.svg": "image/svg+xml",
    }
    for file, kind in kinds.items():
        answer = requests.get(f"{url}/page/{file}")
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["cache-control"] == "private, no-cache"
    assert '"prostate_uterus": "prostate or uterus"' in requests.get(f"{url}/page/organs.js").text
    for file in ("worklist.html", "none.js", "..%2Fpages.py", "%2e%2e/pages.py", "page.css%00.js"):
        assert requests.get(f"{url}/page/{file}").status_code in (404, 422), file


def test_modules_of_the_pages_are_short() -> None:
    folder = Path(__file__).parents[2] / "apps" / "medsam2_atlas" / "server" / "page"
    assert {file.name: lines for file in folder.iterdir() if (lines := len(file.read_text().splitlines())) > 350} == {}
