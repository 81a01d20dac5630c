"""Drives the annotator's viewer in a browser, as an annotator would."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests
import SimpleITK as sitk

_VOXELS = """async () => {
    const { cornerstone, cornerstoneTools } = window;
    const labelmap = cornerstoneTools.segmentation.state.getSegmentation('medsam2_atlas').representationData.Labelmap;
    const slices = labelmap.imageIds.map(imageId => {
        const image = cornerstone.cache.getImage(imageId);
        const plane = cornerstone.metaData.get('imagePlaneModule', image.referencedImageId);
        return [plane.imagePositionPatient[2], image.voxelManager.getScalarData()];
    });
    const blob = new Blob(slices.map(([, pixels]) => pixels));
    const reader = new FileReader();
    await new Promise(resolve => { reader.onload = resolve; reader.readAsDataURL(blob); });
    return [slices.map(([height]) => height), reader.result.split(',')[1]];
}"""
_PLACE = """([pane, world]) => {
    const viewport = window.services.cornerstoneViewportService.getCornerstoneViewport(pane);
    const place = viewport.worldToCanvas(world), frame = viewport.canvas.getBoundingClientRect();
    return [frame.x + place[0], frame.y + place[1]];
}"""
_SLICE = "() => window.services.cornerstoneViewportService.getCornerstoneViewport('axial').getCamera().focalPoint"


@dataclass
class Annotator:
    """An open page of the annotator's viewer.

    Attributes:
        page: the browser's page.
        url: the server.
        study, series: the DICOM UIDs of the case.
        image: the CT, axial slices in ascending order.
        shots: folder for pictures.
        forbidden: policy violations of its pages, and requests to other hosts.
    """

    page: Any
    url: str
    study: str
    series: str
    image: sitk.Image
    shots: Path
    forbidden: list[str]

    def part(self, name: str) -> Any:
        """Returns a part of the panel."""
        return self.page.locator(f'.annotation-panel [data-cy="{name}"]')

    def open(self, path: str = "annotate") -> None:
        """Opens the case and waits until the panel can be used."""
        self.go(path)
        self.ready()

    def go(self, path: str = "annotate") -> None:
        """Opens the case."""
        self.page.goto(f"{self.url}/ohif/{path}?StudyInstanceUIDs={self.study}", wait_until="domcontentloaded")

    def ready(self) -> None:
        """Waits until the panel can be used and the CT is loaded."""
        self.page.locator('.annotation-panel [data-cy="segment-all"]:enabled').wait_for(timeout=90_000)
        self.page.wait_for_function(
            "() => window.cornerstone.cache.getVolumes().some(v => v.loadStatus && v.loadStatus.loaded)", timeout=60_000
        )
        self.settle()

    def settle(self) -> None:
        """Waits until the panel has counted the voxels of the last change."""
        self.page.wait_for_timeout(1200)

    def press(self, name: str) -> None:
        """Presses a button of the panel."""
        self.part(name).click()
        self.page.wait_for_timeout(300)

    def message(self, text: str, seconds: float = 120) -> str:
        """Waits for a message with a text and returns it."""
        shown = self.part("message").filter(has_text=text)
        shown.wait_for(timeout=seconds * 1000)
        return str(shown.inner_text())

    def shot(self, name: str) -> None:
        """Takes a picture."""
        self.page.screenshot(path=str(self.shots / f"annotator-{name}.png"))

    def voxels(self) -> np.ndarray:
        """Returns the label map on the screen, `[z, y, x]` uint8, in the grid of the CT."""
        heights, text = self.page.evaluate(_VOXELS)
        shape = sitk.GetArrayViewFromImage(self.image).shape
        slices = np.frombuffer(base64.b64decode(text), np.uint8).reshape(shape)
        return slices[np.argsort(heights)]

    def place(self, voxel: Sequence[int], pane: str = "axial") -> tuple[float, float]:
        """Returns the position of a voxel (x, y, z) on the page, in pixels."""
        world = list(self.image.TransformIndexToPhysicalPoint([int(value) for value in voxel]))
        x, y = self.page.evaluate(_PLACE, [pane, world])
        return float(x), float(y)

    def shown_slice(self) -> int:
        """Returns the number of the axial slice on the screen."""
        point = [float(value) for value in self.page.evaluate(_SLICE)]
        return round(self.image.TransformPhysicalPointToContinuousIndex(point)[2])

    def click(self, voxel: Sequence[int], pane: str = "axial") -> None:
        """Clicks a voxel (x, y, z), whose slice must be shown."""
        self.page.mouse.move(*self.place(voxel, pane))
        self.page.wait_for_timeout(400)
        self.page.mouse.down()
        self.page.mouse.up()

    def drag(self, *voxels: Sequence[int]) -> None:
        """Drags from the first of the voxels (x, y, z) through the others."""
        self.page.mouse.move(*self.place(voxels[0]))
        self.page.wait_for_timeout(400)
        self.page.mouse.down()
        for voxel in voxels[1:]:
            self.page.mouse.move(*self.place(voxel), steps=3)
            self.page.wait_for_timeout(60)
        self.page.mouse.up()
        self.settle()

    def versions(self) -> list[dict[str, Any]]:
        """Returns the final versions on the server, the oldest first."""
        answer = requests.get(f"{self.url}/datastore/label/versions", {"label": self.series})
        return list(answer.json()) if answer.ok else []

    def stored(self, tag: str = "final", version: int | None = None) -> np.ndarray:
        """Returns a label map on the server, `[z, y, x]`, in the grid of the CT."""
        query = {"label": self.series, "tag": tag}
        path = "label" if version is None else "label/version"
        answer = requests.get(f"{self.url}/datastore/{path}", query | ({} if version is None else {"version": version}))
        answer.raise_for_status()
        file = self.shots / "stored.nii.gz"
        file.write_bytes(answer.content)
        found = sitk.Resample(sitk.ReadImage(str(file)), self.image, sitk.Transform(), sitk.sitkNearestNeighbor)
        return sitk.GetArrayFromImage(found)
