"""Ten thousand strange ids, tags and label files: nothing is written outside the studies folder, and no other error occurs."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medsam2_atlas.base.errors import ConflictError, InputError, MedSAM2AtlasError, NotFoundError
from medsam2_atlas.storage import StudyStore
from storage.test_store import ct, label

NAMES, FILES = 8800, 1200
PIECES = (
    *("..", ".", "/", "\\", "\0", "\n", "%2e%2e", "%2f", "~", "$HOME", "`id`", ";", "|", "*", "?", "C:", "CON", "nul"),
    *("a", "final", "labels", ".medsam2_atlas", "studies.sqlite", "00001.json", ".part-", "é", "\u202e", "😀", "\ud800", " "),
    *("x" * 100, "/etc/passwd", "file://", "'", '"', "--", "a.nii.gz", "\u2215", "\uff0f", "\u3002"),
)
MARK = "untouched"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a studies folder between folders of other programs."""
    for name in ("beside", "studies-of-others", "studies"):
        (tmp_path / "house" / name).mkdir(parents=True)
        (tmp_path / "house" / name / "mark").write_text(MARK)
    ct(tmp_path / "house" / "studies", "a")
    return tmp_path / "house" / "studies"


def outside(folder: Path) -> dict[str, tuple[int, int]]:
    house = folder.parent
    files = (f for f in house.rglob("*") if folder not in f.parents and f != folder)
    return {str(f): (f.stat().st_size, f.stat().st_mtime_ns) for f in files}


def strange(generator: random.Random) -> str:
    return "".join(generator.choice(PIECES) for _ in range(generator.randint(0, 4)))


def test_strange_names_break_nothing(folder: Path, tmp_path: Path) -> None:
    store, generator = StudyStore(folder), random.Random(11)
    good, image = label(tmp_path / "good.nii.gz", 6), folder / "a.nii.gz"
    before = outside(folder)
    accepted = 0
    for n in range(NAMES):
        study, tag = generator.choice(["a", strange(generator)]), generator.choice(["final", strange(generator)])
        action = n % 8
        try:
            if action == 0:
                store.save_label(study, tag, good, info={"n": n})
            elif action == 1:
                store.add_image(study, image)
            elif action == 2:
                store.remove_label(study, tag)
            elif action == 3:
                store.versions(study, tag)
            elif action == 4:
                store.version_file(study, tag, generator.randint(-1, 3))
            elif action == 5:
                store.update_image_info(study, {"n": n})
            elif action == 6:
                store.restore_label(study, tag, generator.randint(-1, 3))
            elif study != "a":
                store.remove_image(study)
            accepted += 1
        except (InputError, NotFoundError, ConflictError):
            continue
    assert outside(folder) == before
    assert accepted > 1000
    assert (folder / "mark").read_text() == MARK
    assert all(f.parent == folder for f in (image.file for image in store.images().values()))
    assert StudyStore(folder).images() == store.images()


def test_strange_files_break_nothing(folder: Path, tmp_path: Path) -> None:
    store, generator = StudyStore(folder), random.Random(13)
    suffixes = (".nii.gz", ".nii", ".nrrd", ".mha")
    good = [label(tmp_path / f"good{suffix}", 6).read_bytes() for suffix in suffixes]
    before, accepted = outside(folder), 0
    for n in range(FILES):
        which = n % len(suffixes)
        content = bytearray(good[which])
        for _ in range(generator.randint(0, 12)):
            place = generator.randrange(min(len(content), 400))
            content[place] = generator.randrange(256)
        if generator.random() < 0.3:
            content = content[: generator.randrange(len(content))]
        file = tmp_path / f"sent{suffixes[which]}"
        file.write_bytes(content)
        try:
            store.save_label("a", "final", file)
            accepted += 1
        except MedSAM2AtlasError as error:
            assert str(error)
        assert set(values(store)) <= set(range(16))
    assert outside(folder) == before
    assert 0 < accepted < FILES
    assert not list(folder.rglob(".part-*"))


def values(store: StudyStore) -> list[int]:
    """Returns the voxel values of all current label maps of `a`; empty if there are none."""
    tags = store.labels().get("a", {})
    return [int(v) for tag in tags.values() for v in np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(tag.file))))]
