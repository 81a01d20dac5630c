"""Tests how the server serves the fetched viewer, with a small folder in its place."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from medsam2_atlas.base.viewer_package import installed_viewer, viewer_package
from server import viewer
from server.root_path import RootPathMiddleware
from server.viewer_files import MODES, served_viewer
from viewers import with_fetched_viewer

PAGE = (
    '<!doctype html><html><head><script>window.PUBLIC_URL="/"</script><link rel="manifest" href="/manifest.json">'
    '<link href="https://fonts.example.org/font.css" rel="stylesheet"><script src="/app-config.js"></script>'
    '<script defer src="/app.bundle.1.js"></script><link href="/app.bundle.css" rel="stylesheet"></head><body></body></html>'
)
SCRIPT = b'(() => {\n__webpack_require__.p = "/";\nlet a = "/";\n})();\n'
STYLE = b'@font-face{src:url(/a.woff2)} .b{background:url("/b.png")} .c{background:url(//other.example.org/c.png)}'


async def _no_jobs(_: Any) -> None:
    """Stands for `viewer_loads`: there are no people and no jobs here."""


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in with_fetched_viewer(tmp_path).items():
        monkeypatch.setenv(name, value)
    folder = viewer_package().folder
    folder.mkdir(parents=True)
    (folder / "index.html").write_text(PAGE)
    (folder / "app-config.js").write_text("window.config = {};")
    (folder / "app.bundle.1.js").write_bytes(SCRIPT)
    (folder / "app.bundle.css").write_bytes(STYLE)
    (tmp_path / "secret.txt").write_text("secret")
    monkeypatch.setattr(viewer, "viewer_loads", _no_jobs)
    app = FastAPI()
    app.include_router(viewer.router)
    app.add_middleware(RootPathMiddleware, root_path="/below")
    return TestClient(app, follow_redirects=False)


def test_without_a_fetched_viewer_the_one_of_monai_label_is_served() -> None:
    assert installed_viewer() is None
    assert served_viewer().mode == "monai-label"


def test_the_page_names_its_files_relative_to_its_own_address(client: TestClient) -> None:
    text = client.get("/ohif/annotate?StudyInstanceUIDs=1.2").text
    assert re.findall(r'(?:src|href)="([^"]+)"', text) == [
        f"../ohif/{name}" for name in ("manifest.json", "app-config.js", "app.bundle.1.js", "app.bundle.css")
    ]
    assert 'window.PUBLIC_URL=new URL("../ohif/",location.href).pathname' in text


def test_the_script_of_the_page_is_allowed_and_others_are_not(client: TestClient) -> None:
    policy = client.get("/ohif/annotate").headers["content-security-policy"]
    assert policy.count("'sha256-") == 1
    assert "script-src 'self'" in policy


def test_scripts_load_others_from_their_own_folder(client: TestClient) -> None:
    answer = client.get("/ohif/app.bundle.1.js")
    own = b"__webpack_require__.p = " + viewer._SCRIPTS_FOLDER + b";"
    assert answer.content == SCRIPT.replace(b'__webpack_require__.p = "/";', own)
    assert answer.headers["content-length"] == str(len(answer.content))


def test_styles_load_their_files_from_their_own_folder(client: TestClient) -> None:
    text = client.get("/ohif/app.bundle.css").text
    assert "url(a.woff2)" in text
    assert 'url("b.png")' in text


def test_the_configuration_of_this_server_replaces_that_of_the_package(client: TestClient) -> None:
    assert "routerBasename" in client.get("/ohif/app-config.js").text
    assert "Signing off" in client.get("/ohif/panel/submit.js").text


def test_links_to_the_mode_of_the_other_viewer_lead_to_this_one(client: TestClient) -> None:
    answer = client.get("/ohif/monai-label?StudyInstanceUIDs=1.2&x=%2F")
    assert answer.status_code == 307
    assert answer.headers["location"] == "annotate?StudyInstanceUIDs=1.2&x=%2F"
    assert set(MODES) == {"monai-label", "annotate"}


def test_only_the_fetched_viewer_gets_the_name_of_a_series(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI Label's viewer would leave out the series of label maps."""
    path = "/ohif/{}?StudyInstanceUIDs=1.2&SeriesInstanceUIDs=1.2.3"
    assert client.get(path.format("annotate")).status_code == 200
    monkeypatch.setenv("MEDSAM2_ATLAS_VIEWER", os.devnull + "-none")
    answer = client.get(path.format("monai-label"))
    assert (answer.status_code, answer.headers["location"]) == (307, "monai-label?StudyInstanceUIDs=1.2")


def test_a_path_cannot_leave_the_folders_of_the_viewer(client: TestClient) -> None:
    for path in ("..%2Fsecret.txt", "%2e%2e/secret.txt", "panel%2F..%2F..%2Fviewer.py"):
        assert "secret" not in client.get(f"/ohif/{path}").text
        assert "def ohif_file" not in client.get(f"/ohif/{path}").text


def test_own_files_contain_no_absolute_path_and_no_handler_in_a_page() -> None:
    own = Path(viewer.__file__).parent / "annotator"
    files = sorted(own.rglob("*.js"))
    assert len(files) > 15
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"""[(=,:]\s*['"`]/[a-z]""", text), file.name
        assert "innerHTML" not in text, file.name
        assert len(text.splitlines()) <= 350, file.name
