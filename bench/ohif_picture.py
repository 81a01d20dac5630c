"""Takes the README's picture of OHIF with the 15 organs of a sample target: `make pictures`.

A real Orthanc holds the target as a DICOM series, the real server runs the model `medsam2_atlas` with the demo weights, and a
headless Chromium shows the result.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from dicomweb_client import DICOMwebClient
from pictures import write_picture
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from app.running import server
from e2e.browser import browser_page, forbidden
from e2e.orthanc import orthanc, send
from e2e.test_ohif import Room
from medsam2_atlas.atlas import build_atlas, find_references
from medsam2_atlas.base.resource import resource
from series_files import write_series

PICTURE = Path(__file__).parent.parent / "docs" / "ohif-15-organs.png"


def main() -> None:
    """Writes docs/ohif-15-organs.png."""
    sample = resource("sample-data")
    target = find_references(sample / "targets")[0].image
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_atlas(find_references(sample / "references")).save(folder / "atlas")
        files = write_series(folder / "series", sitk.ReadImage(str(target)))
        with orthanc(folder / "orthanc") as pacs:
            study, series = send(pacs, files)
            conf = {"atlas": str(folder / "atlas")}
            with server(pacs, folder / "server", conf, anew=True) as client, browser_page() as page:
                image = sitk.ReadImage([str(file) for file in sorted(files)])
                url = client.get_server_url().rstrip("/")
                found = forbidden(page)
                room = Room(page, url, study, series, folder, DICOMwebClient(pacs), folder, image, found)
                page.set_default_timeout(600_000)
                room.open()
                room.connect()
                page.locator(".monaiLabelPanel select").nth(1).select_option("medsam2_atlas")
                page.locator('button[title="Run Segmentation"]').first.click()
                page.wait_for_function("() => document.body.innerText.includes('Segmentation - Successful')", timeout=600_000)
                page.wait_for_timeout(3000)
                organs = [len(np.unique(plane)) for plane in room.voxels()]
                room.turn_to(int(np.argmax(organs)))
                page.locator('[data-cy="panelSegmentationWithTools-btn"]').click()
                page.wait_for_timeout(8000)  # until the viewer's messages are gone
                page.screenshot(path=str(folder / "shot.png"))
        write_picture(Image.open(folder / "shot.png"), PICTURE)


if __name__ == "__main__":
    main()
