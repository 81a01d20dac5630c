"""The worklist of a PACS: attributes from its list, and one slice for a picture."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom
import pytest
from PIL import Image

from app.fake_pacs import FakePacs, fake_pacs
from app.fake_pacs import listed as listed_series
from app.listed_studies import Team
from app.test_pacs_datastore import ARRAY, QUICK, datastore_of, label_for
from datastores.pacs_datastore import PacsDatastore
from datastores.series_list import NEVER_LISTED, SeriesList
from medsam2_atlas.active_learning import ScoreTable
from medsam2_atlas.base.errors import UnavailableError
from medsam2_atlas.dicom.web import DicomWeb, DicomWebLimits
from medsam2_atlas.imaging.hounsfield import CHECK
from medsam2_atlas.imaging.volume import read_labels
from medsam2_atlas.segmenters.base import Report, Segmentation
from medsam2_atlas.storage import Drafts, WorkFolder
from medsam2_atlas.studies import PredictionStore
from series_files import upright, write_series
from server.people import User
from tasks.annotated_case import AnnotatedCase
from tasks.case_pictures import CasePictures
from tasks.case_states import CaseTable
from tasks.worklist import Query, Worklist
from tasks.worklist_parts import WorklistParts
from waiting import until

KIM = User("kim", "annotator", "token:kim")
SILENT = "The PACS does not answer."
UNUSABLE = "The PACS answers with an error, or with something other than a list of its CTs."


@pytest.fixture
def pacs() -> Iterator[FakePacs]:
    with fake_pacs() as found:
        yield found


def add(pacs: FakePacs, folder: Path, count: int) -> list[str]:
    """Adds series to a PACS, whose names begin with their number; returns their UIDs."""
    files = write_series(folder / "files", upright(ARRAY))
    return [pacs.add(files, series=f"1.2.{n}", study=f"1.3.{n}") for n in range(1, count + 1)]


def fetches(pacs: FakePacs) -> list[str]:
    """Returns the series that were fetched as a whole."""
    return [path.rpartition("/")[2] for path in pacs.asked if path.rpartition("/")[0].endswith("/series")]


def worklist_of(datastore: PacsDatastore, folder: Path) -> Worklist:
    return Worklist(datastore, CaseTable(datastore, ScoreTable(folder / "t.sqlite"), ("unet_3d",)).states)


def listed(pacs: FakePacs, folder: Path) -> PacsDatastore:
    """Returns a datastore that has listed the series of the PACS."""
    datastore = datastore_of(pacs, folder)
    assert datastore.list_images()
    return datastore


def test_patients_dates_and_descriptions_come_from_the_list_of_the_pacs(pacs: FakePacs, tmp_path: Path) -> None:
    first, second = add(pacs, tmp_path, 2)
    pacs.series[0] |= {
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^<b>Jane</b>", "Ideographic": "x"}]},
        "00100020": {"vr": "LO", "Value": ["P 7\n"]},
        "00080020": {"vr": "DA", "Value": ["20260930"]},
        "00081030": {"vr": "LO", "Value": ["Follow-up"]},
    }
    pacs.series[1] |= {"00100010": {"vr": "PN", "Value": [{"Alphabetic": ["x"]}]}, "00080020": {"Value": ["soon"]}}
    datastore = listed(pacs, tmp_path)
    page = worklist_of(datastore, tmp_path).page(Query(sort="patient"), KIM)
    rows = {row["study"]: row for row in page["rows"]}
    about = rows[first]
    assert (about["patient"], about["date"]) == ("Doe <b>Jane</b> · P 7", "2026-09-30")
    assert about["description"] == "abdomen · Follow-up"
    assert about["viewer"] == f"/ohif/monai-label?StudyInstanceUIDs=1.3.1&SeriesInstanceUIDs={first}"
    assert (rows[second]["patient"], rows[second]["date"], rows[second]["action"]) == (second, "", "segment")
    assert fetches(pacs) == []
    asked = [path for path in pacs.asked if path.partition("?")[0].endswith("/series")]
    assert all(f"includefield={name}" in asked[0] for name in ("PatientName", "StudyDescription", "SeriesDescription"))


def test_predictions_have_their_confidence_on_the_worklist_and_in_the_viewer(pacs: FakePacs, tmp_path: Path) -> None:
    (series,) = add(pacs, tmp_path, 1)
    pacs.series[0] |= {"00100020": {"vr": "LO", "Value": ["P 7"]}, "00080020": {"vr": "DA", "Value": ["20260930"]}}
    datastore = listed(pacs, tmp_path)
    file = label_for(datastore, series, tmp_path)
    reports = PredictionStore(WorkFolder(tmp_path / "work"), datastore.store)  # as the models of a server store them
    result = Segmentation(read_labels(file), Report(confidence={"liver": 0.25}))
    reports.save("unet_3d", series, Path(datastore.get_image_uri(series)), {}, result)
    (row,) = worklist_of(datastore, tmp_path).page(Query(), KIM)["rows"]
    assert (row["confidence"], row["check"]) == (0.25, [["liver", 0.25]])
    case = AnnotatedCase(datastore, Drafts(datastore.store, 10**6), series)
    assert [version["confidence"] for version in case.versions()] == [{"6": 0.25}]
    assert case.title == "P 7 · abdomen · 2026-09-30"


def test_a_job_is_named_by_its_patient(pacs: FakePacs, tmp_path: Path) -> None:
    (series,) = add(pacs, tmp_path, 1)
    pacs.series[0]["00100020"] = {"vr": "LO", "Value": ["P 7"]}
    datastore = listed(pacs, tmp_path)
    learner: Any = SimpleNamespace(problems=dict, progress=lambda: (0, 0))
    table = ScoreTable(tmp_path / "t.sqlite")
    parts = WorklistParts(datastore, {}, table, learner, Drafts(datastore.store, 10**6), CHECK, False, 10**6)
    assert parts.titles() == {series: "P 7"}


def test_the_list_is_not_requested_for_each_page_and_a_slow_pacs_delays_no_page(pacs: FakePacs, tmp_path: Path) -> None:
    add(pacs, tmp_path, 2)
    worklist = worklist_of(listed(pacs, tmp_path), tmp_path)
    pacs.hangs = True
    for _ in range(20):
        assert worklist.page(Query(), KIM)["total"] == 2
    assert len(pacs.asked) == 1


def test_an_erased_series_is_not_listed_and_the_list_is_computed_once(pacs: FakePacs, tmp_path: Path) -> None:
    first, second = add(pacs, tmp_path, 2)
    datastore = listed(pacs, tmp_path)
    datastore.store.erased.add(first, barred=True)
    shown = datastore.listed()
    assert shown is not None
    assert list(shown) == [second]
    assert datastore.listed() is shown
    datastore.store.erased.readmit(first)
    assert set(datastore.listed() or ()) == {first, second}


def test_the_name_of_a_patient_is_not_stored_with_a_fetched_image(pacs: FakePacs, tmp_path: Path) -> None:
    (series,) = add(pacs, tmp_path, 1)
    pacs.series[0] |= {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]}}
    datastore = listed(pacs, tmp_path)
    datastore.get_image_uri(series)
    assert "PatientName" not in datastore.store.image(series).info  # exported data sets contain this information
    assert "Doe" not in json.dumps(datastore.json())
    assert worklist_of(datastore, tmp_path).page(Query(), KIM)["rows"][0]["patient"] == "Doe Jane"


def test_a_stored_list_of_an_earlier_version_can_be_read(tmp_path: Path) -> None:
    def away() -> list[Any]:
        raise UnavailableError("PACS", "does not answer.", "Start it.")

    old = {"StudyInstanceUID": "1.3", "SeriesInstanceUID": "1.2", "PatientID": "7", "StudyDate": "20260102", "Modality": "CT"}
    (tmp_path / "series.json").write_text(json.dumps([old | {"SeriesDescription": "abdomen"}]))
    found = SeriesList(away, tmp_path / "series.json").last()
    assert found is not None
    assert (found["1.2"]["PatientID"], found["1.2"]["PatientName"]) == ("7", "")


def shown_problem(team: Team, datastore: PacsDatastore) -> tuple[int, str]:
    """Returns the number of cases and the problem of the PACS in the summary, after the list was requested again."""
    datastore._list._asked = datastore._list._tried = float("-inf")  # as if the list were old
    datastore._list.find("1.2.99")  # waits for the answer
    answer = team.ask("ann", "summary")
    assert not any(secret in answer.text for secret in ("127.0.0.1", "secret", "dicom-web"))
    return answer.json()["total"], answer.json()["pacs_problem"]


@pytest.mark.parametrize("status", [401, 500])
def test_the_summary_says_that_the_pacs_refuses_its_list_until_it_lists_again(
    pacs: FakePacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    add(pacs, tmp_path, 2)
    datastore = datastore_of(pacs, tmp_path)
    team = Team(datastore, ScoreTable(tmp_path / "t.sqlite"), tmp_path, monkeypatch)
    pacs.list_status = status
    assert shown_problem(team, datastore) == (0, UNUSABLE)
    assert not datastore.web.breaker.open
    pacs.list_status = 200
    assert shown_problem(team, datastore) == (2, "")
    pacs.list_status = status
    assert shown_problem(team, datastore) == (2, UNUSABLE)


def test_the_summary_says_that_the_pacs_does_not_answer_until_it_does(
    pacs: FakePacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(pacs, tmp_path, 2)
    away = DicomWeb("http://kim:secret@127.0.0.1:9/dicom-web", limits=QUICK)  # refuses connections
    datastore = PacsDatastore(away, tmp_path / "work")
    team = Team(datastore, ScoreTable(tmp_path / "t.sqlite"), tmp_path, monkeypatch)
    assert shown_problem(team, datastore) == (0, SILENT)
    datastore.web = DicomWeb(pacs.url, limits=QUICK)
    assert shown_problem(team, datastore) == (2, "")
    datastore.web = away
    assert shown_problem(team, datastore) == (2, SILENT)


def test_the_summary_says_that_the_first_list_has_not_arrived(
    pacs: FakePacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datastore = datastore_of(pacs, tmp_path)
    team = Team(datastore, ScoreTable(tmp_path / "t.sqlite"), tmp_path, monkeypatch)
    pacs.hangs = True
    assert team.ask("kim", "summary").json()["pacs_problem"] == "The PACS has not listed its CTs yet."
    until(lambda: team.ask("kim", "summary").json()["pacs_problem"] == SILENT, 10, "the query is not given up")


def test_a_list_that_cannot_be_stored_is_no_problem_of_the_pacs(tmp_path: Path) -> None:
    found = SeriesList(lambda: [listed_series("1.2")], tmp_path)  # a folder, not a file
    assert found.find("1.2") is not None
    assert found.failure(silent=False) == ""


def test_others_are_told_of_a_list_that_cannot_be_stored_and_their_errors_do_not_count(tmp_path: Path) -> None:
    told = list[bool]()

    def changed() -> None:
        told.append((tmp_path / "list.json").is_file())
        raise RuntimeError("not ready")

    for file, stored in ((tmp_path, False), (tmp_path / "list.json", True)):
        found = SeriesList(lambda: [listed_series("1.2")], file)
        found.changed = changed
        assert found.find("1.2") is not None
        assert told.pop() == stored, "the list is stored first"
        assert found.failure(silent=False) == ""


def test_the_reason_why_there_is_no_list_is_not_said_twice(
    pacs: FakePacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datastore = datastore_of(pacs, tmp_path)
    monkeypatch.setattr(SeriesList, "get", lambda _: None)
    monkeypatch.setattr(SeriesList, "find", lambda *_: None)
    for reason, shown in ((NEVER_LISTED, ""), ("", ""), (SILENT, f" ({SILENT.rstrip('.')})")):
        monkeypatch.setattr(datastore, "list_failure", lambda reason=reason: reason)
        with pytest.raises(UnavailableError) as caught:
            datastore._about_series("1.2")
        assert caught.value.problem == f"has not listed its series{shown}."


def test_a_picture_of_a_series_that_is_not_fetched_needs_one_object(pacs: FakePacs, tmp_path: Path) -> None:
    (series,) = add(pacs, tmp_path, 1)
    pictures = CasePictures(listed(pacs, tmp_path), ("unet_3d",), CHECK, 10**7)
    wanted = pictures.find(series)
    assert (wanted.image, wanted.file) == (None, None)
    file = pictures.draw(wanted)
    assert file is not None
    objects = [path.rpartition("/")[2] for path in pacs.asked if path.rpartition("/")[0].endswith("/instances")]
    headers = [pydicom.dcmread(BytesIO(part), stop_before_pixels=True) for part in pacs.objects[series]]
    middle = sorted(headers, key=lambda header: int(header.InstanceNumber))[len(headers) // 2]
    assert objects == [middle.SOPInstanceUID]
    assert fetches(pacs) == []
    values = (ARRAY[0].shape[1], ARRAY[0].shape[0])
    width, height = Image.open(file).size
    assert max(width, height) == 320
    assert width / height == pytest.approx(values[0] / values[1], rel=0.5)
    assert pictures.draw(pictures.find(series)) == file
    assert len(objects) == 1


@pytest.mark.parametrize("what", [b"not DICOM", b"\0" * 128 + b"DICM" + b"x" * 1000, b""])
def test_a_hostile_object_gives_no_picture_and_is_not_fetched_again_at_once(
    pacs: FakePacs, tmp_path: Path, what: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (series,) = add(pacs, tmp_path, 1)
    monkeypatch.setattr("app.fake_pacs._uid", lambda part: "1.9")
    monkeypatch.setattr("app.fake_pacs._instances", lambda _: [{"00080018": {"Value": ["1.9"]}}, {"00080018": 7}, "x", None])
    pacs.objects[series] = [what]
    pictures = CasePictures(listed(pacs, tmp_path), (), CHECK, 10**7)
    assert [pictures.draw(pictures.find(series)) for _ in range(3)] == [None] * 3
    assert len([path for path in pacs.asked if path.endswith("/instances/1.9")]) == 1


def test_a_pacs_that_does_not_answer_gives_no_picture(pacs: FakePacs, tmp_path: Path) -> None:
    (series,) = add(pacs, tmp_path, 1)
    pictures = CasePictures(listed(pacs, tmp_path), (), CHECK, 10**7)
    pacs.hangs = True
    assert pictures.draw(pictures.find(series)) is None
    asked = len(pacs.asked)
    assert pictures.draw(pictures.find(series)) is None
    assert len(pacs.asked) <= asked + 1  # a probe


def test_a_query_for_a_picture_that_is_never_answered_ends_soon(pacs: FakePacs, tmp_path: Path) -> None:
    (series,) = add(pacs, tmp_path, 1)
    pacs.hangs_at = "/instances"
    web = DicomWeb(pacs.url, limits=DicomWebLimits(connect=0.5, slice_seconds=1.0))
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        web.fetch_middle("1.3.1", series, tmp_path)
    assert time.monotonic() - began < 10


def test_a_new_list_of_the_pacs_is_in_the_worklist_before_anybody_asks(pacs: FakePacs, tmp_path: Path) -> None:
    names = add(pacs, tmp_path, 2)
    datastore = datastore_of(pacs, tmp_path)
    learner: Any = SimpleNamespace(problems=dict, progress=lambda: (0, 0))
    table = ScoreTable(tmp_path / "t.sqlite")
    parts = WorklistParts(datastore, {}, table, learner, Drafts(datastore.store, 10**6), CHECK, False, 10**6)
    parts.warm()
    until(lambda: set(parts._table._states) == set(names), 10, "the list was not read at the start")
    series = add(pacs, tmp_path, 3)[2]
    datastore._list._asked = float("-inf")  # the list is old
    datastore._list._tried = float("-inf")
    assert datastore.listed() is not None
    until(lambda: series in parts._table._states, 10, "the new list was not read in the background")
