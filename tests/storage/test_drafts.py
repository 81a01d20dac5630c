"""Drafts of people who edit in a viewer: kept across restarts, bounded, and never half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from medsam2_atlas.archive import Place, back_up, restore, verify
from medsam2_atlas.base.errors import ConflictError, InputError, LimitError, NotFoundError, StorageError
from medsam2_atlas.erasing import erase
from medsam2_atlas.imaging.packed_labels import pack
from medsam2_atlas.storage import FINAL, Drafts, StudyStore, copy_safely, drafts
from storage.test_store import SHAPE, ct, label, write

KIM, LEE = "token:kim", "oidc:https://issuer#1"
MB = 1_000_000


def packed(folder: Path, organ: int, shape: tuple[int, ...] = SHAPE) -> Path:
    array = np.zeros(shape, np.uint8)
    array[1:3, 1:3, 1:3] = organ
    (folder / "body").write_bytes(pack(array))
    return folder / "body"


def organ_of(found: Drafts, study: str, person: str) -> int:
    return int(found.current(study, person).labels().max())


@pytest.fixture
def store(folder: Path) -> StudyStore:
    return StudyStore(folder)


@pytest.fixture
def kept(store: StudyStore) -> Drafts:
    return Drafts(store, MB)


def test_each_person_has_one_draft_for_each_study(kept: Drafts, folder: Path, tmp_path: Path) -> None:
    assert kept.find("a", KIM) is None
    for study, person, organ in (("a", KIM, 1), ("a", LEE, 2), ("b", KIM, 3), ("a", KIM, 4)):
        kept.save(study, person, packed(tmp_path, organ), SHAPE, ("final", organ))
    again = Drafts(StudyStore(folder), MB)  # as after a restart
    assert [organ_of(again, *key) for key in (("a", KIM), ("a", LEE), ("b", KIM))] == [4, 2, 3]
    draft = again.current("a", KIM)
    assert (draft.base, draft.shape) == (("final", 4), SHAPE)
    assert draft.made.startswith("20")
    assert len(list((folder / ".medsam2_atlas" / "drafts").rglob("*.draft"))) == 3
    assert not [path for path in (folder / ".medsam2_atlas" / "drafts").rglob("*") if "kim" in path.name]


def test_a_draft_keeps_which_final_version_its_person_has_seen(kept: Drafts, tmp_path: Path) -> None:
    kept.save("a", KIM, packed(tmp_path, 1), SHAPE, ("atlas", 9), known=4)
    assert kept.current("a", KIM).known == 4
    for base, seen in ((("final", 3), 3), (("atlas", 9), 0), (None, 0)):  # unknown: no more than the base tells
        assert kept.save("a", KIM, packed(tmp_path, 1), SHAPE, base).known == seen
        file = kept.current("a", KIM).file
        line, _, rest = file.read_bytes().partition(b"\n")
        about = json.loads(line)
        assert about.pop("known") == seen
        file.write_bytes(json.dumps(about).encode() + b"\n" + rest)  # as earlier versions wrote it
        assert kept.current("a", KIM).known == seen
        assert int(kept.current("a", KIM).labels().max()) == 1


def test_a_draft_of_an_earlier_image_is_refused_and_the_earlier_draft_stays(
    store: StudyStore, kept: Drafts, folder: Path, tmp_path: Path
) -> None:
    before = store.checksum("a")
    kept.save("a", KIM, packed(tmp_path, 1), SHAPE, drawn_on=before)
    image = store.image("a").file
    write(image, np.arange(480, dtype=np.int16).reshape(SHAPE)[::-1].copy())
    with pytest.raises(ConflictError, match="has another image now"):
        kept.save("a", KIM, packed(tmp_path, 2), SHAPE, drawn_on=before)
    found = kept.find("a", KIM)
    assert found is not None
    assert int(found.labels().max()) == 1
    kept.save("a", KIM, packed(tmp_path, 2), SHAPE, drawn_on=store.checksum("a"))
    assert organ_of(kept, "a", KIM) == 2


def test_a_removed_draft_is_gone_and_others_stay(kept: Drafts, folder: Path, tmp_path: Path) -> None:
    for person in (KIM, LEE):
        kept.save("a", person, packed(tmp_path, 1), SHAPE)
    assert kept.remove("a", KIM)
    assert not kept.remove("a", KIM)
    with pytest.raises(NotFoundError, match="no draft of yours"):
        kept.current("a", KIM)
    assert kept.current("a", LEE).base is None
    assert kept.remove("a", LEE)
    assert not (folder / ".medsam2_atlas" / "drafts" / "a").exists()


@pytest.mark.parametrize("study", ["../a", "c", "", ".", "a/../b"])
def test_only_known_studies_have_drafts(kept: Drafts, tmp_path: Path, study: str) -> None:
    for call in (lambda: kept.save(study, KIM, packed(tmp_path, 1), SHAPE), lambda: kept.find(study, KIM)):
        with pytest.raises(NotFoundError):
            call()
    with pytest.raises(NotFoundError):
        kept.remove(study, KIM)


def test_a_person_has_limited_room(store: StudyStore, tmp_path: Path) -> None:
    one = packed(tmp_path, 1).stat().st_size + 300
    kept = Drafts(store, one)
    kept.save("a", KIM, packed(tmp_path, 1), SHAPE)
    kept.save("a", KIM, packed(tmp_path, 2), SHAPE)  # replaces the first
    with pytest.raises(LimitError, match="1 other studies have drafts of yours"):
        kept.save("b", KIM, packed(tmp_path, 3), SHAPE)
    assert (organ_of(kept, "a", KIM), kept.find("b", KIM)) == (2, None)
    kept.save("b", LEE, packed(tmp_path, 3), SHAPE)


def test_a_draft_that_its_person_cannot_discard_takes_no_room(store: StudyStore, folder: Path, tmp_path: Path) -> None:
    kept = Drafts(store, packed(tmp_path, 1).stat().st_size + 300)
    kept.save("a", KIM, packed(tmp_path, 1), SHAPE)
    image = store.image("a").file
    image.rename(tmp_path / image.name)  # another program takes it away
    kept.save("b", KIM, packed(tmp_path, 2), SHAPE)
    (tmp_path / image.name).rename(image)
    assert [organ_of(kept, study, KIM) for study in ("a", "b")] == [1, 2]


def test_a_full_disk_leaves_the_earlier_draft(
    kept: Drafts, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.save("a", KIM, packed(tmp_path, 1), SHAPE)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for module, name in ((drafts, "flush"), (shutil, "copyfileobj"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(StorageError, match="No space left"):
                kept.save("a", KIM, packed(tmp_path, 2), SHAPE)
        assert organ_of(kept, "a", KIM) == 1
    assert len(list((folder / ".medsam2_atlas" / "drafts" / "a").iterdir())) == 1


def test_a_draft_belongs_to_its_image(kept: Drafts, store: StudyStore, folder: Path, tmp_path: Path) -> None:
    store.save_label("a", "final", label(tmp_path / "l.nii.gz", 6))  # stores the fingerprint of the image
    kept.save("a", KIM, packed(tmp_path, 1), SHAPE)
    image = folder / "a.nii.gz"
    write(tmp_path / "a.nii", np.arange(480, dtype=np.int16).reshape(SHAPE))
    import gzip

    image.write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes(), 1))  # the same image, compressed again
    assert organ_of(kept, "a", KIM) == 1
    write(image, np.arange(480, dtype=np.int16).reshape(SHAPE)[::-1].copy())
    draft = kept.find("a", KIM)
    assert draft is not None
    assert not kept.usable("a", draft)
    with pytest.raises(ConflictError, match="another image"):
        kept.current("a", KIM)
    kept.save("a", KIM, packed(tmp_path, 2), SHAPE)
    assert organ_of(kept, "a", KIM) == 2


def test_a_damaged_draft_is_named_and_can_be_replaced(kept: Drafts, folder: Path, tmp_path: Path) -> None:
    place = Place.existing(str(folder))
    file = kept.save("a", KIM, packed(tmp_path, 1), SHAPE).file
    assert not [found for found in verify(place).findings if "draft" in found.path]
    content = file.read_bytes()
    for wrong in (
        b"",
        b"{}\n",
        b"[]",
        b'{"base": 3}\n',
        content[:-3],
        content[:60],
        content.replace(b'"shape": [', b'"shape": [9'),
    ):
        file.write_bytes(wrong)
        with pytest.raises(StorageError, match="cannot be read"):
            kept.current("a", KIM).labels()
        (found,) = [found for found in verify(place, again=True).findings if "draft" in found.path]
        assert found.lost
    kept.save("a", KIM, packed(tmp_path, 2), SHAPE)
    assert organ_of(kept, "a", KIM) == 2


def test_strays_are_noted(kept: Drafts, store: StudyStore, folder: Path, tmp_path: Path) -> None:
    file = kept.save("a", KIM, packed(tmp_path, 1), SHAPE).file
    shutil.copytree(file.parent, file.parents[1] / "gone")
    (file.parent / "notes.txt").write_text("x")
    findings = {found.path.partition("drafts/")[2]: found for found in verify(Place.existing(str(folder))).findings}
    assert "is not a draft" in findings["a/notes.txt"].problem
    assert not findings[f"gone/{file.name}"].lost


def test_drafts_are_backed_up_and_restored(kept: Drafts, folder: Path, tmp_path: Path) -> None:
    kept.save("a", KIM, packed(tmp_path, 5), SHAPE, ("atlas", 1))
    back_up(Place.existing(str(folder)), tmp_path / "backup")
    restore(tmp_path / "backup", Place.of(str(tmp_path / "again")))
    draft = Drafts(StudyStore(tmp_path / "again"), MB).current("a", KIM)
    assert (int(draft.labels().max()), draft.base) == (5, ("atlas", 1))


def test_drafts_of_a_removed_image_go_with_it(kept: Drafts, store: StudyStore, folder: Path, tmp_path: Path) -> None:
    kept.save("a", KIM, packed(tmp_path, 1), SHAPE)
    aside = store.remove_image("a")
    assert len(list((aside / "drafts" / "a").iterdir())) == 1
    ct(folder, "a")
    assert kept.find("a", KIM) is None


def test_an_erased_study_has_no_drafts_and_gets_none(
    kept: Drafts, store: StudyStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDSAM2_ATLAS_STATE", str(tmp_path / "state"))
    for study in ("a", "b"):
        kept.save(study, KIM, packed(tmp_path, 1), SHAPE)
    body, check = packed(tmp_path, 2), kept._check_room

    def erased_meanwhile(*arguments: object) -> None:  # the check of the room comes after that of the study
        check(*arguments)  # type: ignore[arg-type]
        erase(Place.existing(str(folder)), "a", "consent withdrawn")

    monkeypatch.setattr(kept, "_check_room", erased_meanwhile)
    with pytest.raises(NotFoundError, match="no image any more"):
        kept.save("a", KIM, body, SHAPE)
    assert [path.name for path in (folder / ".medsam2_atlas" / "drafts").iterdir()] == ["b"]
    with pytest.raises(NotFoundError):
        kept.save("a", KIM, body, SHAPE)


def test_a_link_in_place_of_the_folder_is_refused(kept: Drafts, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / ".medsam2_atlas" / "drafts").symlink_to(tmp_path / "elsewhere")
    with pytest.raises((StorageError, InputError), match="link"):
        kept.save("a", KIM, packed(tmp_path, 1), SHAPE)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_change_that_was_made_is_not_called_failed(
    kept: Drafts, store: StudyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept.save("a", KIM, packed(tmp_path, 1), SHAPE)
    kept.save("a", LEE, packed(tmp_path, 2), SHAPE)
    file, fsync = label(tmp_path / "x.nii.gz", 6), os.fsync
    store.save_label("a", FINAL, file)

    def fails_for_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "the disk cannot flush folders")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fails_for_folders)
    kept.save("a", KIM, packed(tmp_path, 3), SHAPE)
    assert organ_of(kept, "a", KIM) == 3
    assert kept.remove("a", LEE)
    assert store.assignments.assign("a", "kim", "reva") == store.assignments.of("a")
    assert store.save_label("a", FINAL, label(tmp_path / "y.nii.gz", 7)).label.version.number == 2
    copy_safely(file, tmp_path / "copy.nii.gz")
    assert "a power cut may undo the last change" in caplog.text
