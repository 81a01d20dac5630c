"""After an erasure, no file of the studies folder, the work folder or the atlas contains the study's name, image or labels."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from medsam2_atlas.active_learning import Assessment, ScoreTable
from medsam2_atlas.archive import Place, verify
from medsam2_atlas.base.errors import ConflictError, InputError, MedSAM2AtlasError, NotFoundError, StorageError
from medsam2_atlas.base.files import sha256, write_json
from medsam2_atlas.batch.place import Place as BatchPlace
from medsam2_atlas.cli import app
from medsam2_atlas.erasing import Erasure, erase, finish_erasures, preview
from medsam2_atlas.erasing.work import no_work_runs
from medsam2_atlas.imaging.packed_labels import pack
from medsam2_atlas.registration import RegistrationCache, Transform
from medsam2_atlas.storage import FINAL, Drafts, Fingerprints, StudyStore, WorkFolder, fingerprints
from medsam2_atlas.storage.fingerprints import fingerprint
from storage.test_store import SHAPE, ct, label, organ_in
from tasks.claims import claimed
from waiting import time_limit

NAME = "withdrawn-7"
REASON = "consent withdrawn"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSAM2_ATLAS_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("MEDSAM2_ATLAS_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("MEDSAM2_ATLAS", raising=False)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with two studies in use. The image of one was removed and uploaded again."""
    folder = tmp_path_factory.mktemp("kept")
    for name in (NAME, "other"):
        ct(folder / "studies", name)
    fill(folder / "studies", folder / "studies" / ".medsam2_atlas", folder)
    return folder / "studies"


@pytest.fixture
def used(kept: Path, tmp_path: Path) -> Path:
    return shutil.copytree(kept, tmp_path / "studies")


def fill(folder: Path, work: Path, scratch: Path, name: str = NAME) -> None:
    store = StudyStore(folder)
    for study in (name, "other"):
        for tag, organs in (("unet_3d", (2,)), ("draft", (3,)), (FINAL, (4, 5))):
            for organ in organs:
                file = label(scratch / "x.nii.gz", organ)
                if tag == "unet_3d":
                    store.save_prediction(study, tag, file)
                else:
                    store.save_label(study, tag, file, author="kim")
    image = scratch / "again.nii.gz"
    shutil.copy(folder / f"{name}.nii.gz", image)
    store.remove_image(name)
    store.add_image(name, image, {"user": "kim"})
    store.save_label(name, FINAL, label(scratch / "x.nii.gz", 6), author="kim")
    store.remove_label(name, FINAL)
    store.save_label(name, FINAL, label(scratch / "x.nii.gz", 7), author="kim")
    store.save_label(name, "draft", label(scratch / "x.nii.gz", 3), author="kim")
    for study in (name, "other"):
        (scratch / "packed").write_bytes(pack(np.zeros(SHAPE, np.uint8)))
        Drafts(store, 1_000_000).save(study, "token:kim", scratch / "packed", SHAPE, (FINAL, 1))
    (scratch / "packed").unlink()
    aside = store.work.folder(f"unreadable/{name}") / "00.nii.gz"
    aside.write_bytes(label(scratch / "x.nii.gz", 8).read_bytes())
    image.unlink()
    table = ScoreTable(work / "learning.sqlite")
    for study in (name, "other"):
        table.put(study, "stamp", {}, Assessment({"novelty": 0.5}, {"novelty": f"{study} is far"}))
        write_json({"study": study}, WorkFolder(work).folder("reports/unet_3d") / f"{study}.json")
    for file in ("pictures/1.png", "registrations/t-1/2.npz", "unet_3d/cache/3/4.pt"):
        base = store.work.path if file.startswith("pictures") else work
        (base / file).parent.mkdir(parents=True, exist_ok=True)
        (base / file).write_bytes(b"picture of " + name.encode())
    names = [name, "other"]
    write_json({"train_cases": names, "skipped": dict.fromkeys(names, "odd"), "loss": [1]}, work / "unet_3d/stats.json")
    WorkFolder(work).folder("atlas")
    write_json({"added": names, "refused": dict.fromkeys(names, "odd")}, work / "atlas/stats.json")
    write_json(names, work / "atlas/excluded.json")
    WorkFolder(work).folder("scores")
    write_json({"studies": {key: {} for key in names}, "mean": {}}, work / "scores/a-against-final.json")
    write_json({f"/x/{study}.nii.gz": {"stamp": ""} for study in names}, work / "unreadable.json")
    write_json({"objects": {key: {} for key in names}, "name": "x"}, folder / "datastore_v2.json")
    (work / "studies.sqlite.damaged").write_text(name)


def traces(folder: Path, name: str, checksums: set[str]) -> list[str]:
    """Returns files and folders that still contain a study's name or the content of one of its files."""
    found = []
    for path in sorted(folder.rglob("*")):
        if name in path.name:
            found.append(f"{path} by its name")
        elif path.is_file() and (name.encode() in path.read_bytes() or sha256(path) in checksums):
            found.append(f"{path} by its content")
        elif path.is_file() and any(checksum.encode() in path.read_bytes() for checksum in checksums):
            found.append(f"{path} by a checksum")
    return found


def checksums_of(folder: Path, name: str) -> set[str]:
    own = {sha256(path) for path in folder.rglob("*.nii.gz") if name in str(path) and "other" not in str(path)}
    return own - {sha256(path) for path in folder.rglob("*.nii.gz") if "other" in str(path)}


def erased(folder: Path, name: str = NAME) -> Erasure:
    return erase(Place.existing(str(folder)), name, REASON)


def lines(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / "audit/audit.jsonl").read_text().splitlines()]


def test_only_a_line_in_the_audit_log_remains_of_an_erased_study(used: Path, tmp_path: Path) -> None:
    before = checksums_of(used, NAME)
    assert len(before) > 2
    others = {path.relative_to(used): sha256(path) for path in used.rglob("*") if "other" in str(path) and path.is_file()}
    done = erased(used)
    assert traces(tmp_path, NAME, before) == []
    assert {place: sha256(used / place) for place in others} == others
    assert len(lines(used / ".medsam2_atlas")) == 1
    line = lines(used / ".medsam2_atlas")[0]
    assert (line["action"], line["details"], line["study"][:6]) == ("study.erase", {"reason": REASON}, "study-")
    assert any("unet_3d was trained on the study" in text for text in done.not_erased)
    stats = json.loads((used / ".medsam2_atlas/unet_3d/stats.json").read_text())
    assert (stats["train_cases"], stats["skipped"], stats["erased_cases"]) == (["other"], {"other": "odd"}, 1)
    store = StudyStore(used)
    assert list(store.images()) == ["other"]
    assert organ_in(store.label("other", FINAL).file) == 5
    assert list(ScoreTable(used / ".medsam2_atlas/learning.sqlite").rows()) == ["other"]
    assert store.problems() == {}
    with pytest.raises(NotFoundError):
        erased(used)


def test_a_running_server_forgets_an_erased_study_and_a_new_image_of_that_name_is_a_new_study(
    used: Path, tmp_path: Path
) -> None:
    store, table = StudyStore(used), ScoreTable(used / ".medsam2_atlas/learning.sqlite")
    assert NAME in store.images()
    erased(used)
    assert list(store.images()) == ["other"]
    assert list(table.rows()) == ["other"]
    with pytest.raises(NotFoundError):
        store.save_label(NAME, FINAL, label(tmp_path / "x.nii.gz", 4))
    ct(used, NAME)
    store.refresh()
    assert store.tags(NAME) == []
    assert store.image(NAME).info == {}


def test_a_save_that_waits_for_an_erasure_restores_nothing(used: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StudyStore(used)
    save = store._changes._save

    def late(*arguments: Any) -> Any:
        monkeypatch.undo()
        monkeypatch.setenv("MEDSAM2_ATLAS_STATE", str(tmp_path / "state"))
        erased(used)
        return save(*arguments)

    monkeypatch.setattr(store._changes, "_save", late)
    with pytest.raises(NotFoundError):
        store.save_label(NAME, "mine", label(tmp_path / "x.nii.gz", 4))
    assert not [path for path in used.rglob("*") if NAME in path.name]


def test_an_unusable_image_is_erased_too(used: Path) -> None:
    (used / f"{NAME}.nrrd").write_bytes(b"another image")
    (used / f"{NAME}.MHA").write_bytes(b"")
    erased(used)
    assert not [path for path in used.rglob("*") if NAME in path.name]


def test_a_link_is_erased_and_its_target_is_reported(used: Path, tmp_path: Path) -> None:
    (used / f"{NAME}.nii.gz").rename(tmp_path / "far.nii.gz")
    (used / f"{NAME}.nii.gz").symlink_to(tmp_path / "far.nii.gz")
    (used / "labels" / "mine").symlink_to(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / f"{NAME}.nii.gz").write_bytes(b"x")
    done = erased(used)
    assert any(str(tmp_path / "far.nii.gz") in text for text in done.not_erased)
    assert (tmp_path / "far.nii.gz").exists()
    assert (tmp_path / "mine" / f"{NAME}.nii.gz").exists()  # outside of the studies folder
    assert any(str(tmp_path / "mine") in text and "MEDSAM2_ATLAS_ROOTS" in text for text in done.not_erased)
    assert not (used / f"{NAME}.nii.gz").is_symlink()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../studies", "a/b", "unknown", "*", "with?awn-7", "[w]ithdrawn-7", "other.nii.gz"]
)
def test_an_invalid_or_unknown_name_erases_nothing(used: Path, name: str) -> None:
    before = sorted(used.rglob("*"))
    with pytest.raises((NotFoundError, InputError)):
        erased(used, name)
    assert [path for path in before if not path.exists()] == []


def test_studies_with_similar_names_are_not_erased(tmp_path: Path) -> None:
    folder = tmp_path / "studies"
    for name in ("a", "a.1", "a b", "A", "*"):
        ct(folder, name)
        StudyStore(folder).save_label(name, FINAL, label(tmp_path / "x.nii.gz", 4))
    StudyStore(folder).remove_image("a b")
    ct(folder, "a b")
    erased(folder, "*")
    erased(folder, "a")
    assert list(StudyStore(folder).images()) == ["A", "a b", "a.1"]
    assert {path.name for path in (folder / ".medsam2_atlas/versions/final").iterdir()} == {"A", "a.1"}
    assert list((folder / ".medsam2_atlas/removed").glob("*/a b.nii.gz"))


def test_files_of_a_study_with_the_same_beginning_of_its_name_are_not_reported(tmp_path: Path) -> None:
    folder = tmp_path / "studies"
    for name in ("case", "case.b", "old.case", "case.case"):
        ct(folder, name)
        StudyStore(folder).save_label(name, FINAL, label(tmp_path / "x.nii.gz", 4), author="kim")
    notes = folder / ".medsam2_atlas" / "notes.txt"
    notes.write_text("seen: old.case, case.b, case.case")
    (remaining,) = erased(folder, "case").not_erased
    assert remaining.startswith("Backups")
    notes.write_text("seen: old.case, case.b")
    assert f"{notes} still contains the name" in erased(folder, "case.b").not_erased[-1]


@pytest.mark.parametrize(
    "where", ["pipe.nii.gz", ".medsam2_atlas/versions/final/pipe/00001.json", ".medsam2_atlas/scores/x.json"]
)
def test_a_pipe_in_the_folder_does_not_block_an_erasure(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "studies"
    ct(folder, "pipe")
    pipe = folder / where
    pipe.unlink(missing_ok=True)
    pipe.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(pipe)
    with time_limit():
        erased(folder, "pipe")
    assert not (folder / "pipe.nii.gz").exists()


def test_a_disk_that_cannot_be_written_is_reported_before_anything_is_erased(
    used: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(StorageError, match="nothing is erased"):
        erased(used)
    assert (used / f"{NAME}.nii.gz").exists()


def test_names_that_would_control_a_terminal_are_shown_as_escapes(tmp_path: Path) -> None:
    folder, name = tmp_path / "studies", "x\n\x1b[31m"
    ct(folder, name)
    shown = CliRunner().invoke(app, ["studies", "erase", str(folder), name, "--reason", REASON, "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert "\x1b" not in shown.output
    assert r"x\n\x1b[31m.nii.gz" in shown.output


def test_nothing_is_erased_during_a_training(used: Path) -> None:
    with claimed(WorkFolder.of(used), "train", "unet_3d"), pytest.raises(ConflictError, match="runs a training"):
        erased(used)
    assert (used / f"{NAME}.nii.gz").exists()
    assert not (used / ".medsam2_atlas/erasing").exists()


def test_nothing_is_erased_during_a_batch_and_no_batch_begins_during_an_erasure(used: Path) -> None:
    place = BatchPlace(used / ".medsam2_atlas" / "batch" / "unet_3d")
    with place.held(), pytest.raises(ConflictError, match="a batch"):
        erased(used)
    assert (used / f"{NAME}.nii.gz").exists()
    with no_work_runs(used / ".medsam2_atlas"), pytest.raises(ConflictError, match="another batch"), place.held():
        pass
    assert erased(used) is not None


def test_a_reason_that_contains_the_name_is_refused(used: Path) -> None:
    for reason in ("", " ", f"the patient {NAME.upper()} asked"):
        with pytest.raises(InputError, match="reason"):
            erase(Place.existing(str(used)), NAME, reason)
    assert (used / f"{NAME}.nii.gz").exists()


def _erase_and_die(folder: str, step: int) -> None:
    count = 0
    originals: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in ("unlink", "replace", "rmdir", "fsync")}

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                os._exit(7)
            return originals[name](*arguments, **options)

        return call

    for name in originals:
        setattr(os, name, wrapped(name))
    erase(Place.existing(folder), NAME, REASON)
    os._exit(0)


def test_an_erasure_that_is_killed_at_any_step_is_completed_later(kept: Path, tmp_path: Path) -> None:
    before, used = checksums_of(kept, NAME), tmp_path / "studies"
    died = 0
    for step in (3, 4, 5, 8, 12, 18, 25, 33, 40, 48, 55, 62, 70):
        shutil.copytree(kept, used)
        process = multiprocessing.get_context("fork").Process(target=_erase_and_die, args=(str(used), step))
        process.start()
        process.join()
        died += process.exitcode == 7
        planned = finish_erasures(Place.existing(str(used)))
        if planned or process.exitcode == 0:
            assert traces(used, NAME, before) == [], step
            assert len(lines(used / ".medsam2_atlas")) <= 2
        else:
            erased(used)
        assert list(StudyStore(used).images()) == ["other"]
        shutil.rmtree(used)
    assert died > 5


def test_the_command_asks_for_the_name_and_a_dry_run_changes_nothing(used: Path) -> None:
    before = {path: path.is_file() and path.suffix != ".sqlite" and sha256(path) for path in used.rglob("*")}
    command = ["studies", "erase", str(used), NAME, "--reason", REASON]
    ran = CliRunner().invoke(app, [*command, "--dry-run"])
    assert ran.exit_code == 0, ran.output
    assert f"{NAME}.nii.gz" in ran.output
    wrong = CliRunner().invoke(app, command, input="other\n")
    assert isinstance(wrong.exception, InputError)
    assert CliRunner().invoke(app, command, input="").exit_code != 0
    assert {path: path.is_file() and path.suffix != ".sqlite" and sha256(path) for path in used.rglob("*")} == before
    ran = CliRunner().invoke(app, command, input=f"{NAME}\n")
    assert ran.exit_code == 0, ran.output
    assert not (used / f"{NAME}.nii.gz").exists()


def test_no_name_of_an_erased_file_controls_the_terminal(used: Path) -> None:
    (used / "odd\u202e.nii.gz").write_bytes(b"no image")
    ran = CliRunner().invoke(app, ["studies", "erase", str(used), "odd\u202e", "--reason", REASON, "--dry-run"])
    assert "odd\\u202e.nii.gz" in ran.output
    assert "\u202e" not in ran.output


def test_an_atlas_of_signed_off_studies_alone_is_built_again_without_the_erased_one(
    used: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atlas, given = used / ".medsam2_atlas/atlas", []
    write_json({"hu": {"rule": "auto"}}, atlas / "stats.json")
    (atlas / "versions/1").mkdir(parents=True)
    write_json({"options": {}, "references": [{"name": NAME}, {"name": "other"}]}, atlas / "versions/1/atlas.json")
    (atlas / "current").write_text("1")

    def grow(work: WorkFolder, base: None, finals: list[Any], options: Any, **_: Any) -> dict[str, Any]:
        given.append((work.path, base, [files.name for files in finals], options.rebuild, str(options.hu)))
        return {"version": "2", "references": 1, "folder": "x"}

    monkeypatch.setattr("medsam2_atlas.studies.grow_studies_atlas", grow)
    ran = CliRunner().invoke(app, ["studies", "erase", str(used), NAME, "--reason", REASON, "--yes"])
    assert ran.exit_code == 0, ran.output
    assert given == [(used / ".medsam2_atlas", None, ["other"], True, "auto")]
    assert not list((atlas / "versions").iterdir())


@pytest.mark.parametrize("others", [["other"], []])
def test_a_registration_that_runs_while_the_cache_is_emptied_is_not_stored(tmp_path: Path, others: list[str]) -> None:
    cache = RegistrationCache(tmp_path / "registrations")
    for other in others:
        cache.get(f"t/{other}", Transform)

    def make() -> Transform:
        cache.forget()
        return Transform()

    cache.get("t/one", make)
    assert [file.name for file in cache.folder.rglob("*.npz")] == [f"{other}.npz" for other in others]


def test_records_of_verifications_are_erased_for_the_erased_study_only(used: Path) -> None:
    verify(Place.existing(str(used)))
    done = used / ".medsam2_atlas" / "verified.jsonl"
    before = done.read_text().splitlines()
    digests = {
        hashlib.sha256(str(file.relative_to(used)).encode()).hexdigest()[:32]
        for file in used.rglob("*")
        if file.is_file() and NAME in str(file.relative_to(used))
    }
    assert {json.loads(line)[0] for line in before} > digests
    erased(used)
    after = done.read_text().splitlines()
    assert not digests & {json.loads(line)[0] for line in after}
    assert set(after) < set(before)
    assert len(after) > 5
    assert done.stat().st_mode & 0o777 == 0o600


def test_the_space_of_erased_rows_is_overwritten(used: Path) -> None:
    index = used / ".medsam2_atlas/studies.sqlite"
    with sqlite3.connect(index) as database:  # a row that an earlier release has deleted without overwriting it
        database.execute("PRAGMA secure_delete=OFF")
        database.execute("INSERT INTO problems VALUES (?, 'x', ?, 0)", (NAME, NAME * 20))
        database.execute("DELETE FROM problems WHERE tag = 'x'")
    assert NAME.encode() in index.read_bytes()
    erased(used)
    assert NAME.encode() not in index.read_bytes()


def test_the_fingerprint_of_an_image_that_is_erased_while_it_is_decoded_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = ct(tmp_path / "studies", NAME)
    kept = Fingerprints(WorkFolder.of(tmp_path / "studies"))

    def decoded(file: Path) -> Any:
        found = fingerprint(file)
        file.unlink()
        return found

    monkeypatch.setattr(fingerprints, "fingerprint", decoded)
    kept.of(image, "0" * 64)
    assert kept.known("0" * 64) is None


def test_the_preview_of_an_unknown_study_is_refused(used: Path) -> None:
    with pytest.raises(MedSAM2AtlasError):
        preview(Place.existing(str(used)), hashlib.sha256(b"x").hexdigest())
