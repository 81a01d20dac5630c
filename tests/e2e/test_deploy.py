"""The services of `compose.yaml` without containers: Orthanc with a password, the app with a login, and TLS."""

from __future__ import annotations

import shutil
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
import requests
import SimpleITK as sitk
from monailabel.client import MONAILabelClient

from app.cases import listed
from app.running import server
from e2e.orthanc import orthanc, orthanc_program, send
from e2e.proxies import ROOT_PATH, nginx_proxy, path_proxies, tls_proxy
from medsam2_atlas.atlas import ReferenceFiles
from series_files import write_series
from token_files import token_of, tokens_for


@pytest.mark.skipif(orthanc_program() is None or shutil.which("caddy") is None, reason="Orthanc or Caddy is not installed")
def test_through_tls_and_a_login_to_a_pacs_with_a_password(
    target_files: ReferenceFiles, atlas_folder: Path, tmp_path: Path
) -> None:
    files = write_series(tmp_path / "series", sitk.ReadImage(str(target_files.image)))
    tokens_for(tmp_path / "tokens.yaml", {"kim": "annotator", "lee": "admin"})
    with orthanc(tmp_path / "orthanc", "atlas", "secret") as pacs:
        assert requests.get(f"{pacs}/studies").status_code == 401
        study, series = send(pacs, files, ("atlas", "secret"))
        conf = {"atlas": str(atlas_folder), "server_tokens": str(tmp_path / "tokens.yaml")}
        conf["server_root_path"] = ROOT_PATH  # the server answers without it, too
        login = {"MONAI_LABEL_DICOMWEB_USERNAME": "atlas", "MONAI_LABEL_DICOMWEB_PASSWORD": "secret"}
        with server(pacs, tmp_path / "server", conf, login, token_of("kim")) as client:
            upstream = urlsplit(client.get_server_url()).netloc
            with tls_proxy(tmp_path / "tls", upstream) as (url, certificate):
                browser = requests.Session()
                browser.verify = str(certificate)
                browser.trust_env = False  # a certificate bundle of the environment would replace the certificate
                assert browser.get(f"{url}/info/").status_code == 401
                entered = browser.post(f"{url}/login", data={"username": "kim", "password": token_of("kim")})
                assert entered.url == f"{url}/"
                (cookie,) = browser.cookies
                assert cookie.secure
                assert browser.get(f"{url}/proxy/dicom/qido/studies").json()[0]["0020000D"]["Value"] == [study]
                asked = browser.post(f"{url}/infer/unet_3d", params={"image": series, "wait": "false"})
                assert asked.status_code == 202, asked.text
                seen = []
                job = urljoin(url, asked.headers["Location"])
                assert job == f"{url}{ROOT_PATH}/jobs/{asked.json()['id']}"
                with browser.get(f"{job}/events", stream=True, timeout=120) as events:
                    for line in events.iter_lines(decode_unicode=True):
                        if line.startswith("data:"):
                            seen.append(time.monotonic())
                assert len(seen) > 2 and seen[-1] - seen[0] > 0.3  # events arrive one by one, not all at the end
                done = browser.get(f"{job}/result", params={"output": "json"}).json()
                assert done["label_names"]["liver"] == 6
                assert browser.delete(f"{url}/datastore", params={"id": series}).status_code in (403, 404, 405)
                assert browser.get(f"{url}/logs/").status_code == 403
            with path_proxies(tmp_path / "paths", upstream) as urls:
                assert len(urls) == 2
                for url in urls:
                    annotate_below_a_path(url, study, series, client)
                if find_spec("playwright"):
                    log_in_with_a_browser(urls[0])
            if shutil.which("nginx"):
                (tmp_path / "nginx").mkdir()
                with nginx_proxy(tmp_path / "nginx", upstream) as url:
                    annotate_below_a_path(url, study, series, client)


def log_in_with_a_browser(url: str) -> None:
    """Logs in on the page and opens the list of studies. Does nothing without Chromium."""
    from e2e.browser import browser_page, chromium_program

    if chromium_program() is None:
        return
    shots = Path("demo-output") / "ohif"
    shots.mkdir(parents=True, exist_ok=True)
    with browser_page() as page:
        page.goto(f"{url}/?q=CT")
        assert page.url == f"{url}/login?next=%2F%3Fq%3DCT"
        page.screenshot(path=str(shots / "13-login.png"))
        page.get_by_label("Name").fill("kim")
        page.get_by_label("Token or password").fill(token_of("kim"))
        page.get_by_role("button", name="Log in").click()
        page.get_by_text("0 of 1 case").wait_for(timeout=30_000)
        assert page.url == f"{url}/?q=CT"  # the requested page
        page.goto(f"{url}/ohif/")
        page.get_by_text("Study List").first.wait_for(timeout=90_000)
        page.get_by_text("CT", exact=True).first.wait_for(timeout=30_000)
        page.screenshot(path=str(shots / "14-studies.png"))
        assert page.url.startswith(f"{url}/ohif/")
        page.goto(f"{url}/", wait_until="domcontentloaded")
        page.get_by_role("link", name="Log out").click()
        page.get_by_role("button", name="Log out").click()
        page.get_by_label("Token or password").wait_for(timeout=30_000)
        page.goto(f"{url}/figures")
        assert page.url == f"{url}/login?next=%2Ffigures"


def annotate_below_a_path(url: str, study: str, series: str, client: MONAILabelClient) -> None:
    """Logs in, views pages and runs a model like a browser, a script and 3D Slicer."""
    browser = requests.Session()
    for page in (url, f"{url}/", f"{url}/review", f"{url}/ohif/monai-label?StudyInstanceUIDs={study}"):
        assert browser.get(page, headers={"Accept": "text/html"}).url.partition("?")[0] == f"{url}/login"
    entered = browser.post(f"{url}/login", data={"username": "kim", "password": token_of("kim")})
    assert (entered.status_code, entered.url) == (200, f"{url}/")
    (cookie,) = browser.cookies
    assert cookie.path == ROOT_PATH
    assert browser.get(f"{url}/info").url == f"{url}/info/"
    (viewer,) = (case["viewer"] for case in listed(url, browser).values())
    assert browser.get(f"{url}{viewer}").status_code == 200
    found = browser.get(f"{url}/proxy/dicom/qido/studies/{study}/series").json()
    through = urljoin(url, found[0]["00081190"]["Value"][0])
    assert through == f"{url}/proxy/dicom/wado/studies/{study}/series/{series}"
    assert browser.get(f"{through}/metadata").json()[0]["0020000E"]["Value"] == [series]
    page = {"Origin": url.removesuffix(ROOT_PATH), "Referer": f"{url}/review"}
    asked = browser.post(f"{url}/infer/unet_3d", params={"image": series, "wait": "false"}, headers=page)
    if asked.status_code == 202:  # otherwise a stored result exists
        assert browser.get(urljoin(url, asked.headers["Location"])).json()["id"] == asked.json()["id"]
    slicer = MONAILabelClient(url, tmpdir=client._tmpdir)
    assert slicer.auth_enabled()
    slicer.update_auth(slicer.auth_token("kim", token_of("kim")))
    assert slicer.info()["name"] == client.info()["name"]
    file, about = slicer.infer("unet_3d", series, {})
    assert Path(file).stat().st_size > 0
    assert about["label_names"]["liver"] == 6
    assert slicer.next_sample("first", {})["id"] == series
