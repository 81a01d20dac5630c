"""A CT that a picture or a viewer could not read is a problem of the worklist, until its file is replaced."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from datastores import folder_instances
from datastores.folder_datastore import FolderDatastore
from medsam2_atlas.active_learning import ScoreTable
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.hounsfield import CHECK
from server.people import LOCAL
from tasks.case_pictures import CasePictures, Wanted
from tasks.case_states import CaseTable
from tasks.next_case import NextCase
from tasks.worklist import Query, Worklist
from waiting import Clock, until


@pytest.fixture
def datastore(tmp_path: Path) -> FolderDatastore:
    """Returns a folder with a CT `b`, and a file `a` that is none."""
    image = sitk.GetImageFromArray(np.arange(4800, dtype=np.int16).reshape(12, 20, 20) % 400)
    sitk.WriteImage(image, str(tmp_path / "b.nii.gz"))
    (tmp_path / "a.nii.gz").write_bytes(b"not a CT")
    return FolderDatastore(tmp_path)


def listed(datastore: FolderDatastore, folder: Path) -> dict[str, tuple[str, str]]:
    """Returns state and action of each case."""
    table = CaseTable(datastore, ScoreTable(folder / ".t.sqlite"), ())
    rows = Worklist(datastore, table.states).page(Query(), LOCAL)["rows"]
    return {row["study"]: (row["state"], row["action"]) for row in rows}


def next_of(datastore: FolderDatastore, folder: Path) -> str:
    strategy = NextCase("disagreement", ScoreTable(folder / ".t.sqlite"), dict)
    return str((strategy({"person": "", "person_name": ""}, datastore) or {}).get("id"))


def test_a_ct_without_a_picture_has_to_be_fixed_and_is_not_the_next_case(datastore: FolderDatastore, tmp_path: Path) -> None:
    assert listed(datastore, tmp_path) == {"a": ("new", "segment"), "b": ("new", "segment")}
    pictures = CasePictures(datastore, (), CHECK, 10**7)
    assert [pictures.draw(pictures.find(name)) is None for name in "ab"] == [True, False]
    assert listed(datastore, tmp_path) == {"a": ("problem", "fix"), "b": ("new", "segment")}
    assert "Copy it again." in datastore.problems()["a"]["image"]
    assert next_of(datastore, tmp_path) == "b"
    time.sleep(0.02)
    (tmp_path / "a.nii.gz").write_bytes((tmp_path / "b.nii.gz").read_bytes())
    assert listed(datastore, tmp_path)["a"] == ("new", "segment"), "its file was replaced"
    assert next_of(datastore, tmp_path) == "a"
    assert pictures.draw(pictures.find("a")) is not None


def test_a_ct_that_a_viewer_could_not_open_has_to_be_fixed(datastore: FolderDatastore, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        datastore.instances.about("a")
    assert listed(datastore, tmp_path)["a"] == ("problem", "fix")
    datastore.forget()
    assert datastore.problems() == {}, "nothing is kept of an erased case"


def test_a_file_that_is_replaced_while_its_picture_is_drawn_is_usable(
    datastore: FolderDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, real = CasePictures(datastore, (), CHECK, 10**7), CasePictures._drawn

    def replaced(self: CasePictures, wanted: Wanted) -> Path:
        try:
            return real(self, wanted)
        finally:
            (tmp_path / "a.nii.gz").write_bytes((tmp_path / "b.nii.gz").read_bytes())

    monkeypatch.setattr(CasePictures, "_drawn", replaced)
    assert pictures.draw(pictures.find("a")) is None
    assert listed(datastore, tmp_path)["a"] == ("new", "segment")
    assert datastore.instances.about("a").name == "a"


def fail(monkeypatch: pytest.MonkeyPatch, reader: str) -> pytest.MonkeyPatch:
    """Lets a reader of CTs fail as on a network drive that is away."""

    def broken(file: Path) -> Any:
        raise InputError(file, "cannot be read as an image: Input/output error.", "Export it again from its source.")

    monkeypatch.setattr(folder_instances, reader, broken)
    return monkeypatch


@pytest.mark.parametrize(("reader", "use"), [("read_grid", "about"), ("decode_ct", "open")])
def test_a_ct_that_could_not_be_read_for_once_is_tried_again(
    datastore: FolderDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, use: str
) -> None:
    with monkeypatch.context() as away, pytest.raises(InputError):
        getattr(fail(away, reader) and datastore.instances, use)("b")
    assert listed(datastore, tmp_path)["b"] == ("problem", "fix")
    monkeypatch.setattr(folder_instances, "time", SimpleNamespace(monotonic=Clock(time.monotonic() + 61.0)))
    until(lambda: listed(datastore, tmp_path)["b"] == ("new", "segment"), 10, "it is not tried again")


def test_pauses_between_tries_of_an_unusable_ct_increase_to_an_hour(
    datastore: FolderDatastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, tries = Clock(100.0), list[float]()
    monkeypatch.setattr(folder_instances, "time", SimpleNamespace(monotonic=clock))
    real = folder_instances.read_grid
    monkeypatch.setattr(folder_instances, "read_grid", lambda file: tries.append(clock.now) or real(file))
    for _ in range(400):
        with pytest.raises(InputError):
            datastore.instances.about("a")
        clock.now += 30.0
    pauses = [after - before for before, after in itertools.pairwise(tries)]
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_a_case_with_a_usable_signed_off_label_map_stays_signed_off_if_its_ct_cannot_be_read_now(
    datastore: FolderDatastore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = np.zeros((12, 20, 20), np.uint8)
    label[4:8, 5:10, 5:10] = 6
    (tmp_path / ".sent").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(label), str(tmp_path / ".sent" / "label.nii.gz"))
    datastore.store.save_label("b", "final", tmp_path / ".sent" / "label.nii.gz", author="kim")
    with pytest.raises(InputError):
        fail(monkeypatch, "decode_ct") and datastore.instances.open("b")
    assert listed(datastore, tmp_path)["b"] == ("signed off", "view")
    assert "Input/output error" in datastore.problems()["b"]["note"]
