"""A CT that a picture or a viewer could not read is a problem of the worklist, until its file is replaced."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from datastores.folder_datastore import FolderDatastore
from medsam2_atlas.active_learning import ScoreTable
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.hounsfield import CHECK
from server.people import LOCAL
from tasks.case_pictures import CasePictures
from tasks.case_states import CaseTable
from tasks.next_case import NextCase
from tasks.worklist import Query, Worklist


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
