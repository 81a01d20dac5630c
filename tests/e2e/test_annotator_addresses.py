"""Tests addresses of the annotator's viewer: of one CT series of a study with several, and below a path of a host."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pydicom
import pytest
import requests
import SimpleITK as sitk
from pydicom.dataset import Dataset

from app.running import server
from e2e.annotator import Annotator
from e2e.orthanc import orthanc, orthanc_program, send
from e2e.proxies import ROOT_PATH, path_proxies
from oriented_files import direction_of, small_ct
from series_files import write_series
from viewers import FETCHED, with_fetched_viewer

browser = pytest.importorskip("e2e.browser")

pytestmark = [
    pytest.mark.skipif(
        orthanc_program() is None or browser.chromium_program() is None, reason="Orthanc or Chromium is not installed"
    ),
    pytest.mark.skipif(FETCHED is None, reason="the annotator's viewer is not installed: make e2e-tools"),
]

SIZES = ((24, 20, 16), (24, 20, 12))
_SHOWN = (
    "() => window.cornerstone.cache.getVolumes().filter(v => v.loadStatus && v.loadStatus.loaded).map(v => v.dimensions[2])"
)


def test_each_series_of_a_study_is_a_case_and_can_be_chosen(tmp_path: Path) -> None:
    assert FETCHED is not None
    images = [small_ct(direction_of("LPS"), seed, size) for seed, size in enumerate(SIZES)]
    plain = write_series(tmp_path / "plain", images[0])
    of_study = pydicom.dcmread(plain[0]).StudyInstanceUID

    def venous(ds: Dataset, n: int) -> None:
        ds.StudyInstanceUID, ds.SeriesNumber, ds.SeriesDescription = of_study, 2, "<b>venous</b>"

    with orthanc(tmp_path / "orthanc") as pacs:
        study, first = send(pacs, plain)
        _, second = send(pacs, write_series(tmp_path / "venous", images[1], venous))
        environment = with_fetched_viewer(FETCHED)
        with server(pacs, tmp_path / "server", {}, environment, anew=True) as client, browser.browser_page() as page:
            url = client.get_server_url().rstrip("/")
            viewer = Annotator(page, url, study, first, images[0], tmp_path, browser.forbidden(page))
            page.goto(
                f"{url}/ohif/annotate?StudyInstanceUIDs={study}&SeriesInstanceUIDs={second}", wait_until="domcontentloaded"
            )
            viewer.ready()
            assert page.evaluate(_SHOWN) == [12]
            choice = viewer.part("series")
            assert choice.input_value() == second
            assert choice.locator("option").all_inner_texts() == ["1 · abdomen · 16 images", "2 · <b>venous</b> · 12 images"]
            choice.select_option(first)
            page.wait_for_url(f"**SeriesInstanceUIDs={first}*")
            viewer.ready()
            assert page.evaluate(_SHOWN) == [16]
            assert viewer.part("series").input_value() == first
            assert viewer.forbidden == []


@pytest.mark.skipif(shutil.which("caddy") is None, reason="Caddy is not installed")
def test_the_viewer_works_below_a_path_of_a_host(tmp_path: Path) -> None:
    assert FETCHED is not None
    (tmp_path / "studies").mkdir()
    image = small_ct(direction_of("LPS"), 0, SIZES[0])
    sitk.WriteImage(image, str(tmp_path / "studies" / "one.nii.gz"))
    environment = with_fetched_viewer(FETCHED)
    conf = {"learning": "false", "server_root_path": ROOT_PATH}
    with server(tmp_path / "studies", tmp_path / "server", conf, environment, anew=True) as client:
        own = client.get_server_url().rstrip("/")
        about = requests.get(f"{own}/datastore/image/info", {"image": "one"}).json()
        with path_proxies(tmp_path / "paths", urlsplit(own).netloc) as urls, browser.browser_page() as page:
            asked, failed = list[str](), list[str]()
            page.on("request", lambda request: asked.append(request.url))
            page.on("response", lambda answer: failed.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
            for url in urls:
                study, series = about["StudyInstanceUID"], about["SeriesInstanceUID"]
                viewer = Annotator(page, url, study, series, image, tmp_path, browser.forbidden(page))
                viewer.open()
                assert page.evaluate(_SHOWN) == [16]
                assert page.url.startswith(f"{url}/ohif/annotate?")
                assert viewer.forbidden == []
    local = [address for address in asked if address.startswith("http://127.0.0.1")]
    assert [address for address in local if not address.startswith(tuple(f"{url}/" for url in urls))] == []
    assert failed == []
