"""Takes the pictures of docs/worklist.md: `make pictures`.

The real server shows the sample patients to a team of three; a headless Chromium takes the pictures. The label maps that Ana
and Ben sign off are a model's predictions with organs that were shifted by a few voxels, and the reviewer's comment is made up.
The times are made up, too. The figures in the pictures therefore say nothing about people or models.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import requests
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
            shutil.copy(files.image, studies / f"Patient {number + 1:02d}.nii.gz")
        (studies / "Patient 08.nii.gz").write_bytes(b"not a CT")
        tokens = tokens_for(folder / "tokens.yaml", ROLES)
        conf = {"atlas": str(folder / "atlas"), "server_tokens": str(tokens), "server_review": "true", "foundation": "atlas"}
        with server(studies, folder / "server", conf, token=token_of("Ria"), anew=True) as client:
            _work(client.get_server_url().rstrip("/"))
        _spread(studies)
        with server(studies, folder / "server", conf, token=token_of("Ria"), anew=True) as client, browser_page() as page:
            page.set_default_timeout(120_000)
            _take(page, client.get_server_url().rstrip("/"), given.keep or folder)
        for picture in ("worklist", "worklist-compare", "worklist-figures"):
            write_picture(Image.open((given.keep or folder) / f"{picture}.png"), PICTURES / f"{picture}.png", few=True)


def _ask(url: str, who: str, method: str, path: str, **options: Any) -> requests.Response:
    answer = requests.request(method, f"{url}{path}", headers=bearer(token_of(who)), timeout=600, **options)
    answer.raise_for_status()
    return answer


def _work(url: str) -> None:
    """Runs the models, and brings the cases into different states."""
    names = [f"Patient {number:02d}" for number in range(1, 8)]
    for name in names[:5]:
        for model in MODELS:
            _ask(url, "Ria", "POST", f"/infer/{model}", params={"image": name, "output": "json"})
    for number, (name, author) in enumerate((("Patient 01", "Ana"), ("Patient 02", "Ben"), ("Patient 03", "Ana"))):
        _submit(url, author, name, 0, shifted={13: 2, 10: 1, 7: 1 + number % 2})
    _submit(url, "Ben", "Patient 01", 1, shifted={13: 1, 11: 1})
    _submit(url, "Ana", "Patient 02", 1, shifted={13: 2, 9: 1, 5: 1})
    for name, version in (("Patient 01", 2), ("Patient 02", 2)):
        _ask(url, "Ria", "POST", "/datastore/label/accept", params={"label": name, "tag": "final", "version": version})
    returned = {"label": "Patient 03", "tag": "final", "version": 1}
    _ask(url, "Ria", "POST", "/datastore/label/return", params=returned, json={"comment": COMMENT})
    _submit(url, "Ben", "Patient 04", 0, shifted={4: 1, 12: 1, 13: 1})
    _ask(url, "Ria", "POST", "/worklist/assign", json={"study": "Patient 06", "person": "Ben"})
    _ask(url, "Ana", "POST", "/worklist/claim", json={"study": "Patient 05"})
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:  # until the cases are measured
        rows = _ask(url, "Ria", "GET", "/worklist/cases", params={"state": ["predicted", "new", "in work"]}).json()["rows"]
        if all(row["disagreement"] is not None for row in rows if not row["problem"]):
            break
        time.sleep(2)


def _submit(url: str, author: str, name: str, known: int, shifted: Mapping[int, int]) -> None:
    """Signs off a prediction as a person, with organs shifted by some voxels along each axis."""
    found = _ask(url, author, "GET", "/annotation/label", params={"image": name, "tag": MODELS[0]})
    shape = [int(size) for size in found.headers["X-Shape"].split(",")]
    content = found.content if len(found.content) == np.prod(shape) else gzip.decompress(found.content)
    labels = np.frombuffer(content, np.uint8).reshape(shape).copy()
    for organ, voxels in shifted.items():
        moved = np.roll(labels == organ, (voxels,) * 3, (0, 1, 2))
        labels[labels == organ] = 0
        labels[moved & (labels == 0)] = organ
    seconds = {organ: 25 + 40 * voxels for organ, voxels in shifted.items()}
    query = {
        "image": name,
        "base_tag": MODELS[0],
        "base_version": 1,
        "known": known,
        "confirm": "both",
        "active_seconds": 90 + sum(seconds.values()),
        "organ_seconds": ",".join(f"{organ}:{value}" for organ, value in seconds.items()),
    }
    _ask(url, author, "POST", "/annotation/submit", params=query, data=gzip.compress(labels.tobytes()))


def _spread(studies: Path) -> None:
    """Changes the times of all versions, as if the team had worked for three weeks, with predictions made before them."""
    versions = studies / ".medsam2_atlas" / "versions"
    signed_off = 0
    for file in sorted(versions.rglob("*.json")):
        content = json.loads(file.read_text())
        if "made" not in content:
            continue
        days = 21
        if file.is_relative_to(versions / "final"):
            days, signed_off = (19, 12, 11, 5, 2, 0)[signed_off % 6], signed_off + 1
        for about, key in ((content, "made"), (content.get("accepted") or {}, "at")):
            if key in about:
                made = datetime.fromisoformat(about[key]) - timedelta(days=days)
                about[key] = made.isoformat(timespec="milliseconds")
        file.write_text(json.dumps(content))
    for index in (studies / ".medsam2_atlas").glob("*.sqlite*"):
        if index.name.startswith("studies"):
            index.unlink()


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
        page.wait_for_timeout(30_000 if name.endswith("figures") else 2_000)  # new figures are computed in the background
        if name.endswith("figures"):
            page.reload()
            page.locator(part).first.wait_for()
        page.evaluate("document.querySelectorAll('img').forEach(one => { one.loading = 'eager' })")
        page.wait_for_function(loaded)
        page.screenshot(path=str(folder / f"{name}.png"))


if __name__ == "__main__":
    main()
