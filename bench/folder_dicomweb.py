"""Measures how fast a studies folder shows a CT of clinical size to viewers by DICOMweb (`make folder-dicomweb`).

A new server gets a CT of 512 x 512 x 300 voxels, a synthetic patient with noise, as `.nii.gz` and as `.nii` in the orientation
RAS. The script then sends the requests of a viewer that opens the study: search, metadata, the middle frame; and afterwards
all frames over eight connections. The first image is there when the middle frame has arrived.

If the annotator's viewer is installed, a headless Chromium then opens each CT. Measured is the time from the request for the
metadata, which OHIF sends as soon as its own program runs, until a slice is on the screen; and the time of the program itself.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import requests
import SimpleITK as sitk
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from app.running import process_of, server
from e2e.browser import browser_page
from medsam2_atlas.base.console import console
from medsam2_atlas.base.resource import resource
from viewers import FETCHED, with_fetched_viewer

SIZE, CONNECTIONS = (512, 512, 300), 8
SHOWN = """() => {
    const service = window.services && window.services.cornerstoneViewportService;
    const canvas = service && service.getCornerstoneViewport('axial') && service.getCornerstoneViewport('axial').canvas;
    if (!canvas) { return false; }
    const side = 40, [x, y] = [canvas.width, canvas.height].map(n => Math.floor((n - side) / 2));
    const pixels = canvas.getContext('2d').getImageData(x, y, side, side).data;
    return pixels.filter((value, i) => i % 4 === 0 && value > 40).length > side * side / 4;
}"""
"""Whether the middle of the axial pane shows bright tissue."""
FRAMES = {"Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"}


def main() -> None:
    """Prints the times and sizes."""
    table = Table("step", *(f"{suffix}, s" for suffix in (".nii.gz", ".nii")), title=f"{SIZE[0]} x {SIZE[1]} x {SIZE[2]}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "studies"
        folder.mkdir()
        patient = large_ct()
        for number, suffix in enumerate((".nii.gz", ".nii")):
            sitk.WriteImage(patient, str(folder / f"ct{number}{suffix}"), useCompression=suffix.endswith("gz"))
            shutil.copy(folder / f"ct{number}{suffix}", folder / f"viewed{number}{suffix}")  # one that no request has read yet
        packed = (folder / "ct0.nii.gz").stat().st_size / 1e6
        environment = {} if FETCHED is None else with_fetched_viewer(FETCHED)
        with server(folder, Path(name) / "work", {"learning": "false"}, environment, anew=True) as client:
            url = client.get_server_url().rstrip("/")
            columns = [opened(url, f"ct{number}") for number in range(2)]
            if FETCHED is not None:
                for column, found in zip(columns, in_viewer(url), strict=True):
                    column |= found
            memory = process_of(client).pid
            resident = int(Path(f"/proc/{memory}/statm").read_text().split()[1]) * 4096 / 1e6
    for step in columns[0]:
        table.add_row(step, *(f"{column[step]:.2f}" for column in columns))
    console.print(table)
    console.print(f"the packed file has {packed:.0f} MB; the server has {resident:.0f} MB with all CTs open")


def large_ct() -> sitk.Image:
    """Returns the CT: a phantom of the sample data, resampled, with noise of 12 HU everywhere."""
    source = sitk.DICOMOrient(sitk.ReadImage(str(next(resource("sample-data/targets/images").glob("*.nii.gz")))), "RAS")
    spacing = [n * s / m for n, s, m in zip(source.GetSize(), source.GetSpacing(), SIZE, strict=True)]
    grown = sitk.Resample(
        source,
        SIZE,
        sitk.Transform(),
        sitk.sitkLinear,
        source.GetOrigin(),
        spacing,
        source.GetDirection(),
        -1000.0,
        sitk.sitkInt16,
    )
    array = sitk.GetArrayFromImage(grown)
    noise = np.random.default_rng(0).normal(0, 12, array.shape[1:])
    for plane in array:
        noise = np.roll(noise, 37)
        plane += noise.astype(np.int16)
    made = sitk.GetImageFromArray(array)
    made.CopyInformation(grown)
    return made


def opened(url: str, study: str) -> dict[str, float]:
    """Returns the seconds of the steps in which a viewer opens a study."""
    session, found = requests.Session(), dict[str, float]()
    began = time.perf_counter()

    def step(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        found[name] = time.perf_counter() - start
        return result

    web = f"{url}/proxy/dicom/wado"
    listed = step("list of series", lambda: session.get(f"{web}/series", params={"PatientID": study}).json())
    path = f"{web}/studies/{listed[0]['0020000D']['Value'][0]}/series/{listed[0]['0020000E']['Value'][0]}"
    items = step("metadata of 300 slices", lambda: session.get(f"{path}/metadata").json())
    uids = [item["00080018"]["Value"][0] for item in items]

    def frame(uid: str) -> int:
        return len(session.get(f"{path}/instances/{uid}/frames/1", headers=FRAMES).content)

    step("middle frame", lambda: frame(uids[len(uids) // 2]))
    found["first image"] = time.perf_counter() - began
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        sizes = step("all frames", lambda: list(pool.map(frame, uids)))
    assert min(sizes) > SIZE[0] * SIZE[1] * 2
    return found


def in_viewer(url: str) -> list[dict[str, float]]:
    """Returns the seconds in which the annotator's viewer shows a copy of each CT: its program, and the first image."""
    found = []
    with browser_page() as page:
        for number in range(2):
            about = requests.get(f"{url}/datastore/image/info", {"image": f"viewed{number}"}).json()
            asked = list[float]()
            page.on("request", lambda one, asked=asked: asked.append(time.perf_counter()) if "/metadata" in one.url else None)
            began = time.perf_counter()
            page.goto(f"{url}/ohif/annotate?StudyInstanceUIDs={about['StudyInstanceUID']}", wait_until="commit")
            page.wait_for_function(SHOWN, polling=50, timeout=120_000)
            now = time.perf_counter()
            found.append({"OHIF's program": asked[0] - began, "first image in OHIF": now - asked[0], "both": now - began})
    return found


if __name__ == "__main__":
    main()
