"""Measures the worklist of a server with 5,000 cases, in a folder and in a PACS (`make worklist-bench`).

The CTs are tiny. A third of the cases has a prediction with confidences, a tenth a final label map, half of them measures. In
the PACS, a third of the series has been fetched, and the fractions refer to these. Prints the time of each request of the first
page, from sending it to the end of its answer, on the same machine; and the server's memory over 200 rounds. Twenty rounds save
a label map before, so that the tables in memory have to follow.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import psutil
import requests
import SimpleITK as sitk
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from app.fake_pacs import fake_pacs, listed
from app.running import process_of, server
from medsam2_atlas.active_learning import Assessment, ScoreTable
from medsam2_atlas.base.console import console
from medsam2_atlas.base.files import write_json
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.storage import StudyStore

CASES = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
ROUNDS, SETTLED, SAVES = 200, 40, 20
SHAPE = (12, 20, 20)
QUERIES: dict[str, tuple[str, dict[str, object]]] = {
    "/": ("/", {}),
    "/worklist/summary": ("/worklist/summary", {}),
    "/worklist/cases": ("/worklist/cases", {}),
    "/worklist/cases, filtered, last page": ("/worklist/cases", {"state": "predicted", "q": "case 1", "page": 10**6}),
    "/worklist/cases by date, 200 a page": ("/worklist/cases", {"sort": "date", "size": 200}),
    "/worklist/picture, known": ("/worklist/picture", {}),
}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, label = folder / "ct.nii.gz", folder / "label.nii.gz"
        voxels = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) % 400
        organs = np.zeros(SHAPE, np.uint8)
        organs[3:8, 4:16, 4:16] = 6
        for array, file in ((voxels, image), (organs, label)):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(file))
        in_folder(folder, image, label)
        in_pacs(folder, image, label)


def in_folder(folder: Path, image: Path, label: Path) -> None:
    studies, names = folder / "studies", [f"case {n:05d}" for n in range(CASES)]
    fill(studies, names, names, image, label)
    measure("a folder", str(studies), folder / "server of the folder", names, label)


def in_pacs(folder: Path, image: Path, label: Path) -> None:
    with fake_pacs() as pacs:
        names = [f"1.2.826.0.1.3680043.8.498.{n + 1}" for n in range(CASES)]
        pacs.series = [listed(name, f"{name}.1") | attributes(n) for n, name in enumerate(names)]
        work = folder / "server of the PACS"
        place = work / "models" / "studies" / hashlib.sha256(pacs.url.encode()).hexdigest()[:16]  # see `WorkFolder.of`
        fill(place / "store", names, names[::3], image, label)
        measure("a PACS", pacs.url, work, names, label)
        lists = sum(path.partition("?")[0].endswith("/dicom-web/series") for path in pacs.asked)
        console.print(f"The PACS was asked for its list {lists} times.")


def attributes(n: int) -> dict[str, object]:
    """Returns patient, date and description of a series in DICOM JSON."""
    texts = {"00100020": f"P{n:05d}", "00080020": f"2026{1 + n % 12:02d}{1 + n % 28:02d}", "0008103E": f"case {n}"}
    name = {"00100010": {"vr": "PN", "Value": [{"Alphabetic": f"Doe^Jane {n}"}]}}
    return {tag: {"vr": "LO", "Value": [text]} for tag, text in texts.items()} | name


def fill(studies: Path, names: list[str], here: list[str], image: Path, label: Path) -> None:
    """Makes a studies folder.

    Args:
        studies: the folder.
        names: all cases, some of which get measures.
        here: cases whose image is in the folder.
        image: the image of all cases.
        label: the label map of those that have one.
    """
    began, work = time.perf_counter(), studies / ".medsam2_atlas"
    predicted, final = here[::3], here[::10]
    for part in (studies / "labels" / "final", studies / "labels" / "unet_3d", work / "reports" / "unet_3d"):
        part.mkdir(parents=True)
    confidence = {organ.name: 0.2 + 0.05 * organ.index for organ in organ_table().organs}
    for name in here:
        (studies / f"{name}.nii.gz").hardlink_to(image)
    for name in predicted:
        (studies / "labels" / "unet_3d" / f"{name}.nii.gz").hardlink_to(label)
        write_json({"report": {"confidence": confidence}}, work / "reports" / "unet_3d" / f"{name}.json")
    for name in final:
        (studies / "labels" / "final" / f"{name}.nii.gz").hardlink_to(label)
    store = StudyStore(studies)
    assert len(store.labels()) == len({*predicted, *final})
    store.audit()  # label maps that were saved through the server are checked already
    table = ScoreTable((work.parent.parent if studies.name == "store" else work) / "learning.sqlite")
    for n, name in enumerate(names[::2]):
        values = {"disagreement": (n * 37 % 100) / 100, "uncertainty": 0.3, "novelty": 0.2}
        table.put(name, "x", {}, Assessment(values, {"disagreement": "liver and spleen differ"}))
    took = time.perf_counter() - began
    console.print(
        f"{len(names)} cases, {len(here)} images, {len(predicted)} predictions, {len(final)} final: {took:.0f} s to make"
    )


def measure(what: str, studies: str, work: Path, names: list[str], label: Path) -> None:
    """Measures a server and prints the table."""
    times: dict[str, list[float]] = defaultdict(list)
    began = time.perf_counter()
    with server(studies, work, {"learning": "false"}, anew=True) as client:
        url, session = client.get_server_url().rstrip("/"), requests.Session()
        process = psutil.Process(process_of(client).pid)
        started, used = time.perf_counter() - began, list[float]()
        for number in range(ROUNDS):
            if number % (ROUNDS // SAVES) == 0:
                with label.open("rb") as stream:
                    query = {"image": names[3 * number % len(names)], "tag": "final"}
                    saved = session.put(f"{url}/datastore/label", params=query, files={"label": ("label.nii.gz", stream)})
                    saved.raise_for_status()
            for name, (path, parameters) in QUERIES.items():
                more = {"study": names[0]} if "picture" in name else {}
                sent = time.perf_counter()
                answer = session.get(url + path, params={**parameters, **more}, timeout=120)
                times[f"{name}: first" if number == 0 else name].append(time.perf_counter() - sent)
                answer.raise_for_status()
            used.append(process.memory_info().rss / 2**20)
        total = session.get(f"{url}/worklist/summary", timeout=60).json()["total"]
    assert total == len(names)
    table = Table("request", "number", "median ms", "max ms", title=f"{len(names)} cases in {what}")
    for name, found in sorted(times.items()):
        table.add_row(name, str(len(found)), f"{1e3 * np.median(found):.0f}", f"{1e3 * max(found):.0f}")
    console.print(table)
    slope = np.polyfit(np.arange(ROUNDS - SETTLED), used[SETTLED:], 1)[0] * 100
    console.print(
        f"Started in {started:.0f} s. Memory: {used[0]:.0f} MiB after the first round, {used[SETTLED]:.0f} after {SETTLED}, "
        f"{used[-1]:.0f} after {ROUNDS} ({slope:+.1f} MiB per 100 rounds)."
    )


if __name__ == "__main__":
    main()
