"""Tests the area of the worklist on which admins drop CTs, in a real browser."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from app.running import server
from oriented_files import direction_of, small_ct
from series_files import write_series
from token_files import token_of, tokens_for

browser = pytest.importorskip("e2e.browser")

pytestmark = pytest.mark.skipif(browser.chromium_program() is None, reason="Chromium is not installed")

_DROP = """(files) => {
    const transfer = new DataTransfer();
    for (const [name, content] of files) {
        const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
        transfer.items.add(new File([bytes], name));
    }
    const area = document.getElementById('upload');
    for (const type of ['dragover', 'drop']) {
        area.dispatchEvent(new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }
}"""


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    sitk.WriteImage(small_ct(direction_of("LPS")), str(folder / "old.nii.gz"))
    return folder


@pytest.fixture
def page() -> Iterator[Any]:
    with browser.browser_page() as page:
        yield page


def drop(page: Any, files: list[Path]) -> list[str]:
    """Drops files on the area, and returns what the page reports once everything was sent."""
    page.evaluate(_DROP, [[file.name, base64.b64encode(file.read_bytes()).decode()] for file in files])
    page.get_by_text("Done.", exact=True).wait_for(timeout=60_000)
    found: list[str] = page.locator("#sent li").all_inner_texts()
    return found


def test_dropped_files_and_slices_become_cases_and_a_bad_file_shows_its_reason(
    page: Any, studies: Path, tmp_path: Path
) -> None:
    good, bad = tmp_path / "new.nii.gz", tmp_path / "bad.nii.gz"
    sitk.WriteImage(small_ct(direction_of("LAS"), 3), str(good))
    bad.write_bytes(b"no image")
    slices = write_series(tmp_path / "series", small_ct(direction_of("LPS"), 4))
    with server(studies, tmp_path / "work", {"learning": "false", "server_hu": "as-is"}) as client:
        forbidden = browser.forbidden(page)
        page.goto(f"{client.get_server_url().rstrip('/')}/")
        page.get_by_text("0 of 1 case").wait_for()
        reported = drop(page, [good, bad, *slices])
        page.get_by_text("0 of 3 cases").wait_for()
        assert not forbidden
        assert reported[0] == "new.nii.gz is now listed as new."
        assert reported[1].startswith("bad.nii.gz: ")
        assert reported[2].endswith("is now listed as ct.")
        link = page.get_by_role("link", name="Segment new", exact=True)
        assert "StudyInstanceUIDs=2.25." in link.get_attribute("href")
    assert {file.name for file in studies.iterdir() if file.is_file()} == {"old.nii.gz", "new.nii.gz", "ct.nii.gz"}


def test_the_button_sends_files_too(page: Any, studies: Path, tmp_path: Path) -> None:
    file = tmp_path / "chosen.nrrd"
    sitk.WriteImage(small_ct(direction_of("RAS"), 6), str(file))
    with server(studies, tmp_path / "work", {"learning": "false", "server_hu": "as-is"}) as client:
        page.goto(f"{client.get_server_url().rstrip('/')}/")
        page.locator("#upload input").set_input_files(str(file))
        page.get_by_text("chosen.nrrd is now listed as chosen.").wait_for(timeout=60_000)
    assert [image.name.partition(".")[0] for image in studies.glob("c*") if image.is_file()] == ["chosen"]


def test_only_admins_see_the_area(page: Any, studies: Path, tmp_path: Path) -> None:
    tokens = tokens_for(tmp_path / "tokens.yaml", {"Ann": "annotator", "Adm": "admin"})
    conf = {"learning": "false", "server_tokens": str(tokens)}
    shown = {}
    with server(studies, tmp_path / "work", conf, token=token_of("Adm")) as client:
        for name in ("Ann", "Adm"):
            page.set_extra_http_headers({"Authorization": f"Bearer {token_of(name)}"})
            page.goto(f"{client.get_server_url().rstrip('/')}/")
            page.get_by_text("0 of 1 case").wait_for()
            shown[name] = page.locator("#upload").is_visible()
    assert json.dumps(shown) == '{"Ann": false, "Adm": true}'
