"""Takes the pictures of docs/annotating.md in the annotator's viewer: `make pictures`.

A real Orthanc holds a sample target as a DICOM series, the real server segments it, and a headless Chromium shows the viewer.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import requests
import SimpleITK as sitk
from pictures import write_picture
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from app.running import server
from e2e.annotator import Annotator
from e2e.browser import browser_page, forbidden
from e2e.orthanc import orthanc, send
from medsam2_atlas.atlas import build_atlas, find_references
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.resource import resource
from series_files import write_series
from viewers import FETCHED, with_fetched_viewer

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
MODEL = "atlas"


def main() -> None:
    """Writes docs/pictures/annotator-segmented.png and annotator-conflict.png."""
    if FETCHED is None:
        raise InputError("the annotator's viewer", "is not installed.", "Run `medsam2-atlas viewer fetch`.")
    sample = resource("sample-data")
    target = find_references(sample / "targets")[0].image
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_atlas(find_references(sample / "references")).save(folder / "atlas")
        files = write_series(folder / "series", sitk.ReadImage(str(target)))
        conf = {"atlas": str(folder / "atlas")}
        with orthanc(folder / "orthanc") as pacs:
            study, series = send(pacs, files)
            environment = with_fetched_viewer(FETCHED)
            with server(pacs, folder / "server", conf, environment, anew=True) as client, browser_page() as page:
                page.set_default_timeout(600_000)
                image = sitk.ReadImage([str(file) for file in sorted(files)])
                url = client.get_server_url().rstrip("/")
                _take(Annotator(page, url, study, series, image, folder, forbidden(page)))
        for picture in ("segmented", "conflict"):
            write_picture(Image.open(folder / f"annotator-{picture}.png"), PICTURES / f"annotator-{picture}.png", few=True)


def _take(viewer: Annotator) -> None:
    """Segments the case, and provokes a conflict with another person's version."""
    viewer.open()
    viewer.part("model").select_option(MODEL)
    viewer.press("segment-all")
    viewer.message(f"Segmented by {MODEL}", seconds=600)
    viewer.part("checked-spleen").check()
    viewer.press("organ-liver")
    viewer.press("tool-brush")
    z = viewer.shown_slice()
    rows, columns = np.nonzero(viewer.voxels()[z])
    middle = (int(np.median(columns)), int(rows.min()), z)
    viewer.drag(middle, (middle[0] + 4, middle[1], z))
    viewer.shot("segmented")
    prediction = requests.get(f"{viewer.url}/datastore/label", {"label": viewer.series, "tag": MODEL})
    fields = {"files": {"label": ("other.nii.gz", prediction.content)}, "data": {"params": '{"label_info": []}'}}
    requests.put(f"{viewer.url}/datastore/label", params={"image": viewer.series}, **fields).raise_for_status()
    viewer.press("submit")
    viewer.part("question").wait_for()
    viewer.shot("conflict")


if __name__ == "__main__":
    main()
