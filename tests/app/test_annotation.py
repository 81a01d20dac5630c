"""The routes of the annotator's viewer in the real server, on CTs whose files have other axes than the viewer."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import requests
import SimpleITK as sitk

from app.annotating import KIM, LEE, REVA, STUDIES, ask, case, submit, voxels
from medsam2_atlas.atlas import ReferenceFiles
from medsam2_atlas.imaging.packed_labels import pack
from medsam2_atlas.imaging.volume import read_labels, read_volume, write_volume
from medsam2_atlas.storage import StudyStore
from token_files import bearer, token_of
from waiting import until

LIVER, RIGHT_KIDNEY = 6, 2


@pytest.fixture(scope="module")
def url(place: tuple[str, Path]) -> str:
    return place[0]


def edited(labels: np.ndarray) -> np.ndarray:
    """Returns a label map with one more voxel of the spleen. The store makes no version of an unchanged label map."""
    changed = labels.copy()
    changed[0, 0, 0] = 1
    return changed


def predict(folder: Path, study: str, truth: np.ndarray) -> None:
    """Stores a prediction of the model `atlas`, in which all organs are shifted by a voxel."""
    image = read_volume(folder / f"{study}.nii.gz")
    with TemporaryDirectory() as made:
        write_volume(image.with_array(np.roll(truth, 1, 2)), Path(made) / "label.nii.gz")
        StudyStore(folder).save_prediction(study, "atlas", Path(made) / "label.nii.gz")


def work_of(url: str, study: str, who: str) -> Any:
    """Returns the active time of the newest final version, as the versions show it to a person."""
    versions = requests.get(f"{url}/datastore/label/versions?label={study}", headers=bearer(token_of(who)), timeout=10).json()
    return versions[-1]["info"].get("work")


def test_a_case_is_opened_edited_signed_off_and_opened_again(
    url: str, place: tuple[str, Path], truth: np.ndarray, short_files: ReferenceFiles
) -> None:
    new = case(url, "opened")
    assert (new["versions"], new["start"], new["draft"]) == ([], None, None)
    assert [organ["label"] for organ in new["organs"]] == list(range(1, 16))
    assert new["organs"][5] == {"label": 6, "name": "liver", "title": "Liver", "colour": [221, 130, 101]}
    # the model's prediction is opened first
    predict(place[1], "opened", truth)
    opened = case(url, "opened")
    assert opened["start"] == {"tag": "atlas", "version": 1}
    assert opened["versions"][0]["model"] == "atlas"
    assert opened["versions"][0]["newest"]
    found = ask(url, "GET", "label", image="opened", tag="atlas")
    assert found.headers["X-Version"] == "1"
    stored = read_labels(place[1] / "labels" / "atlas" / "opened.nii.gz").array
    assert (voxels(found) == stored).all()
    # the person's label map is the final one, on the grid of the file
    changes = ask(url, "POST", "changes", image="opened", base_tag="atlas", base_version=1, data=pack(truth)).json()
    assert (changes["empty"], changes["vanished"]) == (False, [])
    volume_ml = float(np.prod(sitk.ReadImage(str(short_files.image)).GetSpacing())) / 1000
    assert changes["organs"]["6"]["ml"] == pytest.approx((truth == 6).sum() * volume_ml, abs=0.01)
    assert changes["organs"]["6"]["added_ml"] == pytest.approx(((truth == 6) & (stored != 6)).sum() * volume_ml, abs=0.01)
    active = {"active_seconds": 61.25, "organ_seconds": "6:40,2:20.5"}
    saved = submit(url, "opened", truth, base_tag="atlas", base_version=1, checked="6,2,1", **active)
    assert (saved.status_code, saved.json()) == (201, {"tag": "final", "version": 1})
    again = case(url, "opened", LEE)
    assert again["start"] == {"tag": "final", "version": 1}
    assert (again["versions"][0]["author"], again["versions"][0]["model"]) == ("kim", None)
    assert (voxels(ask(url, "GET", "label", LEE, image="opened", tag="final")) == truth).all()
    file = place[1] / "labels" / "final" / "opened.nii.gz"
    turned = sitk.DICOMOrient(sitk.ReadImage(str(short_files.label)), "PIR")
    assert (sitk.GetArrayFromImage(sitk.ReadImage(str(file))) == sitk.GetArrayFromImage(turned)).all()
    info = requests.get(f"{url}/datastore/label/info?label=opened&tag=final", headers=bearer(token_of(KIM)), timeout=10).json()
    assert work_of(url, "opened", KIM) == {"seconds": 61.2, "counted_by": "viewer", "organs": {"6": 40.0, "2": 20.5}}
    assert (info["checked"], info["base"], info["author"]) == ([1, 2, 6], {"tag": "atlas", "version": 1}, "kim")


def test_two_people_submit_the_same_case(url: str, truth: np.ndarray) -> None:
    first = submit(url, "twice", truth)
    assert first.json()["version"] == 1, first.text
    assert submit(url, "twice", edited(truth), KIM, base_tag="final", base_version=1).json()["version"] == 2
    for base in ({"base_tag": "final", "base_version": 1}, {}):
        late = submit(url, "twice", np.where(truth == LIVER, 0, truth), LEE, **base)
        assert late.status_code == 409
        conflict = late.json()["conflict"]
        assert (conflict["version"], conflict["author"], conflict["removed"]) == (2, "kim", False)
        assert conflict["time"].startswith("20")
        assert "kim" in late.json()["error"]["message"]
    base = {"base_tag": "final", "base_version": 1}
    for over in (1, 3):  # not the newest
        assert submit(url, "twice", truth, LEE, **base, over=over).json()["conflict"]["version"] == 2
    kept = submit(url, "twice", truth, LEE, **base, over=2)
    assert (kept.status_code, kept.json()["version"]) == (201, 3)
    authors = [(about["version"], about["author"]) for about in case(url, "twice")["versions"]]
    assert authors == [(3, "lee"), (2, "kim"), (1, "kim")]
    assert (voxels(ask(url, "GET", "label", image="twice", tag="final", version=1)) == truth).all()


def test_a_prediction_after_a_sign_off_does_not_hide_the_sign_off(url: str, place: tuple[str, Path], truth: np.ndarray) -> None:
    """A prediction that was made after a final version shows nobody what was signed off."""
    opened = case(url, "compared", LEE)
    assert opened["final"] == 0
    assert submit(url, "compared", truth, KIM, known=0).status_code == 201
    predict(place[1], "compared", truth)
    base = {"base_tag": "atlas", "base_version": 1}
    for seen in ({"known": opened["final"]}, {}):  # without `known`, as older clients send it
        late = submit(url, "compared", edited(truth), LEE, **base, **seen)
        assert (late.status_code, late.json()["conflict"]["author"]) == (409, "kim")
    assert case(url, "compared")["final"] == 1
    assert submit(url, "compared", edited(truth), LEE, **base, known=1).json() == {"tag": "final", "version": 2}
    # the base states the origin only: what the person has seen counts
    assert submit(url, "compared", truth, base_tag="final", base_version=2, known=1).json()["conflict"]["version"] == 2
    assert submit(url, "compared", truth, **base, known=0, over=2).json()["version"] == 3
    assert submit(url, "compared", edited(truth), base_tag="final", base_version=1, known=3).json()["version"] == 4


def test_empty_label_maps_and_vanished_organs_are_confirmed(url: str, truth: np.ndarray) -> None:
    newest = {"base_tag": "final", "base_version": case(url, "twice")["start"]["version"]}
    without = np.where(np.isin(truth, (LIVER, RIGHT_KIDNEY)), 0, truth)
    asked = submit(url, "twice", without, **newest)
    assert (asked.status_code, asked.json()["confirm"], asked.json()["organs"]) == (409, "vanished", [RIGHT_KIDNEY, LIVER])
    assert submit(url, "twice", without, **newest, confirm="empty").status_code == 409
    changes = ask(url, "POST", "changes", image="twice", data=pack(without), **newest).json()
    assert changes["vanished"] == [RIGHT_KIDNEY, LIVER]
    assert changes["organs"]["6"]["ml"] == 0
    empty = submit(url, "twice", truth * 0, **newest, confirm="vanished")
    assert (empty.status_code, empty.json()["confirm"]) == (409, "empty")
    assert len(empty.json()["organs"]) == len(np.unique(truth)) - 1
    assert submit(url, "twice", truth * 0, **newest).status_code == 409  # sending it twice does not confirm
    assert case(url, "twice")["start"] == {"tag": "final", "version": newest["base_version"]}
    done = submit(url, "twice", without, **newest, confirm="vanished")
    assert done.status_code == 201, done.text
    signed = submit(url, "twice", truth * 0, base_tag="final", base_version=done.json()["version"], confirm="both")
    assert signed.status_code == 201


def test_a_label_map_of_another_program_is_replaced_after_a_question(
    url: str, place: tuple[str, Path], truth: np.ndarray
) -> None:
    image = read_volume(place[1] / "foreign.nii.gz")
    write_volume(image.with_array(np.where(truth == LIVER, 200, truth).astype(np.uint8)), place[1] / "foreign-label.nii.gz")
    (place[1] / "labels" / "final").mkdir(parents=True, exist_ok=True)
    (place[1] / "foreign-label.nii.gz").rename(place[1] / "labels" / "final" / "foreign.nii.gz")
    opened = case(url, "foreign")["versions"][0]
    assert (opened["tag"], opened["version"], opened["author"]) == ("final", 1, "")
    base = {"base_tag": "final", "base_version": 1}
    changes = ask(url, "POST", "changes", image="foreign", data=pack(truth), **base).json()
    assert changes["vanished"] == [200]
    asked = submit(url, "foreign", truth, **base).json()
    assert (asked["confirm"], asked["organs"]) == ("vanished", [200])
    assert submit(url, "foreign", truth, **base, confirm="vanished").json()["version"] == 2


def test_a_removed_final_label_map_is_a_conflict_too(url: str, truth: np.ndarray) -> None:
    start = case(url, "removed")["start"]
    assert start is None
    assert submit(url, "removed", truth).status_code == 201
    assert requests.delete(f"{url}/datastore/label?id=removed&tag=final", headers=bearer(token_of(REVA)), timeout=10).ok
    after = case(url, "removed")
    assert (after["start"], [about["newest"] for about in after["versions"]]) == (None, [False])
    assert after["final"] == 2  # the removal
    assert submit(url, "removed", truth, known=1).json()["conflict"]["removed"]
    late = submit(url, "removed", truth, base_tag="final", base_version=1)
    assert late.json()["conflict"]["removed"]
    assert submit(url, "removed", truth, base_tag="final", base_version=1, over=2).json()["version"] == 3


def test_a_draft_is_kept_for_its_person_and_removed_when_signed_off(url: str, truth: np.ndarray) -> None:
    drawn = np.where(truth == LIVER, truth, 0)
    for labels, base in ((truth, {}), (drawn, {"base_tag": "atlas", "base_version": 3})):
        kept = ask(url, "PUT", "draft", image="kept", data=pack(labels), **base)
        assert (kept.status_code, kept.content) == (204, b"")
    draft = case(url, "kept")["draft"]
    assert (draft["base"], draft["known"], draft["problem"]) == ({"tag": "atlas", "version": 3}, 0, None)
    assert draft["time"].startswith("20")
    assert (voxels(ask(url, "GET", "label", image="kept", tag="draft")) == drawn).all()
    for who in (LEE, REVA):  # other people's drafts do not exist
        assert case(url, "kept", who)["draft"] is None
        assert ask(url, "GET", "label", who, image="kept", tag="draft").status_code == 404
        assert ask(url, "DELETE", "draft", who, image="kept").status_code == 204
    assert case(url, "kept")["draft"] == draft
    assert submit(url, "kept", truth).status_code == 201
    assert case(url, "kept")["draft"] is None
    assert ask(url, "PUT", "draft", image="kept", data=pack(drawn), known=7).status_code == 204
    assert case(url, "kept")["draft"]["known"] == 7
    refused = submit(url, "kept", truth)  # a conflict with the own version
    assert refused.status_code == 409
    assert case(url, "kept")["draft"] is not None
    assert ask(url, "DELETE", "draft", image="kept").status_code == 204
    assert case(url, "kept")["draft"] is None


def test_a_label_map_of_an_earlier_image_is_refused(
    url: str, place: tuple[str, Path], truth: np.ndarray, tmp_path: Path
) -> None:
    file, copy = place[1] / "replaced.nii.gz", tmp_path / "ct.nii.gz"
    shutil.copy(place[1] / "kept.nii.gz", file)
    mark = case(url, "replaced")["image_mark"]
    assert ask(url, "PUT", "draft", image="replaced", data=pack(truth), image_mark=mark).status_code == 204
    image = sitk.ReadImage(str(file))

    def requested(mark: str) -> list[requests.Response]:
        marks = {"params": json.dumps({"background": [[3, 3, 3]]})}
        return [
            ask(url, "PUT", "draft", image="replaced", data=pack(edited(truth)), image_mark=mark),
            submit(url, "replaced", truth, image_mark=mark, known=0),
            ask(url, "POST", "refine", image="replaced", label=6, data=marks, files={"x": ("x", b"")}, image_mark=mark),
        ]

    for other in (image + 1, image[:, :, 1:]):  # other voxels; another size
        sitk.WriteImage(other, str(copy))
        copy.rename(file)
        opened = case(url, "replaced")
        assert opened["image_mark"] not in (mark, "")
        for answer in requested(mark):
            assert answer.status_code == 409, answer.text
            assert "has another image now" in answer.json()["error"]["message"]
            assert "Load the case again" in answer.json()["error"]["remedy"]
        assert case(url, "replaced")["versions"] == []
        assert case(url, "replaced")["draft"] == opened["draft"]
    sitk.WriteImage(image, str(copy))
    copy.rename(file)
    now = case(url, "replaced")["image_mark"]
    assert submit(url, "replaced", truth, image_mark=now, known=0).status_code == 201
    copy.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()), 1))  # the same voxels in another file
    copy.rename(file)
    assert case(url, "replaced")["image_mark"] != now
    assert submit(url, "replaced", edited(truth), image_mark=now, known=1).status_code == 201
    file.unlink()  # the next case is that of other tests
    assert submit(url, "marked", truth, image_mark="../../x").status_code == 422


def test_a_stored_label_map_with_the_tag_draft_is_not_the_draft(url: str, truth: np.ndarray, place: tuple[str, Path]) -> None:
    file = place[1] / "labels" / "final" / "kept.nii.gz"
    saved = requests.put(
        f"{url}/datastore/label?image=kept&tag=draft",
        files={"label": ("l.nii.gz", file.read_bytes())},
        headers=bearer(token_of(KIM)),
        timeout=60,
    )
    assert saved.ok, saved.text
    assert ask(url, "GET", "label", image="kept", tag="draft").status_code == 404
    assert (voxels(ask(url, "GET", "label", image="kept", tag="draft", version=1)) == truth).all()


def test_others_see_who_works_on_a_case_until_it_is_signed_off(url: str, truth: np.ndarray) -> None:
    mine = case(url, "used")
    assert (mine["claimed"]["person"], mine["comment"], mine["review"]) == ("kim", None, {"on": False, "may_accept": False})
    assert case(url, "used", LEE)["claimed"] == {**mine["claimed"], "mine": False}
    refused = requests.post(f"{url}/worklist/claim", json={"study": "used"}, headers=bearer(token_of(LEE)), timeout=10)
    assert (refused.status_code, "kim" in refused.json()["detail"]) == (409, True)
    assert ask(url, "PUT", "draft", LEE, image="used", data=pack(truth)).status_code == 204  # a claim never blocks saving
    saved = submit(url, "used", truth, KIM)
    assert saved.status_code == 201
    info = requests.get(f"{url}/datastore/label/info?label=used&tag=final", headers=bearer(token_of(KIM)), timeout=10).json()
    work = work_of(url, "used", KIM)
    assert (work["counted_by"], 0 < work["seconds"] < 60, info["returned"]) == ("server", True, None)
    # the figures of a person are for that person and for reviewers
    assert (work_of(url, "used", LEE), "work" in info) == (None, False)
    assert case(url, "used")["claimed"]["person"] == "lee"
    assert ask(url, "DELETE", "draft", LEE, image="used").status_code == 204


def test_the_figures_of_the_team_appear_after_a_sign_off(url: str) -> None:
    """The other tests have signed off cases; the background counts them while no model runs."""

    def people() -> list[str]:
        answer = requests.get(f"{url}/worklist/figures", headers=bearer(token_of(REVA)), timeout=10)
        return [one["person"] for one in answer.json()["people"]]

    until(lambda: set(people()) >= {KIM, LEE}, 60, "the figures do not appear")


def test_one_organ_is_refined_by_marks_in_the_viewer(url: str, truth: np.ndarray) -> None:
    leaking, z = np.where(truth == LIVER, truth, 0), int(np.median(np.flatnonzero((truth == LIVER).any((1, 2)))))
    leaking[z - 1 : z + 2, :8, :8] = LIVER
    leaking[truth == RIGHT_KIDNEY] = RIGHT_KIDNEY
    marks = {"params": json.dumps({"background": [[3, 3, z]]})}
    answer = ask(url, "POST", "refine", image="marked", label=LIVER, data=marks, files={"mask": ("m.gz", pack(leaking))})
    found = voxels(answer)
    assert set(np.unique(found)) == {0, 1}
    assert not found[z - 1 : z + 2, :8, :8].any()
    assert ((found == 1) == (truth == LIVER)).mean() > 0.999
    report = json.loads(answer.headers["X-Report"])
    assert report["refined"]["removed"] > 0
    # a box alone, for an organ without voxels in the mask, and without a mask
    y, x = (np.flatnonzero((truth[z] == LIVER).any(axis)) for axis in (1, 0))
    box = {"params": json.dumps({"boxes": [[[int(x[0]), int(y[0]), z], [int(x[-1]), int(y[-1]), z]]]})}
    for files in ({"mask": ("m.gz", pack(np.where(truth == LIVER, 0, truth)))}, {"other": ("o", b"")}):
        drawn = voxels(ask(url, "POST", "refine", image="marked", label=LIVER, data=box, files=files)) == 1
        assert 2 * (drawn & (truth == LIVER)).sum() > 0.8 * (drawn.sum() + (truth == LIVER).sum())
    assert case(url, "marked")["versions"] == []


def test_two_versions_are_compared(url: str, truth: np.ndarray) -> None:
    newest, truth = case(url, "compared")["start"]["version"], edited(truth)  # the version of an earlier test
    other = truth.copy()
    z = int(np.flatnonzero((truth == LIVER).any((1, 2)))[2])
    other[z] = np.where(truth[z] == LIVER, 0, truth[z])
    other[(z + 1) % len(other), :2, :2] = 1
    base = {"base_tag": "final", "base_version": newest, "confirm": "vanished"}
    second = submit(url, "compared", other, **base).json()["version"]
    pair = {"first": f"final/{newest}", "second": f"final/{second}"}
    organs = ask(url, "GET", "compare", image="compared", **pair).json()["organs"]
    assert organs["6"]["worst"] == [z]
    assert organs["6"]["dice"] < 1
    assert (z + 1) % len(other) in organs["1"]["worst"]
    assert organs["2"] == {**organs["2"], "dice": 1.0, "worst": []}
    differences = voxels(ask(url, "GET", "compare/label", image="compared", **pair))
    expected = np.select(
        [(truth > 0) & (other == 0), (truth == 0) & (other > 0), (truth > 0) & (other > 0) & (truth != other)], [1, 2, 3]
    )
    assert (differences == expected).all()
    ask(url, "PUT", "draft", image="compared", data=pack(other))
    same = ask(url, "GET", "compare", image="compared", first="draft", second=pair["second"]).json()["organs"]
    assert {figures["dice"] for figures in same.values()} == {1.0}


def test_sample_cts_are_known_as_phantoms(url: str) -> None:
    """The server has demo weights of MedSAM2, which know phantoms only, and no atlas."""
    real, sample = case(url, "opened"), case(url, "sample")
    assert (real["demo_weights"], real["phantom"], real["offered_model"]) == (True, None, "unet_3d")
    assert (sample["demo_weights"], sample["phantom"], sample["title"]) == (True, True, "sample")
    assert set(real["missing"]) == {"unet_2d", "atlas", "medsam2_atlas"}


def test_the_next_case_is_another_one_without_a_final_label_map(url: str) -> None:
    left = sorted(study for study in STUDIES if (case(url, study)["start"] or {}).get("tag") != "final")
    found = case(url, "sample")["next"]
    assert found["image"] == left[0]
    assert found["viewer"].startswith("/ohif/monai-label?StudyInstanceUIDs=2.25.")
    assert "first by name" in found["why"]
    assert case(url, left[0])["next"]["image"] == [*left, "sample"][1]  # the open case itself is never the next one


def test_a_case_that_somebody_has_opened_is_not_the_next_one_of_others(url: str, place: tuple[str, Path]) -> None:
    for name in ("aa-first", "aa-second"):
        shutil.copy(place[1] / "kept.nii.gz", place[1] / f"{name}.nii.gz")
    assert case(url, "sample", LEE)["next"]["image"] == "aa-first"
    assert case(url, "aa-first", KIM)["next"]["image"] == "aa-second"
    assert case(url, "sample", LEE)["next"]["image"] == "aa-second"
    assert case(url, "sample", KIM)["next"]["image"] == "aa-first"  # the own one
    asked = {"headers": bearer(token_of(LEE)), "json": {"client_id": "another"}, "timeout": 10}
    assert requests.post(f"{url}/activelearning/first", **asked).json()["id"] == "aa-second"  # in 3D Slicer, too
    for name in ("aa-first", "aa-second"):
        (place[1] / f"{name}.nii.gz").unlink()


def test_the_audit_log_names_what_was_read_and_changed(url: str) -> None:
    answer = requests.get(f"{url}/audit?limit=10000", headers=bearer(token_of("max")), timeout=10)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    signed = [line for line in lines if line["action"] == "label.sign_off" and line["outcome"] == "done"]
    assert all(line["tag"] == "final" and line["version"] > 0 and line["study"] for line in signed)
    assert {line["who"] for line in signed} == {KIM, LEE}
    actions = {line["action"] for line in lines}
    assert {"label.read", "label.info", "draft.save", "draft.remove", "model.run"} <= actions
    refined = [line for line in lines if line["action"] == "model.run" and line.get("details", {}).get("model") == "medsam2"]
    assert refined
    read = [line for line in lines if line["action"] == "label.read" and line.get("tag") == "atlas"]
    assert read
