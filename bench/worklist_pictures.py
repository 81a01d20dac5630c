"""Takes the pictures of docs/worklist.md: `make pictures`.

The real server shows the sample patients to a team of three; a headless Chromium takes the pictures. The label maps that Ana
and Ben sign off are a model's predictions with organs that were shifted by a few voxels, and the reviewer's comment is made up.
The figures in the pictures therefore say nothing about people or models.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import requests
import SimpleITK as sitk
from pictures import write_picture
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from app.running import server
from e2e.browser import browser_page
from medsam2_atlas.atlas import build_atlas, find_references
from medsam2_atlas.base.resource import resource
from token_files import bearer, token_of, tokens_for

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
MODELS = ("unet_3d", "atlas")
COMMENT = "The duodenum ends too early. Please follow it to the left."
ROLES = {"Ana": "annotator", "Ben": "annotator", "Ria": "reviewer"}
_BELOW, _ABOVE = 8, 4
"""Numbers of slices below and above the liver that are kept, so that each case takes seconds."""


def main() -> None:
    """Writes docs/pictures/worklist.png, worklist-compare.png and worklist-figures.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="folder for the pictures in full size; by default, they are not kept")
    given = parser.parse_args()
    sample = resource("sample-data")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_atlas(find_references(sample / "references")[:4]).save(folder / "atlas")
        studies = folder / "studies"
        studies.mkdir()
        for number, files in enumerate((*find_references(sample / "references")[4:], *find_references(sample / "targets"))):
            _write_case(files.image, files.label, studies / f"Patient {number + 1:02d}.nii.gz")
        (studies / "Patient 08.nii.gz").write_bytes(b"not a CT")
        tokens = tokens_for(folder / "tokens.yaml", ROLES)
        conf = {"atlas": str(folder / "atlas"), "server_tokens": str(tokens), "server_review": "true", "foundation": "atlas"}
        with server(studies, folder / "server", conf, token=token_of("Ria"), anew=True) as client, browser_page() as page:
            url = client.get_server_url().rstrip("/")
            page.set_default_timeout(120_000)
            _work(url, folder)
            _take(page, url, given.keep or folder)
        for picture in ("worklist", "worklist-compare", "worklist-figures"):
            write_picture(Image.open((given.keep or folder) / f"{picture}.png"), PICTURES / f"{picture}.png", few=True)


def _write_case(image: Path, label: Path, target: Path) -> None:
    """Writes the part of a CT around the liver."""
    labels = sitk.DICOMOrient(sitk.ReadImage(str(label)), "LPS")
    seen = np.flatnonzero((sitk.GetArrayViewFromImage(labels) == 6).any((1, 2)))
    whole = sitk.DICOMOrient(sitk.ReadImage(str(image)), "LPS")
    sitk.WriteImage(whole[:, :, max(0, int(seen[0]) - _BELOW) : int(seen[-1]) + _ABOVE], str(target))


def _ask(url: str, who: str, method: str, path: str, **options: Any) -> requests.Response:
    answer = requests.request(method, f"{url}{path}", headers=bearer(token_of(who)), timeout=600, **options)
    answer.raise_for_status()
    return answer


def _work(url: str, folder: Path) -> None:
    """Runs the models, and brings the cases into different states."""
    names = [f"Patient {number:02d}" for number in range(1, 8)]
    for name in names[:5]:
        for model in MODELS:
            _ask(url, "Ria", "POST", f"/infer/{model}", params={"image": name, "output": "json"})
    for number, (name, author) in enumerate((("Patient 01", "Ana"), ("Patient 02", "Ben"), ("Patient 03", "Ana"))):
        _submit(url, author, name, folder, shifts=(2 + number, 7, 13))
    _submit(url, "Ben", "Patient 01", folder, shifts=(4,))
    for name, version in (("Patient 01", 2), ("Patient 02", 1)):
        query = {"label": name, "tag": "final", "version": version}
        if name == "Patient 02":
            _ask(url, "Ria", "POST", "/datastore/label/return", params=query, json={"comment": COMMENT})
        else:
            _ask(url, "Ria", "POST", "/datastore/label/accept", params=query)
    _ask(url, "Ana", "POST", "/worklist/claim", json={"study": "Patient 04"})
    _ask(url, "Ria", "POST", "/worklist/assign", json={"study": "Patient 06", "person": "Ben"})
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:  # until the cases are measured
        rows = _ask(url, "Ria", "GET", "/worklist/cases", params={"state": ["predicted", "new", "in work"]}).json()["rows"]
        if all(row["disagreement"] is not None for row in rows):
            break
        time.sleep(2)


def _submit(url: str, author: str, name: str, folder: Path, shifts: Sequence[int]) -> None:
    """Signs off a prediction as a person, with some organs shifted by two voxels."""
    found = _ask(url, author, "GET", "/datastore/label", params={"label": name, "tag": MODELS[0]})
    file = folder / "label.nii.gz"
    file.write_bytes(found.content)
    image = sitk.ReadImage(str(file))
    labels = sitk.GetArrayFromImage(image)
    for organ in shifts:
        moved = np.roll(labels == organ, (1, 2, 2), (0, 1, 2))
        labels[labels == organ] = 0
        labels[moved & (labels == 0)] = organ
    made = sitk.GetImageFromArray(labels)
    made.CopyInformation(image)
    sitk.WriteImage(made, str(file))
    with file.open("rb") as stream:
        fields: dict[str, Any] = {"files": {"label": ("label.nii.gz", stream)}, "data": {"params": '{"label_info": []}'}}
        _ask(url, author, "PUT", "/datastore/label", params={"image": name}, **fields)


def _take(page: Any, url: str, folder: Path) -> None:
    """Logs in as the reviewer and takes the pictures."""
    page.set_viewport_size({"width": 1440, "height": 960})
    page.goto(f"{url}/login")
    page.get_by_label("Name").fill("Ria")
    page.get_by_label("Token or password").fill(token_of("Ria"))
    page.get_by_role("button", name="Log in").click()
    drawn = "i.complete && (i.naturalWidth || i.className === 'missing')"
    loaded = f"() => [...document.querySelectorAll('main img')].every(i => {drawn})"
    for path, part, name in (
        ("/", "#cases tbody tr", "worklist"),
        ("/compare?study=Patient+01&first=final/2&second=atlas/1", "#pictures img", "worklist-compare"),
        ("/figures", "#cards strong", "worklist-figures"),
    ):
        page.goto(url + path)
        page.locator(part).first.wait_for()
        page.wait_for_timeout(1500)
        page.evaluate("document.querySelectorAll('img').forEach(one => { one.loading = 'eager' })")
        page.wait_for_function(loaded)
        page.screenshot(path=str(folder / f"{name}.png"))


if __name__ == "__main__":
    main()
