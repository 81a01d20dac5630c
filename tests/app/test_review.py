"""The states of cases and their pictures, for the worklist."""

from __future__ import annotations

import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from datastores.study_datastore import StudyDatastore
from listed_cases import case_states
from medsam2_atlas.active_learning import Assessment, ScoreTable
from medsam2_atlas.base.errors import InputError, NotFoundError
from medsam2_atlas.imaging.hounsfield import CHECK
from medsam2_atlas.imaging.volume import read_labels
from medsam2_atlas.segmenters.base import Report, Segmentation
from medsam2_atlas.studies import PredictionStore, file_stamp
from tasks.case_pictures import CasePictures, Wanted
from tasks.finals import training_finals
from tasks.next_case import NextCase
from tasks.scoring_method import OrganScoring

MODELS = ("medsam2_atlas", "unet_3d")


@pytest.fixture
def datastore(tmp_path: Path) -> StudyDatastore:
    for name in ("a", "b", "c", "d"):
        image = sitk.GetImageFromArray(np.arange(4800, dtype=np.int16).reshape(12, 20, 20))
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    return StudyDatastore(tmp_path, models=MODELS)


def label(folder: Path, organ: int) -> Path:
    array = np.zeros((12, 20, 20), np.uint8)
    array[3:8, 4:16, 4:16] = organ
    (folder / ".sent").mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / ".sent" / "label.nii.gz"))
    return folder / ".sent" / "label.nii.gz"


def picture(datastore: StudyDatastore, study: str) -> Wanted:
    return CasePictures(datastore, MODELS, CHECK, 10**7).find(study)


def replace_image(folder: Path, name: str, suffix: str = ".nii.gz") -> None:
    image = sitk.GetImageFromArray(np.arange(4800, dtype=np.int16).reshape(12, 20, 20)[::-1])
    sitk.WriteImage(image, str(folder / f"{name}{suffix}"))


def test_a_replaced_image_is_reported_and_its_old_label_maps_are_not_used(datastore: StudyDatastore, tmp_path: Path) -> None:
    file = label(tmp_path, 6)
    for study in ("a", "b"):
        datastore.store.save_prediction(study, "unet_3d", file)
        datastore.store.save_label(study, "final", file, author="kim")
    table = ScoreTable(tmp_path / ".t.sqlite")
    table.put("a", "s", {}, Assessment({"disagreement": 0.9}, {"disagreement": "much"}))
    replace_image(tmp_path, "a")
    datastore.refresh()
    cases = {case["study"]: case for case in case_states(datastore, table, MODELS)}
    assert (cases["a"]["state"], cases["a"]["models"], cases["a"]["disagreement"], cases["a"]["tag"]) == (
        "problem",
        (),
        None,
        "",
    )
    assert "final: belongs to another image: a.nii.gz, changed" in cases["a"]["problem"]
    assert datastore.get_labeled_images() == ["b"]
    assert "a" in datastore.get_unlabeled_images()
    assert datastore.status()["completed"] == 1
    assert [files.name for files in training_finals(datastore).files] == ["b"]
    assert picture(datastore, "a").label is None
    with zipfile.ZipFile(datastore.get_dataset_archive(None)) as archive:
        assert "image/a.nii.gz" not in archive.namelist()
        assert "label/b.nii.gz" in archive.namelist()
    assert "highest" not in (NextCase("disagreement", table, dict)({}, datastore) or {})["why"]
    datastore.confirm_label("a", "final", "lee")
    assert datastore.get_labeled_images() == ["a", "b"]
    with pytest.raises(InputError, match="model's tag"):
        datastore.confirm_label("a", "unet_3d", "lee")


def test_studies_with_two_images_and_unsupported_files_are_listed(datastore: StudyDatastore, tmp_path: Path) -> None:
    replace_image(tmp_path, "a", ".mha")
    (tmp_path / "e.mhd").write_text("x")
    datastore.refresh()
    cases = {case["study"]: case for case in case_states(datastore, ScoreTable(tmp_path / ".t.sqlite"), MODELS)}
    assert (cases["a"]["state"], cases["e.mhd"]["state"]) == ("problem", "problem")
    assert "a.mha and a.nii.gz: they are different images" in cases["a"]["problem"]
    assert "two files" in cases["e.mhd"]["problem"]
    assert datastore.list_images() == ["b", "c", "d"]
    assert datastore.get_unlabeled_images() == ["b", "c", "d"]
    (tmp_path / "a.nii.gz").unlink()
    (tmp_path / "a.nii.gz").write_bytes((tmp_path / "b.nii.gz").read_bytes())
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "b.nii.gz")), str(tmp_path / "a.mha"))
    datastore.refresh()
    cases = {case["study"]: case for case in case_states(datastore, ScoreTable(tmp_path / ".t.sqlite"), MODELS)}
    assert cases["a"]["state"] == "new"
    assert "note: has 2 files of the same image" in cases["a"]["problem"]


def test_cases_are_listed_with_state_and_measures(datastore: StudyDatastore, tmp_path: Path) -> None:
    file = label(tmp_path, 6)
    datastore.store.save_prediction("a", "unet_3d", file)
    datastore.store.save_prediction("b", "unet_3d", file)
    datastore.store.save_label("b", "final", file, author="kim")
    table = ScoreTable(tmp_path / "t.sqlite")
    table.put("a", "s", {}, Assessment({"disagreement": 0.2, "uncertainty": 0.4}, {"disagreement": "little"}))
    table.put("c", "s", {}, Assessment({"disagreement": 0.7}, {"disagreement": "liver and spleen differ"}))
    table.put("d", file_stamp(Path(datastore.get_image_uri("d"))), {}, None, "cannot be read")
    cases = {case["study"]: case for case in case_states(datastore, table, MODELS)}
    assert (cases["b"]["state"], cases["b"]["by"], cases["b"]["version"]) == ("signed off", "kim", 1)
    assert (cases["a"]["state"], cases["a"]["models"], cases["a"]["uncertainty"]) == ("predicted", ("unet_3d",), 0.4)
    assert (cases["c"]["state"], cases["c"]["why"]) == ("new", "liver and spleen differ")
    assert cases["d"]["problem"] == "cannot be read"


def test_unusable_images_and_label_maps_are_listed_but_not_used(tmp_path: Path) -> None:
    studies, elsewhere = tmp_path / "studies", tmp_path / "elsewhere"
    for folder in (studies, elsewhere):
        folder.mkdir()
    for name in ("a", "b", "c"):
        image = sitk.GetImageFromArray(np.arange(4800, dtype=np.int16).reshape(12, 20, 20))
        sitk.WriteImage(image, str(studies / f"{name}.nii.gz"))
    (elsewhere / "secret.nii.gz").write_bytes(b"x")
    (studies / "linked.nii.gz").symlink_to(elsewhere / "secret.nii.gz")
    (studies / "labels" / "final").mkdir(parents=True)
    for name in ("a", "b"):
        (studies / "labels" / "final" / f"{name}.nii.gz").write_bytes(label(tmp_path, 6).read_bytes())
    (studies / "labels" / "final" / "b.nii.gz").write_bytes(b"not an image at all")
    datastore = StudyDatastore(studies, models=MODELS)
    datastore.store.audit(threading.Event())
    table = ScoreTable(tmp_path / "t.sqlite")
    cases = {case["study"]: case for case in case_states(datastore, table, MODELS, {"c": "c: the PACS is away."})}
    assert {study: case["state"] for study, case in cases.items()} == {
        "b": "problem",
        "linked": "problem",
        "a": "signed off",
        "c": "new",
    }
    assert "final: " in cases["b"]["problem"]
    assert "image: is left out" in cases["linked"]["problem"]
    assert cases["c"]["problem"] == "c: the PACS is away."
    assert picture(datastore, "b").label is None
    assert datastore.get_labeled_images() == ["a"]
    assert datastore.get_unlabeled_images() == ["b", "c"]
    assert datastore.status()["completed"] == 1
    assert [Path(pair["image"]).name for pair in datastore.datalist()] == ["a.nii.gz"]
    assert [files.name for files in training_finals(datastore).files] == ["a"]
    scores = OrganScoring(datastore.store.work)({"y": "final", "y_pred": "final"}, datastore)
    assert scores["mean"]["studies"] == 1
    assert "problem" in scores["studies"]["b"]
    assert set(datastore.json()["problems"]) == {"b", "linked"}
    archive = Path(datastore.get_dataset_archive(None))
    with zipfile.ZipFile(archive) as stream:
        assert sorted(stream.namelist()) == ["image/a.nii.gz", "label/a.nii.gz", "metadata.json"]
    archive.unlink()


def test_a_damaged_report_does_not_hide_the_cases(datastore: StudyDatastore, tmp_path: Path) -> None:
    datastore.store.save_prediction("a", "unet_3d", label(tmp_path, 6))
    reports = datastore.store.work.folder("reports/unet_3d")
    for content in ("[", "[]", '{"report": []}', '{"report": {"confidence": {"liver": "high"}}}'):
        (reports / "a.json").write_text(content)
        cases = {case["study"]: case for case in case_states(datastore, ScoreTable(tmp_path / "t.sqlite"), MODELS)}
        assert cases["a"]["state"] == "predicted"
        assert cases["a"]["look_first"] == ()


def test_the_organs_with_the_least_certain_prompts_are_listed(datastore: StudyDatastore, tmp_path: Path) -> None:
    file = label(tmp_path, 6)
    result = Segmentation(read_labels(file), Report(confidence={"liver": 0.9, "pancreas": 0.3, "spleen": 0.8, "duodenum": 0.1}))
    store = PredictionStore(datastore.store.work, datastore.store)
    store.save("medsam2_atlas", "a", Path(datastore.get_image_uri("a")), {}, result)
    cases = {case["study"]: case for case in case_states(datastore, ScoreTable(tmp_path / "t.sqlite"), MODELS)}
    assert cases["a"]["look_first"] == (("duodenum", 0.1), ("pancreas", 0.3), ("spleen", 0.8))
    assert cases["b"]["look_first"] == ()


def test_a_picture_shows_the_final_label_map_and_is_drawn_once(datastore: StudyDatastore, tmp_path: Path) -> None:
    pictures = CasePictures(datastore, MODELS, CHECK, 10**7)
    with pytest.raises(NotFoundError):
        pictures.find("../a")
    files = []
    for change in (
        lambda: None,
        lambda: datastore.store.save_prediction("a", "unet_3d", label(tmp_path, 6)),
        lambda: datastore.store.save_label("a", "final", label(tmp_path, 2), author="kim"),
    ):
        change()
        assert pictures.find("a").file is None
        files.append(pictures.draw(pictures.find("a")))
        assert pictures.find("a").file == files[-1]
    pixels = [np.asarray(Image.open(file).convert("RGB"), int) for file in files if file is not None]
    assert len(pixels) == 3
    assert (pixels[0] != pixels[1]).any()
    assert (pixels[1] != pixels[2]).any()


def test_a_file_that_crashed_its_reader_is_listed_as_a_problem(
    datastore: StudyDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = {datastore.store.image("b").file: "ended its reader process (signal 11, SIGSEGV)."}
    monkeypatch.setattr("datastores.study_datastore.unreadable", lambda: ended)
    cases = {case["study"]: case for case in case_states(datastore, ScoreTable(tmp_path / "t.sqlite"), MODELS)}
    assert "SIGSEGV" in cases["b"]["problem"]
    assert not cases["a"]["problem"]
    assert "SIGSEGV" in datastore.json()["problems"]["b"]["image"]
    assert "b" not in datastore.get_unlabeled_images()
