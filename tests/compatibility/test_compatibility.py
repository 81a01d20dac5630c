"""Files of earlier installations can be opened and used, and keep their content; see README.md of this folder."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch

from compatibility.conftest import Opened
from compatibility.facts import MODELS, QUESTIONS, dense_maps, label_digest, maps_of, models_of, studies_facts
from compatibility.generations import MAPPED, differences, generations
from compatibility.installation import PARTS, Installation, Person, renew_tokens, token_of
from compatibility.patients import write_ct, write_labels
from compatibility.story import STUDIES, UPLOADED
from datastores.session_folders import SessionFolders
from datastores.study_datastore import StudyDatastore
from fake_segmenters import FakeSegmenter, plain_models
from medsam2_atlas.active_learning import ScoreTable
from medsam2_atlas.atlas import Atlas, ReferenceFiles, find_references, grow
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.comparison import compare_studies
from medsam2_atlas.imaging.decoding.unreadable import Unreadable, UnreadableFileError
from medsam2_atlas.imaging.hounsfield import CHECK
from medsam2_atlas.scoremaps import alignment
from medsam2_atlas.storage import StudyFolder, StudyStore, WorkFolder
from medsam2_atlas.studies import PredictionStore, atlas_store, grow_studies_atlas
from medsam2_atlas.unet import TrainingCase, UNetTraining, load_unet, unet_config
from server.config import ServerConfig
from server.sign_in import Access
from tasks.case_pictures import CasePictures
from tasks.claims import check_training
from tasks.learner import Learner
from tasks.predictions import Predictions

CHECKOUT = Path(__file__).resolve().parents[2]
HIGHEST = 3
"""Max difference between score maps, of 255, because other versions of libraries round differently."""


class EnoughError(Exception):
    """Ends a training after its first epoch."""


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("a registration that is kept is made again")


def test_generations_are_kept() -> None:
    assert generations()[0].name == "2026-11-26-a6a49ed"
    for generation in generations():
        assert set(generation.expected) <= set(QUESTIONS)


REPLACED = {"/review/cases": "/worklist/cases", "/review/picture": "/worklist/picture"}
"""Routes of earlier versions that only the page `/review` used, and the routes that replace them."""


@pytest.mark.parametrize("part", QUESTIONS)
def test_everything_kept_is_found_again(opened: Opened, part: str) -> None:
    found, expected = opened.answers[part], opened.generation.expected
    if part not in expected:
        pytest.skip("this question did not exist when this generation was made")
    if isinstance(found, Exception):
        raise found
    kept = expected[part]
    if part == "routes":
        assert set(REPLACED.values()) <= set(found)
        kept = {path: about for path, about in kept.items() if path not in REPLACED}
    assert not differences(kept, found)


def test_opening_changes_no_file(opened: Opened) -> None:
    assert {name: opened.after.get(name) for name in opened.before} == opened.before
    assert not list(opened.home.rglob("*.damaged"))


def _lost(index: Path) -> None:
    index.unlink()


def _garbage(index: Path) -> None:
    index.write_bytes(b"garbage" * 1000)


def _of_another_version(index: Path) -> None:
    with closing(sqlite3.connect(index)) as database:
        database.executescript("DROP TABLE labels; CREATE TABLE labels (study TEXT); PRAGMA user_version = 1")


def _younger(index: Path) -> None:
    for file in index.parents[1].rglob("*.nii*"):
        if not file.is_symlink():
            file.touch()


@pytest.mark.parametrize("change", [_lost, _garbage, _of_another_version, _younger])
def test_label_maps_do_not_depend_on_the_index(opened: Opened, copy: Path, change: Callable[[Path], None]) -> None:
    studies = copy / "studies"
    change(studies / ".medsam2_atlas" / "studies.sqlite")
    assert not differences(opened.generation.expected["studies"], studies_facts(StudyStore(studies)))


def test_label_maps_can_still_be_changed(opened: Opened, copy: Path, tmp_path: Path) -> None:
    images = opened.generation.expected["studies"]["images"]
    store, label = StudyStore(copy / "studies"), tmp_path / "label.nii.gz"
    changed = ("signed", "removed", "changed ä.1")
    for study in changed:
        write_labels(label, STUDIES.index(study), grow=3)
        store.save_label(study, "final", label, author="ada", expected_version=_current(images[study]))
    write_ct(tmp_path / "new.nii.gz", 5)
    store.add_image("new", tmp_path / "new.nii.gz")
    found = studies_facts(store)["images"]
    assert set(found) == {*images, "new"}
    for study, image in images.items():
        if study not in changed:
            assert not differences(image, found[study])
            continue
        before, after = image["tags"]["final"]["versions"], found[study]["tags"]["final"]
        assert not differences(before, after["versions"][:-1])
        assert after["versions"][-1]["author"] == "ada"
        assert after["current"]["number"] == len(before) + 1
    first = images["signed"]["tags"]["final"]["versions"][0]
    restored = store.restore_label("signed", "final", 1, author="ada").label
    assert label_digest(restored.file, store.image("signed").file) == first["voxels"]
    store.remove_label("restored", "final", author="ada")
    assert [version.origin for version in store.versions("restored", "final")] == ["person", "person", "restored", "removed"]


def _current(study: dict[str, Any]) -> int:
    now = study["tags"]["final"]["current"]
    return int(now["number"]) if now else 0


def test_score_maps_come_from_the_kept_registration(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "register", never)
    found, kept = dense_maps(maps_of(opened.home, MAPPED)), opened.generation.maps
    assert set(found) == set(kept)
    for organ, values in kept.items():
        assert np.abs(found[organ].astype(int) - values).max() <= HIGHEST, organ
        assert values.max() > 100


def test_the_atlas_grows_on_without_registering_again(copy: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grow, "register", never)
    folder, kept = StudyFolder(copy / "studies"), opened.generation.expected["grown atlas"]
    offered = [study for study in folder.studies() if study.name in ("signed", "grown", "kept-out")]
    finals = [ReferenceFiles(study.name, study.image, study.final) for study in offered if study.final is not None]
    report = grow_studies_atlas(folder.work, Atlas.load(copy / "atlas"), finals)
    assert report["replaces"] == kept["current"]
    assert report["template"] == kept["atlas"]["template"]
    assert report["excluded"] == ["kept-out"]
    # The label map of `signed` has changed since; its registration is still valid.
    assert (report["added"], report["kept"]) == (["signed"], ["reference 0", "reference 1", "reference 2", "grown"])
    store = atlas_store(folder.work)
    assert store.versions == [*kept["versions"], report["version"]]
    store.activate(kept["current"])
    assert models_of(copy).atlas().version == kept["current"]


def test_nothing_is_measured_again(opened: Opened) -> None:
    models, store = models_of(opened.home), StudyDatastore(opened.home / "studies", MODELS)
    table, predictions = ScoreTable(models.work.folder(".") / "learning.sqlite"), Predictions(models, lambda: store)
    learner = Learner(models, predictions, table, lambda: store, "atlas")
    assert not learner.measure_next()
    assert not learner.problems()


def test_a_stopped_training_resumes(opened: Opened, copy: Path) -> None:
    before = torch.load(copy / "run" / "latest.pt", weights_only=True)
    stats = json.loads((copy / "run" / "stats.json").read_text())
    cases = [TrainingCase(files.name, files.image, files.label) for files in find_references(copy / "references")]

    def stop(stage: str, *_: Any) -> None:
        if stage == "training":
            raise EnoughError

    config = unet_config(copy / "settings" / "small-unet.yaml")
    run = UNetTraining(cases, config, copy / "run", torch.device("cpu"), progress=stop)
    assert run.stats()["resumed_from"] == before["epoch"]
    with pytest.raises(EnoughError):
        run.run()
    after = json.loads((copy / "run" / "stats.json").read_text())
    assert after["epoch"] == before["epoch"] + 1
    assert after["loss"][:-1] == stats["loss"][: before["epoch"]]
    assert after["validation"][: before["epoch"]] == stats["validation"][: before["epoch"]]
    assert after["best_metric"] >= stats["best_metric"]
    assert load_unet(copy / "run" / "best.pt").config == config


def test_comparisons_are_kept(opened: Opened, copy: Path) -> None:
    def refuse(*_: Any) -> Any:
        raise InputError("model", "is not to be run")

    folder = StudyFolder(copy / "compared")
    old = json.loads((folder.work.path / "comparisons" / "history.json").read_text())
    kept = PredictionStore(folder.work, StudyStore(folder.path))
    found = {model: kept.latest(model, "one") for model in ("atlas", "unet_3d")}
    made_of = {model: {k: v for k, v in p.provenance.items() if k != "image"} for model, p in found.items() if p is not None}

    first, second = (FakeSegmenter(model, made_of[model], refuse) for model in made_of)
    result = compare_studies(folder, (first, second), plain_models(folder.path))
    assert not result.problems
    assert not differences(old, result.history)
    (folder.label_folder("final") / "one.nii.gz").unlink()
    assert [entry["labelled"] for entry in compare_studies(folder, (first, second), plain_models(folder.path)).history] == [
        0,
        1,
    ]


def test_old_pictures_are_drawn_in_the_new_way_and_make_room(opened: Opened, copy: Path) -> None:
    old = {file: file.read_bytes() for file in (copy / "studies" / ".medsam2_atlas" / "pictures").glob("*.png")}
    assert old
    datastore = StudyDatastore(copy / "studies", MODELS)
    pictures = CasePictures(datastore, MODELS, CHECK, 10**9)
    drawn = pictures.draw(pictures.find("signed"))
    assert drawn is not None
    assert drawn not in old
    assert drawn.stat().st_size > 1000
    assert {file: file.read_bytes() for file in old} == old
    full = CasePictures(datastore, MODELS, CHECK, drawn.stat().st_size)
    newest = full.draw(full.find("open"))
    assert {file for file in drawn.parent.iterdir() if file.suffix == ".png"} == {newest}


def test_files_that_ended_a_reader_are_still_listed(copy: Path) -> None:
    listed = Unreadable(copy / "studies" / ".medsam2_atlas" / "unreadable.json")
    assert listed.all() == {copy / "studies" / "broken.nii.gz": "ended the process that read it."}
    with pytest.raises(UnreadableFileError, match="has not changed since"):
        listed.check(copy / "studies" / "broken.nii.gz")


def test_a_stale_claim_does_not_block_a_training(copy: Path) -> None:
    work = WorkFolder.of(copy / "studies")
    assert (work.path / "claims" / "train.json").exists()
    check_training(work)


def test_sessions_stay_valid(opened: Opened, copy: Path) -> None:
    name = opened.generation.made_by["notes"]["session"]
    file = copy / "sessions" / name / "meta.info"
    about = json.loads(file.read_text())
    file.write_text(json.dumps(about | {"last_access_ts": int(time.time())}))
    session = SessionFolders(str(copy / "sessions"), 3600).get_session(name)
    assert session.image == str(copy / "sessions" / name / "image.nii.gz")
    assert (session.expiry, session.create_ts) == (about["expiry"], about["create_ts"])


def test_short_tokens_that_everybody_may_read_are_refused_with_a_remedy(copy: Path) -> None:
    file = copy / "settings" / "tokens.yaml"
    if token_of("kim") in file.read_text():
        pytest.skip("this generation's tokens are long enough")
    file.chmod(0o644)
    with pytest.raises(InputError, match=r"mode 0644.* chmod 640"):
        Access(ServerConfig(tokens=str(file)))
    file.chmod(0o640)
    with pytest.raises(InputError, match=r"entry 1 \(kim\) has a token of less than 32 characters.* Make one with"):
        Access(ServerConfig(tokens=str(file)))


def test_removed_images_are_kept_with_their_labels(copy: Path) -> None:
    assert "aside" not in StudyStore(copy / "studies").images()
    (aside,) = (copy / "studies" / ".medsam2_atlas" / "removed").iterdir()
    assert {file.name for file in aside.iterdir()} == {"aside.nii.gz", "labels", "versions"}


@pytest.mark.slow
def test_the_real_server_serves_them(opened: Opened, copy: Path, tmp_path: Path) -> None:
    folder, expected = tmp_path / "installation", opened.generation.expected
    for part in PARTS:
        shutil.copytree(CHECKOUT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(copy / "settings" / "configs", folder / "configs", dirs_exist_ok=True)
    settings = copy / "settings"
    options = ("--atlas", copy / "atlas", "--tokens", renew_tokens(settings / "tokens.yaml"), "--conf", "foundation=atlas")
    with Installation(folder, copy).server(copy / "studies", *options) as url:
        assert requests.get(f"{url}/info/", timeout=60).status_code == 401
        kim = Person(url, "kim")
        rows = kim.ask("GET", "/worklist/cases", {"size": 200}).json()["rows"]
        states = {row["study"]: row["state"] for row in rows}
        kept = expected["review"]["cases"]
        assert states == {study: case["state"] for study, case in kept.items()} | {"broken": "problem"}
        versions = kim.ask("GET", "/datastore/label/versions", {"label": "signed", "tag": "final"}).json()
        assert [(v["version"], v["author"]) for v in versions] == [(1, "kim"), (2, "lee")]
        case = kim.ask("POST", "/activelearning/uncertainty", json={"client_id": "slicer-ada"}).json()
        assert [case["id"], case["weight"]] == expected["measures"]["next"]["uncertainty"]
        report = kim.predict("atlas", "open")["report"]
        assert report["atlas"]["version"] == expected["grown atlas"]["current"]
        same = kim.ask("GET", "/info/").json()["version"] == opened.generation.made_by["version"]
        assert report.get("from_cache", False) == same
        write_labels(tmp_path / "label.nii.gz", len(STUDIES) + 1)
        assert kim.save(UPLOADED, tmp_path / "label.nii.gz")["version"] == 1
        with (tmp_path / "label.nii.gz").open("rb") as stream:
            assert stream.read() == kim.ask("GET", "/datastore/label", {"label": UPLOADED, "tag": "final"}).content
