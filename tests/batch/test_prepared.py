"""A CT that one worker prepares and another one segments: read once, and prepared again if it is not there any more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from app.fake_pacs import fake_pacs
from batch_cases import stand_in_job, write_cts
from medsam2_atlas.batch import work
from medsam2_atlas.batch.items import Item
from medsam2_atlas.batch.outcomes import Outcome
from medsam2_atlas.batch.prepared import drop_all
from medsam2_atlas.batch.session import Session
from series_files import upright, write_series


@pytest.fixture
def session(tmp_path: Path) -> Session:
    (tmp_path / "parts").mkdir()
    return Session(stand_in_job(parts=tmp_path / "parts"))


@pytest.fixture
def item(tmp_path: Path) -> Item:
    path = write_cts(tmp_path / "cts", 1) / "case-00000.nii.gz"
    return Item(path.name, "file", str(path), "case-00000")


def label_map(outcome: Outcome) -> bytes:
    assert outcome.done is not None, outcome.reason
    return outcome.done.part.read_bytes()


def test_a_ct_is_read_once_and_its_result_is_that_of_a_single_worker(
    session: Session, item: Item, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = work.work_on(item, session)
    handed = work.hand_over(item, session, "cpu-0")
    assert handed.prepared and not handed.reason
    monkeypatch.setattr(work, "prepare", None)
    found = work.work_on(item, session, handed.prepared)
    assert label_map(found) == label_map(whole)
    assert found.done is not None and whole.done is not None
    assert found.done.input_sha256 == whole.done.input_sha256
    assert {*found.done.seconds} == {"prepare", "segment", "write"}
    assert (found.prepared_by, whole.prepared_by) == ("cpu-0", "")
    assert not [*session.job.parts.glob("prepared-*")]


def test_a_ct_that_is_not_there_any_more_or_damaged_is_prepared_again(session: Session, item: Item) -> None:
    name = work.hand_over(item, session, "cpu-0").prepared
    first = work.work_on(item, session, name)
    again = work.work_on(item, session, name)  # as after the loss of the scheduler
    assert label_map(again) == label_map(first)
    for content in (b"torn", b""):
        name = work.hand_over(item, session, "cpu-0").prepared
        (session.job.parts / f"prepared-{name}" / "voxels.npy").write_bytes(content)
        assert label_map(work.work_on(item, session, name)) == label_map(first)


def test_all_stored_cts_of_an_item_are_removed_and_those_of_others_stay(session: Session, item: Item) -> None:
    other = replace(item, id="other.nii.gz")
    for one in (item, item, other):
        name = work.hand_over(one, session, "cpu-0").prepared
    drop_all(item, session.job.parts)
    assert [path.name for path in session.job.parts.glob("prepared-*")] == [f"prepared-{name}"]


def test_a_ct_that_cannot_be_read_is_not_handed_over(session: Session, item: Item) -> None:
    Path(item.path).write_bytes(b"no image")
    outcome = work.hand_over(item, session, "cpu-0")
    assert outcome.reason and not outcome.prepared
    assert not [*session.job.parts.iterdir()]


def test_a_series_of_a_pacs_is_fetched_once_also_for_a_dicom_segmentation(tmp_path: Path) -> None:
    array = np.full((6, 16, 16), -1000, np.int16)
    array[1:4, 4:9, 4:9] = 60
    (tmp_path / "parts").mkdir()
    with fake_pacs() as pacs:
        series = pacs.add(write_series(tmp_path / "series", upright(array)))
        item = Item(series, "dicomweb", pacs.url, series, study="1.2.3", series=series)
        session = Session(stand_in_job(parts=tmp_path / "parts", results="seg"))
        item = replace(item, study=str(pacs.series[0]["0020000D"]["Value"][0]))
        name = work.hand_over(item, session, "cpu-0").prepared
        asked = len(pacs.asked)
        outcome = work.work_on(item, session, name)
        assert len(pacs.asked) == asked
    assert outcome.done is not None, outcome.reason
    assert pydicom.dcmread(outcome.done.part).ReferencedSeriesSequence[0].SeriesInstanceUID == series
    assert [*session.job.parts.iterdir()] == [outcome.done.part]


def test_a_name_from_elsewhere_leads_nowhere(session: Session, item: Item) -> None:
    assert "is no name" in work.work_on(replace(item), session, "../x").reason
