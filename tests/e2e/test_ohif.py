"""Tests OHIF as annotators use it: open a study, run a model, view, submit and reopen the segmentation."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
import SimpleITK as sitk
from dicomweb_client import DICOMwebClient
from PIL import Image
from pydicom.dataset import Dataset
from scipy import ndimage

from app.running import server
from e2e.orthanc import orthanc, orthanc_program, send
from e2e.proxies import ROOT_PATH, path_proxies
from mask_dice import mask_dice
from medsam2_atlas.atlas import ReferenceFiles
from medsam2_atlas.dicom import read_seg
from medsam2_atlas.imaging.labels import organ_table
from series_files import write_series

browser = pytest.importorskip("e2e.browser")

pytestmark = pytest.mark.skipif(
    orthanc_program() is None or browser.chromium_program() is None, reason="Orthanc or Chromium is not installed"
)


_VIEWPORT = "const viewport = () => window.cornerstone.getRenderingEngines()[0].getViewports()[0]; "


@dataclass
class Room:
    """A viewer with a study of a PACS. shots: folder for its pictures. forbidden: policy violations of its pages."""

    page: Any
    url: str
    study: str
    series: str
    files: Path
    pacs: DICOMwebClient
    shots: Path
    image: sitk.Image
    forbidden: list[str]
    wheel: int = 100

    def open(self) -> None:
        self.page.goto(f"{self.url}/ohif/monai-label?StudyInstanceUIDs={self.study}", wait_until="domcontentloaded")
        self.page.locator("#monailabelServerURL").wait_for(timeout=90_000)
        self.page.locator('[data-cy="SubmitLabel"]').wait_for(timeout=60_000)
        self.page.wait_for_timeout(6000)  # the volume is loading
        notice = self.page.get_by_text("Confirm and Hide")
        if notice.count():
            notice.click()

    def connect(self) -> None:
        self.page.locator(".settingsTable button.actionButton").click()
        self.page.locator('button[title="Run Segmentation"]').first.wait_for(timeout=30_000)

    def run(self, model: str) -> None:
        self.page.locator(".monaiLabelPanel select").nth(1).select_option(model)
        self.page.locator('button[title="Run Segmentation"]').first.click()
        self.page.wait_for_function("() => document.body.innerText.includes('Segmentation - Successful')", timeout=180_000)
        self.page.wait_for_timeout(3000)

    def colours(self, name: str) -> float:
        """Returns the fraction of coloured pixels in the viewports and stores the picture."""
        picture = self.page.screenshot(path=str(self.shots / f"{name}.png"))
        pixels = np.asarray(Image.open(BytesIO(picture)).convert("RGB"), int)[150:850, 300:1300]
        return float((pixels.max(2) - pixels.min(2) > 25).mean())

    def submit(self, answer: bool | None = None) -> str:
        """Submits and returns the viewer's message.

        answer: the answer to the question whether to save anyway; None if no question is expected.
        """
        self.page.locator('[data-cy="SubmitLabel"]').click()
        if answer is not None:
            self.question().wait_for(timeout=60_000)
            self.answer(answer)
        message = self.page.get_by_text(re.compile("^(Saved|Not done)")).last
        message.wait_for(timeout=60_000)
        return str(message.inner_text())

    def question(self) -> Any:
        """Returns the question whether to save a label map that would lose organs."""
        return self.page.locator('[data-cy="viewport-notification"]')

    def answer(self, save: bool) -> None:
        self.question().get_by_role("button", name="Save anyway" if save else "Do not save").click()

    def open_slice(self) -> int:
        """Returns the index of the slice in the first viewport, in the file's grid."""
        focal = self.page.evaluate(_VIEWPORT + "() => viewport().getCamera().focalPoint")
        return round(self.image.TransformPhysicalPointToContinuousIndex([float(v) for v in focal])[2])

    def turn_to(self, z: int) -> None:
        """Scrolls the first viewport to a slice."""
        self.page.mouse.move(*self.middle_of_axial())
        for _ in range(400):
            distance = z - self.open_slice()
            if not distance:
                return
            self.page.mouse.wheel(0, self.wheel * distance / abs(distance))
            self.page.wait_for_timeout(60)
            if abs(z - self.open_slice()) > abs(distance):
                self.wheel = -self.wheel
        raise AssertionError(f"slice {z} is not shown")

    def middle_of_axial(self) -> tuple[float, float]:
        x, y = self.page.evaluate(
            _VIEWPORT
            + """() => {
                const frame = viewport().canvas.getBoundingClientRect();
                return [frame.x + frame.width / 2, frame.y + frame.height / 2];
            }"""
        )
        return float(x), float(y)

    def on_screen(self, index: Sequence[int]) -> tuple[float, float]:
        """Returns the position of a voxel (x, y, z) on the page, in pixels (x, y)."""
        world = self.image.TransformIndexToPhysicalPoint([int(v) for v in index])
        x, y = self.page.evaluate(
            _VIEWPORT
            + """(world) => {
                const place = viewport().worldToCanvas(world), frame = viewport().canvas.getBoundingClientRect();
                return [frame.x + place[0], frame.y + place[1]];
            }""",
            list(world),
        )
        return float(x), float(y)

    def choose(self, organ: str) -> None:
        """Chooses an organ in OHIF's panel of segments (the second tab)."""
        self.page.locator('[data-cy="panelSegmentationWithTools-btn"]').click()
        self.page.get_by_text(organ, exact=True).last.click()
        self.page.wait_for_timeout(500)

    def drag(self, first: tuple[float, float], last: tuple[float, float]) -> None:
        self.page.mouse.move(*first)
        self.page.mouse.down()
        self.page.mouse.move((first[0] + last[0]) / 2, (first[1] + last[1]) / 2)
        self.page.mouse.move(*last)
        self.page.mouse.up()
        self.page.wait_for_timeout(500)

    def press(self, button: str) -> None:
        self.page.locator(f'[data-cy="{button}"]').click()
        self.page.wait_for_timeout(500)

    def segment(self) -> None:
        self.press("SegmentMarked")
        self.page.get_by_text("Segmented: ").last.wait_for(timeout=120_000)
        self.page.wait_for_timeout(2000)

    def voxels(self) -> np.ndarray:
        """Returns the viewer's label map `[z, y, x]` in the file's grid."""
        listed = self.page.evaluate(
            """() => {
                const volume = window.services.segmentationService.getLabelmapVolume('1');
                return Array.from(volume.voxelManager.getCompleteScalarDataArray());
            }"""
        )
        return np.array(listed, np.uint8).reshape(sitk.GetArrayViewFromImage(self.image).shape)

    def versions(self) -> list[dict[str, Any]]:
        answer = requests.get(f"{self.url}/datastore/label/versions", {"label": self.series})
        return list(answer.json()) if answer.status_code == 200 else []


@pytest.fixture(scope="module")
def room(target_files: ReferenceFiles, atlas_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    folder = tmp_path_factory.mktemp("room")
    shots = Path("demo-output") / "ohif"
    shots.mkdir(parents=True, exist_ok=True)
    files = write_series(folder / "series", sitk.ReadImage(str(target_files.image)))
    with orthanc(folder / "orthanc") as pacs:
        study, series = send(pacs, files)
        # The root path has no effect on requests without it.
        conf = {"atlas": str(atlas_folder), "server_root_path": ROOT_PATH}
        with server(pacs, folder / "server", conf) as client, browser.browser_page() as page:
            url = client.get_server_url().rstrip("/")
            forbidden = browser.forbidden(page)
            image = sitk.ReadImage([str(file) for file in sorted(files)])
            yield Room(page, url, study, series, folder / "series", DICOMwebClient(pacs), shots, image, forbidden)


def test_an_empty_label_map_is_not_signed_off_by_accident(room: Room) -> None:
    room.open()
    room.connect()
    room.page.locator('[data-cy="SubmitLabel"]').click()
    room.question().wait_for(timeout=60_000)
    room.colours("0-question")
    assert "empty label map (0 voxels)" in room.question().inner_text()
    room.answer(False)
    room.page.get_by_text("Not done. Nothing was saved.").first.wait_for(timeout=10_000)
    assert room.versions() == []
    assert requests.get(f"{room.url}/info/").json()["datastore"]["completed"] == 0


def test_a_study_is_opened_segmented_submitted_and_found_again(room: Room) -> None:
    room.open()
    plain = room.colours("1-open")
    room.connect()
    room.run("unet_3d")
    seen = room.colours("2-segmented")
    assert seen > plain + 0.01  # texts and frames are coloured from the start
    message = room.submit()
    assert "version 1: liver" in message  # the largest first
    assert re.search(r"spleen \d+ ml", message)
    room.colours("3-submitted")
    final = requests.get(f"{room.url}/datastore/label", {"label": room.series, "tag": "final"}).content
    (room.files.parent / "final.nii.gz").write_bytes(final)
    prediction = requests.post(f"{room.url}/infer/unet_3d", params={"image": room.series, "output": "image"}).content
    (room.files.parent / "prediction.nii.gz").write_bytes(prediction)
    submitted, predicted = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(room.files.parent / f"{name}.nii.gz"))) for name in ("final", "prediction")
    )
    assert (submitted == predicted).all()

    room.open()  # reopens the study
    room.page.get_by_text("final (medsam2_atlas)").first.wait_for(timeout=30_000)
    room.colours("4-again")
    (listed,) = room.pacs.search_for_series(room.study, search_filters={"Modality": "SEG"})
    (seg,) = room.pacs.retrieve_series(room.study, str(Dataset.from_json(listed).SeriesInstanceUID))
    assert [item.SegmentLabel for item in seg.SegmentSequence] == [organ.display for organ in organ_table().organs]
    assert (read_seg(seg, room.files) == submitted).all()


def test_a_label_map_that_another_person_saved_meanwhile_is_not_replaced(room: Room) -> None:
    room.open()
    room.connect()
    room.run("unet_3d")
    prediction = requests.post(f"{room.url}/infer/unet_3d", params={"image": room.series, "output": "image"})
    saved = requests.put(
        f"{room.url}/datastore/label",
        files={"label": ("other.nii.gz", prediction.content)},
        data={"params": '{"label_info": []}'},
        params={"image": room.series},
    )
    assert saved.status_code == 200
    requests.post(f"{room.url}/datastore/label/restore", params={"label": room.series, "version": 1})
    before = room.versions()
    message = room.submit()
    room.colours("5-conflict")
    assert "Not done" in message
    assert "Load it, carry your changes over" in message
    assert room.versions() == before


def test_an_organ_is_segmented_from_a_box_and_corrected_by_a_point(room: Room, target_files: ReferenceFiles) -> None:
    truth = sitk.GetArrayFromImage(sitk.Resample(sitk.ReadImage(str(target_files.label)), room.image, sitk.Transform(), 1))
    liver = truth == 6
    room.open()
    room.connect()
    z = int(np.flatnonzero(liver.any((1, 2)))[len(np.flatnonzero(liver.any((1, 2)))) // 2])
    room.turn_to(z)
    room.choose("liver")
    rows, columns = np.nonzero(liver[z])
    room.press("MedSAM2Box")
    room.drag(
        room.on_screen((columns.min(), rows.min(), z)),
        room.on_screen((columns.max(), rows.max(), z)),
    )
    room.segment()
    seen = room.colours("6-segmented-from-a-box")
    assert seen > 0.02
    found = room.voxels()
    (value,) = np.unique(found[found > 0])
    assert mask_dice(found == value, liver) > 0.8
    # Like an annotator, place a point in the largest error.
    wrong = (found == value) ^ liver
    worst = int(wrong.sum((1, 2)).argmax())
    room.turn_to(worst)
    y, x = np.unravel_index(ndimage.distance_transform_edt(wrong[worst]).argmax(), wrong[worst].shape)
    missed = bool(liver[worst, y, x])
    room.press("MedSAM2Inside" if missed else "MedSAM2Outside")
    room.page.mouse.click(*room.on_screen((x, y, worst)))
    room.page.wait_for_timeout(500)
    room.segment()
    room.colours("7-corrected-by-a-point")
    assert bool(room.voxels()[worst, y, x]) == missed


def test_the_brush_paints_the_chosen_organ(room: Room) -> None:
    room.open()
    room.connect()
    room.choose("spleen")
    x, y = room.middle_of_axial()
    room.press("Brush")
    room.drag((x, y), (x + 30, y))
    room.colours("8-painted")
    painted = room.voxels()
    assert 20 < (painted > 0).sum() < 20_000
    message = room.submit(answer=True)  # 14 organs fewer than before
    assert re.search(r"Saved as version \d+: spleen [\d.]+ ml", message)
    labels = requests.get(f"{room.url}/datastore/label", {"label": room.series, "tag": "final"}).content
    (room.files.parent / "painted.nii.gz").write_bytes(labels)
    assert np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(room.files.parent / "painted.nii.gz")))).tolist() == [0, 1]


def test_an_empty_label_map_does_not_replace_15_organs_by_accident(room: Room) -> None:
    requests.post(f"{room.url}/datastore/label/restore", params={"label": room.series, "version": 1})
    before = room.versions()
    room.open()
    room.page.get_by_text("final (medsam2_atlas)").first.dblclick()  # the signed-off label
    room.page.get_by_text("LOAD", exact=True).first.click()
    room.page.wait_for_timeout(4000)
    room.connect()  # starts a new segmentation
    message = room.submit(answer=False)
    assert "Nothing was saved" in message
    assert room.versions() == before
    room.page.locator('[data-cy="SubmitLabel"]').click()
    room.question().wait_for(timeout=60_000)
    room.colours("8b-question")
    assert "left adrenal gland" in room.question().inner_text()
    room.answer(True)
    room.page.get_by_text("Saved as version").first.wait_for(timeout=60_000)
    assert len(room.versions()) == len(before) + 1
    requests.post(f"{room.url}/datastore/label/restore", params={"label": room.series, "version": 1})


def test_the_worklist_leads_to_the_viewer(room: Room) -> None:
    room.page.goto(f"{room.url}/review", wait_until="domcontentloaded")  # as older links do
    room.page.locator("tbody img").first.wait_for(timeout=60_000)
    room.page.wait_for_function(
        "() => { const i = document.querySelector('tbody img'); return i.complete && i.naturalWidth > 0 }"
    )
    room.page.screenshot(path=str(room.shots / "9-worklist.png"))
    assert room.page.locator("#progress-text").inner_text().split()[:6] == ["1", "of", "1", "case", "signed", "off"]
    room.page.locator("#cases tbody a").first.click()
    room.page.locator("#monailabelServerURL").wait_for(timeout=90_000)
    assert room.study in room.page.url


@pytest.mark.skipif(shutil.which("caddy") is None, reason="Caddy is not installed")
def test_the_viewer_works_below_a_path_of_a_host(room: Room, tmp_path: Path) -> None:
    asked: list[str] = []
    failed: list[str] = []
    requests.post(f"{room.url}/infer/unet_3d", params={"image": room.series, "output": "json"})  # for a picture
    room.page.goto("about:blank")  # the viewer of the previous test may still be loading
    room.page.on("request", lambda request: asked.append(request.url))
    room.page.on("response", lambda answer: failed.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    with path_proxies(tmp_path / "paths", urlsplit(room.url).netloc) as urls:
        for number, url in enumerate(urls):
            below = replace(room, url=url)
            below.page.goto(f"{url}/", wait_until="domcontentloaded")
            below.page.wait_for_function(
                "() => { const i = document.querySelector('tbody img'); return i && i.complete && i.naturalWidth > 0 }"
            )
            below.page.screenshot(path=str(room.shots / f"10-below-a-path-worklist-{number}.png"))
            assert below.page.locator("#cases tbody a").first.evaluate("link => link.href").startswith(f"{url}/ohif/")
            below.open()
            plain = below.colours(f"11-below-a-path-open-{number}")
            below.connect()
        below.run("unet_3d")
        assert below.colours("12-below-a-path-segmented") > plain + 0.01
        assert "Saved as version" in below.submit()
        assert below.page.url.startswith(f"{url}/ohif/monai-label?")
    own = [address for address in asked if address.startswith("http://127.0.0.1")]
    assert any(address.startswith(f"{url}/datastore/label?tag=final") for address in own)
    assert [address for address in own if not address.startswith(tuple(f"{url}/" for url in urls))] == []
    no_news = ("/datastore/label/info?", "/train/?check_if_running")  # 404: no label yet, and no training
    assert [address for address in failed if not any(part in address for part in no_news)] == []


def test_no_page_violates_the_policy_or_uses_another_host(room: Room) -> None:
    for path in ("docs", "login", "", "logs/", "metrics"):
        assert room.page.goto(f"{room.url}/{path}", wait_until="load").ok, path
    pointer = "() => getComputedStyle(document.querySelector('summary')).cursor"
    room.page.goto(f"{room.url}/docs", wait_until="load")
    assert room.page.evaluate(pointer) == "pointer"
    room.page.screenshot(path=str(room.shots / "13-docs.png"))
    room.page.goto(f"{room.url}/login", wait_until="load")
    room.page.screenshot(path=str(room.shots / "14-login.png"))
    room.open()
    assert room.forbidden == []
