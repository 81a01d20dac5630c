"""Tests the annotator's viewer from an open case to a resolved conflict, with a real browser, on a real PACS and on a folder.

The tests are one story; each continues where the previous one ended. At each step the voxels on the screen are compared with
those of the server.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import SimpleITK as sitk

from app.running import server
from e2e.annotator import Annotator
from e2e.orthanc import orthanc, orthanc_program, send
from medsam2_atlas.atlas import ReferenceFiles
from medsam2_atlas.imaging.labels import organ_table
from series_files import write_series
from viewers import FETCHED, with_fetched_viewer
from waiting import until

browser = pytest.importorskip("e2e.browser")

pytestmark = [
    pytest.mark.skipif(
        orthanc_program() is None or browser.chromium_program() is None, reason="Orthanc or Chromium is not installed"
    ),
    pytest.mark.skipif(FETCHED is None, reason="the annotator's viewer is not installed: make e2e-tools"),
]

LIVER, SPLEEN, AORTA = 6, 1, 8


@pytest.fixture(scope="module", params=["PACS", "folder"])
def viewer(
    request: pytest.FixtureRequest, target_files: ReferenceFiles, atlas_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Annotator]:
    assert FETCHED is not None
    folder, shots = tmp_path_factory.mktemp("annotator"), Path("demo-output") / "ohif"
    shots.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opened:
        conf, environment = {"atlas": str(atlas_folder), "learning": "false"}, with_fetched_viewer(FETCHED)
        image = sitk.ReadImage(str(target_files.image))
        if request.param == "PACS":
            files = write_series(folder / "series", image)
            studies: Path | str = opened.enter_context(orthanc(folder / "orthanc"))
            study, series = send(str(studies), files)
            send(str(studies), write_series(folder / "other", image))  # the next case
            shown = sitk.ReadImage([str(file) for file in sorted(files)])
        else:
            studies = folder / "studies"
            studies.mkdir()
            for name in ("T-001", "T-001 b"):
                shutil.copy(target_files.image, studies / f"{name}.nii.gz")
            shown = sitk.DICOMOrient(image, "LPS")
        client = opened.enter_context(server(studies, folder / "server", conf, environment, anew=True))
        page = opened.enter_context(browser.browser_page())
        page.set_default_timeout(60_000)
        url = client.get_server_url().rstrip("/")
        if request.param == "folder":
            about = requests.get(f"{url}/datastore/image/info", {"image": "T-001"}).json()
            study, series = about["StudyInstanceUID"], about["SeriesInstanceUID"]
        yield Annotator(page, url, study, series, shown, shots, browser.forbidden(page))


def middle_of(labels: np.ndarray, organ: int, z: int) -> tuple[int, int, int]:
    """Returns the voxel (x, y, z) of an organ that is nearest to its centre in a slice. labels: `[z, y, x]`."""
    rows, columns = np.nonzero(labels[z] == organ)
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(columns[nearest]), int(rows[nearest]), z


def test_a_case_opens_connected_with_its_title_and_an_empty_label_map(viewer: Annotator) -> None:
    viewer.open("monai-label")  # as older links do
    assert "/ohif/annotate?" in viewer.page.url
    assert "T-001" in viewer.part("case-title").inner_text()
    assert viewer.part("demo-banner").is_visible()
    names = viewer.page.locator(".annotation-panel .organs .name").all_inner_texts()
    assert names == [organ.display for organ in organ_table().organs]
    assert not viewer.voxels().any()
    assert "0 organs" in viewer.part("summary").inner_text()
    viewer.shot("1-open")


def cancel_a_run(viewer: Annotator, shot: str = "") -> str:
    """Starts a run, cancels it after it has shown progress, and returns the message."""
    viewer.part("model").select_option("medsam2_atlas")
    viewer.press("segment-all")
    viewer.part("stage").filter(has_text="medsam2_atlas:").wait_for()
    viewer.page.wait_for_function(
        "() => document.querySelector('.annotation-panel [data-cy=progress]').value > 0", timeout=60_000
    )
    if shot:
        viewer.shot(shot)
    viewer.press("cancel")
    return viewer.message("Cancelled")


def test_a_run_shows_its_progress_and_can_be_cancelled(viewer: Annotator) -> None:
    assert "Nothing has changed" in cancel_a_run(viewer, "2-progress")
    assert not viewer.voxels().any()


def test_a_cancelled_or_failed_run_can_be_run_again(viewer: Annotator) -> None:
    again = viewer.page.locator(".annotation-panel").get_by_role("button", name="Run it again")
    error = {"error": {"message": "The queue is full.", "remedy": "Try again in a minute."}}
    viewer.open()
    cancel_a_run(viewer)
    viewer.page.route("**/infer/**", lambda route: route.fulfill(status=429, json=error), times=1)
    again.click()
    assert "The queue is full." in viewer.message("Not done")
    again.click()

    def running() -> list[Any]:
        return [one for one in requests.get(f"{viewer.url}/jobs").json() if one["state"] in ("queued", "running")]

    (job,) = until(running, 60, "no run has begun")
    assert job["kind"] == "medsam2_atlas"
    viewer.press("cancel")
    viewer.message("Cancelled")
    until(lambda: requests.get(f"{viewer.url}/jobs/{job['id']}").json()["state"] == "cancelled", 60)


def test_a_run_survives_a_reload_and_ends_when_the_page_has_gone(viewer: Annotator) -> None:
    viewer.part("model").select_option("medsam2_atlas")
    viewer.press("segment-all")
    viewer.part("stage").filter(has_text="medsam2_atlas:").wait_for()
    (job,) = [one for one in requests.get(f"{viewer.url}/jobs").json() if one["state"] in ("queued", "running")]

    def state() -> str:  # listing jobs does not count as following them
        return next(str(one["state"]) for one in requests.get(f"{viewer.url}/jobs").json() if one["id"] == job["id"])

    viewer.page.reload(wait_until="domcontentloaded")
    viewer.part("stage").filter(has_text="medsam2_atlas:").wait_for(timeout=90_000)
    assert state() == "running"
    viewer.page.goto("about:blank")
    until(lambda: state() in ("cancelling", "cancelled"), 30)
    until(lambda: state() == "cancelled", 60)
    viewer.open()
    assert not viewer.voxels().any()


def test_one_click_segments_all_organs(viewer: Annotator) -> None:
    viewer.part("model").select_option("unet_3d")
    viewer.press("segment-all")
    viewer.message("Segmented by unet_3d")
    viewer.settle()
    shown = viewer.voxels()
    assert (shown == viewer.stored("unet_3d")).all()
    assert len(np.unique(shown)) == 16
    assert "15 organs" in viewer.part("summary").inner_text()
    viewer.press("undo")
    viewer.settle()
    assert not viewer.voxels().any()
    viewer.press("redo")
    viewer.settle()
    assert (viewer.voxels() == shown).all()
    viewer.shot("3-segmented")


def test_an_organ_is_hidden_in_all_panes_without_losing_voxels(viewer: Annotator) -> None:
    before = viewer.voxels()
    viewer.press("eye-liver")
    hidden = viewer.page.evaluate(
        """() => ['axial', 'sagittal', 'coronal'].map(pane => window.cornerstoneTools.segmentation.config.visibility
            .getSegmentIndexVisibility(pane, { segmentationId: 'medsam2_atlas', type: 'Labelmap' }, 6))"""
    )
    assert hidden == [False, False, False]
    viewer.shot("4-hidden")
    viewer.press("eye-liver")
    assert (viewer.voxels() == before).all()


def test_the_brush_paints_the_chosen_organ_around_locked_ones_and_is_undone(viewer: Annotator) -> None:
    before = viewer.voxels()
    z = viewer.shown_slice()
    others = [organ for organ in np.unique(before[z]) if organ not in (0, SPLEEN)]
    x, y, _ = middle_of(before, int(others[0]), z)
    viewer.press("organ-spleen")
    viewer.press("tool-brush")
    viewer.drag((x, y, z), (x + 12, y, z), (x + 16, y + 4, z))
    painted = viewer.voxels()
    changed = painted != before
    assert changed.any()
    assert set(np.unique(painted[changed])) == {SPLEEN}
    assert set(np.unique(before[changed])) == {0}  # locked organs keep their voxels
    assert painted[z, y, x] == before[z, y, x]
    assert np.flatnonzero(changed.any((1, 2))).tolist() == [z]
    assert "changed against" in viewer.part("summary").inner_text()
    viewer.press("undo")
    viewer.settle()
    assert (viewer.voxels() == before).all()
    viewer.page.keyboard.press("Control+y")
    viewer.settle()
    assert (viewer.voxels() == painted).all()
    viewer.page.keyboard.press("Control+z")
    viewer.settle()
    assert (viewer.voxels() == before).all()


def test_an_unlocked_organ_can_be_painted_over(viewer: Annotator) -> None:
    before = viewer.voxels()
    z = viewer.shown_slice()
    other = next(organ for organ in organ_table().organs if organ.index != SPLEEN and (before[z] == organ.index).any())
    viewer.press(f"lock-{other.name}")
    x, y, _ = middle_of(before, other.index, z)
    viewer.drag((x, y, z), (x + 3, y, z))
    assert viewer.voxels()[z, y, x] == SPLEEN
    viewer.press("undo")
    viewer.press(f"lock-{other.name}")
    viewer.settle()
    assert (viewer.voxels() == before).all()


def test_a_lasso_adds_its_inside(viewer: Annotator) -> None:
    before = viewer.voxels()
    z = viewer.shown_slice()
    rows, columns = before.shape[1] // 2, before.shape[2] // 2
    viewer.press("tool-lasso")
    square = [
        (columns - 8, rows + 15, z),
        (columns + 8, rows + 15, z),
        (columns + 8, rows + 28, z),
        (columns - 8, rows + 28, z),
    ]
    viewer.drag(*square, (columns - 8, rows + 16, z))
    changed = viewer.voxels() != before
    assert 120 < changed.sum() < 300
    viewer.press("undo")
    viewer.settle()
    assert (viewer.voxels() == before).all()


def test_a_point_refines_the_mask_that_is_there(viewer: Annotator) -> None:
    before = viewer.voxels()
    z = viewer.shown_slice()
    x, y, _ = middle_of(before, AORTA, z)
    viewer.press("organ-aorta")
    viewer.press("tool-outside")
    viewer.click((x, y, z))
    viewer.message("Aorta was refined")
    viewer.settle()
    refined = viewer.voxels()
    changed = refined != before
    assert refined[z, y, x] != AORTA
    assert set(np.unique(before[changed])) | set(np.unique(refined[changed])) <= {0, AORTA}
    assert (refined == AORTA).sum() > 0.3 * (before == AORTA).sum()  # refined, not replaced
    viewer.shot("5-refined")
    viewer.press("undo")
    viewer.settle()
    assert (viewer.voxels() == before).all()
    viewer.press("redo")
    viewer.settle()
    assert (viewer.voxels() == refined).all()


def test_unsaved_work_survives_a_reload(viewer: Annotator) -> None:
    before = viewer.voxels()
    viewer.part("draft").filter(has_text="kept on the server").wait_for()
    viewer.open()
    viewer.message("unsaved work")
    assert (viewer.voxels() == before).all()


def test_a_label_map_that_cannot_be_loaded_does_not_replace_unsaved_work(viewer: Annotator) -> None:
    before = viewer.voxels()
    fails = "**/annotation/label?**"
    viewer.page.route(fails, lambda route: route.fulfill(status=503, json={"error": {"message": "too busy"}}))
    viewer.go()
    assert "too busy" in viewer.message("cannot be loaded")
    assert viewer.part("submit").is_disabled()
    assert not viewer.part("tool-brush").is_visible()
    viewer.page.unroute(fails)
    viewer.page.get_by_role("button", name="Try again").click()
    viewer.ready()
    viewer.message("unsaved work")
    assert (viewer.voxels() == before).all()


def test_marks_that_were_not_applied_are_not_forgotten_at_signing_off(viewer: Annotator) -> None:
    before = viewer.voxels()
    viewer.press("tool-outside")
    viewer.part("live").uncheck()
    z = viewer.shown_slice()
    viewer.page.mouse.move(*viewer.place((60, 60, z)))  # makes the pane the active one
    viewer.settle()
    viewer.click((60, 60, z))
    viewer.part("draft").filter(has_text="Marks that are not applied: 1.").wait_for()
    viewer.press("submit")
    viewer.message("marks that were not applied")
    viewer.press("clear-marks")
    viewer.part("live").check()
    assert (viewer.voxels() == before).all()
    assert viewer.versions() == []


def test_submitting_saves_exactly_what_is_shown(viewer: Annotator) -> None:
    viewer.part("checked-liver").check()
    viewer.press("submit")
    viewer.message("Submitted as version 1")
    assert (viewer.stored() == viewer.voxels()).all()
    assert requests.get(f"{viewer.url}/info/").json()["datastore"]["completed"] == 1
    viewer.shot("6-submitted")


def someone_else_submits(viewer: Annotator) -> np.ndarray:
    """Saves the model's prediction as another person's final version and returns it, `[z, y, x]`."""
    prediction = requests.get(f"{viewer.url}/datastore/label", {"label": viewer.series, "tag": "unet_3d"})
    saved = requests.put(
        f"{viewer.url}/datastore/label",
        files={"label": ("other.nii.gz", prediction.content)},
        data={"params": '{"label_info": []}'},
        params={"image": viewer.series},
    )
    assert saved.status_code == 200
    return viewer.stored()


def paint(viewer: Annotator, y: int) -> np.ndarray:
    """Paints a stroke of the spleen in a row of voxels, and returns the label map."""
    z = viewer.shown_slice()
    middle = viewer.voxels().shape[2] // 2
    viewer.press("organ-spleen")
    viewer.press("tool-brush")
    viewer.drag((middle, y, z), (middle + 8, y, z))
    return viewer.voxels()


def test_a_conflict_names_the_version_and_theirs_can_be_viewed_and_taken(viewer: Annotator) -> None:
    mine = paint(viewer, 70)
    theirs = someone_else_submits(viewer)
    viewer.press("submit")
    question = viewer.part("question")
    question.wait_for()
    assert "version 2" in question.inner_text()
    viewer.shot("7-conflict")
    viewer.press("answer-view")
    viewer.part("comparison").get_by_text("Dice").wait_for()
    assert (viewer.voxels() == mine).all()  # comparing never touches the label map
    assert len(viewer.versions()) == 2
    worst = viewer.page.locator('.annotation-panel [data-cy^="worst-"]').first
    worst.click()
    viewer.settle()
    assert viewer.shown_slice() == int(worst.get_attribute("data-cy").rpartition("-")[2])
    viewer.shot("8-compared")
    viewer.press("end-comparison")
    viewer.press("submit")
    question.wait_for()
    viewer.press("answer-theirs")
    viewer.message("Version 2 was loaded")
    viewer.settle()
    assert (viewer.voxels() == theirs).all()
    viewer.press("undo")
    viewer.settle()
    assert (viewer.voxels() == mine).all()
    viewer.press("redo")
    viewer.settle()


def test_a_conflict_can_be_resolved_by_keeping_mine_as_a_new_version(viewer: Annotator) -> None:
    mine = paint(viewer, 80)
    requests.post(f"{viewer.url}/datastore/label/restore", params={"label": viewer.series, "version": 1})
    newest = len(viewer.versions())
    viewer.press("submit")
    viewer.part("question").wait_for()
    viewer.press("answer-mine")
    viewer.message(f"Submitted as version {newest + 1}")
    assert (viewer.stored() == mine).all()


def test_an_empty_or_lost_organ_is_asked_about(viewer: Annotator) -> None:
    before = viewer.versions()
    viewer.page.evaluate(
        """() => {
            const { segmentation } = window.cornerstoneTools;
            const labelmap = segmentation.state.getSegmentation('medsam2_atlas').representationData.Labelmap;
            for (const imageId of labelmap.imageIds) {
                const pixels = window.cornerstone.cache.getImage(imageId).voxelManager.getScalarData();
                pixels.forEach((value, i) => { if (value === 8) { pixels[i] = 0; } });
            }
            segmentation.triggerSegmentationEvents.triggerSegmentationDataModified('medsam2_atlas');
        }"""
    )
    viewer.settle()
    viewer.press("submit")
    question = viewer.part("question")
    question.wait_for()
    assert "Aorta" in question.inner_text()
    viewer.press("answer-nothing")
    viewer.message("Nothing was saved")
    assert viewer.versions() == before
    viewer.press("submit")
    question.wait_for()
    viewer.press("answer-save")
    viewer.message(f"Submitted as version {len(before) + 1}")
    assert not (viewer.stored() == AORTA).any()


def test_the_newest_version_is_loaded_again_and_edited(viewer: Annotator) -> None:
    viewer.open()
    newest = viewer.stored()
    assert (viewer.voxels() == newest).all()
    changed = paint(viewer, 60)
    assert (changed != newest).any()
    viewer.press("submit")
    viewer.message("Submitted as version")
    assert (viewer.stored() == changed).all()


def test_an_older_version_can_be_loaded_from_the_list(viewer: Annotator) -> None:
    labels: list[Any] = viewer.part("versions").locator("option").all_inner_texts()
    first = next(i for i, text in enumerate(labels) if text.startswith("final 1 "))
    viewer.part("versions").select_option(index=first)
    viewer.press("load-version")
    viewer.settle()
    assert (viewer.voxels() == viewer.stored(version=1)).all()
    viewer.press("undo")
    viewer.settle()
    assert (viewer.voxels() == viewer.stored()).all()


def test_submitting_can_lead_to_the_next_case(viewer: Annotator) -> None:
    viewer.open()
    assert viewer.part("next-reason").inner_text().startswith("Next: ")
    viewer.press("submit-next")
    viewer.page.wait_for_function(f"() => !location.href.includes('{viewer.study}')", timeout=60_000)
    viewer.part("case-title").filter(has_text="T-001").wait_for(timeout=90_000)
    assert "/ohif/annotate?StudyInstanceUIDs=" in viewer.page.url
    viewer.part("summary").filter(has_text="0 organs").wait_for()


def test_the_viewer_violates_no_policy_and_asks_no_other_host(viewer: Annotator) -> None:
    assert viewer.forbidden == []
