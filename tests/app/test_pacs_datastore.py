"""Tests the datastore of a PACS in this process, with a PACS that misbehaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from app.fake_pacs import FakePacs, fake_pacs, listed
from datastores import pacs_datastore
from datastores.pacs_datastore import PacsDatastore
from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, NotFoundError, StorageError, UnavailableError
from medsam2_atlas.dicom import LabelOrigin, uid_folder_name, write_seg
from medsam2_atlas.dicom.multipart import MultipartLimits
from medsam2_atlas.dicom.web import DicomWeb, DicomWebLimits
from medsam2_atlas.imaging.volume import read_labels, read_volume, write_volume
from series_files import compress, upright, write_enhanced, write_series

ARRAY = np.random.default_rng(2).integers(-1000, 1000, (6, 20, 24))
QUICK = DicomWebLimits(connect=0.5, pause=1.0, series_pause=1.0, list_seconds=2.0, series_seconds=4.0, store_seconds=2.0)
AWAY = "http://127.0.0.1:9/dicom-web"


@pytest.fixture
def pacs() -> Iterator[FakePacs]:
    with fake_pacs() as found:
        yield found


def datastore_of(pacs: FakePacs, folder: Path, limits: DicomWebLimits = QUICK) -> PacsDatastore:
    return PacsDatastore(DicomWeb(pacs.url, limits=limits), folder / "work")


def label_for(datastore: PacsDatastore, series: str, folder: Path, organ: int = 6) -> Path:
    image = read_volume(datastore.get_image_uri(series))
    array = np.zeros(image.array.shape, np.uint8)
    array[1:4, 2:9, 3:12] = organ
    file = folder / f"label-{organ}.nii.gz"
    write_volume(image.with_array(array), file)
    return file


def pacs_state(datastore: PacsDatastore, series: str) -> dict[str, Any]:
    state: dict[str, Any] = datastore.get_label_info(series, "final")["pacs"]
    return state


def test_a_series_uid_cannot_lead_out_of_the_folder(pacs: FakePacs, tmp_path: Path) -> None:
    series = pacs.add(write_series(tmp_path / "a", upright(ARRAY)))
    files = write_series(tmp_path / "b", upright(ARRAY))
    for name in ("..", ".", "../store", "a/b", "1..2", "1" * 65):
        pacs.add(files, series=name, study="1.2.3")
    pacs.add(files, series="1.2.4", study="../..")
    pacs.series += [listed(True), listed(["1.2"]), {}, None, "text", {"0020000E": "1.2"}, listed("\ud800"), listed("")]
    datastore = datastore_of(pacs, tmp_path)
    datastore.get_image_uri(series)
    assert datastore.list_images() == [series]
    assert {"'..'", "'../store'"} <= set(datastore.problems())
    before = sorted(str(file) for file in (tmp_path / "work").rglob("*"))
    for name in ("..", ".", "../store", "a/b", "1..2", "1.2.4"):
        with pytest.raises(NotFoundError):
            datastore.get_image_uri(name)
    assert sorted(str(file) for file in (tmp_path / "work").rglob("*")) == before
    assert not [path for path in pacs.asked if ".." in path]


@pytest.mark.parametrize("compressor", ["JPEG2000", "JPEG"])
def test_a_compressed_series_is_fetched_and_decoded(pacs: FakePacs, tmp_path: Path, compressor: str) -> None:
    plain = read_volume(write_series(tmp_path / "a", upright(ARRAY))[0].parent)
    pacs.syntaxes = "strict"
    files = sorted((tmp_path / "a").iterdir())
    for file in files:
        compress(file, compressor)
    series = pacs.add(files)
    datastore = datastore_of(pacs, tmp_path)
    image = read_volume(datastore.get_image_uri(series))
    assert (image.array == plain.array).all()
    label = label_for(datastore, series, tmp_path)
    datastore.save_label(series, str(label), "final", {})
    assert pacs_state(datastore, series)["state"] == "sent"
    assert "liver" in str(datastore.rtstruct(series, "final").StructureSetROISequence).lower()


def test_the_transfer_syntax_is_omitted_for_a_server_that_refuses_it(pacs: FakePacs, tmp_path: Path) -> None:
    pacs.syntaxes = "old"
    series = [pacs.add(write_series(tmp_path / name, upright(ARRAY))) for name in ("a", "b")]
    datastore = datastore_of(pacs, tmp_path)
    for uid in series:
        datastore.get_image_uri(uid)
    assert [sum(path.endswith(uid) for path in pacs.asked) for uid in series] == [2, 1]


def test_folders_are_named_by_a_hash_and_old_ones_are_renamed(pacs: FakePacs, tmp_path: Path) -> None:
    series = pacs.add(write_series(tmp_path / "a", upright(ARRAY)))
    datastore = datastore_of(pacs, tmp_path)
    file = label_for(datastore, series, tmp_path)
    folder = tmp_path / "work" / "series" / uid_folder_name(series)
    assert len(list(folder.iterdir())) == len(ARRAY)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    folder.rename(folder.with_name(series))  # the name in program versions up to 0.9
    asked = len(pacs.asked)
    assert datastore.save_person_label(series, file, "final", {}).label.version.info["pacs"]["state"] == "sent"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert not [path for path in pacs.asked[asked:] if f"series/{series}" in path]


def test_an_enhanced_ct_is_fetched_and_its_label_map_is_sent(pacs: FakePacs, tmp_path: Path) -> None:
    files = write_enhanced(tmp_path / "a", upright(ARRAY), order=[3, 0, 5, 1, 4, 2], files=2)
    series = pacs.add(files)
    datastore = datastore_of(pacs, tmp_path)
    assert (read_volume(datastore.get_image_uri(series)).array == ARRAY).all()
    label = label_for(datastore, series, tmp_path)
    assert datastore.save_person_label(series, label, "final", {}).label.version.info["pacs"]["state"] == "sent"

    sent, seg = pacs.stored[0], tmp_path / "sent.dcm"
    start = sent.index(b"DICM") - 128
    seg.write_bytes(sent[start : sent.rindex(b"\r\n--")])
    uids = {pydicom.dcmread(file).SOPInstanceUID for file in files}
    (named,) = pydicom.dcmread(seg).ReferencedSeriesSequence
    assert {item.ReferencedSOPInstanceUID for item in named.ReferencedInstanceSequence} == uids
    found = datastore.read_seg(seg)  # as if a viewer had stored it
    assert (found.study, (read_labels(found.file).array == read_labels(label).array).all()) == (series, True)
    found.file.unlink()
    regions = datastore.rtstruct(series, "final").ROIContourSequence
    outlined = [contour for region in regions for contour in region.get("ContourSequence", ())]
    assert {contour.ContourImageSequence[0].ReferencedFrameNumber for contour in outlined} <= {1, 2, 3}


def test_removed_files_are_fetched_again(pacs: FakePacs, tmp_path: Path) -> None:
    series = pacs.add(write_series(tmp_path / "a", upright(ARRAY)))
    datastore = datastore_of(pacs, tmp_path)
    file = label_for(datastore, series, tmp_path)
    folder = tmp_path / "work" / "series" / uid_folder_name(series)
    folder.rename(tmp_path / "away")
    assert datastore.save_person_label(series, file, "final", {}).label.version.info["pacs"]["state"] == "sent"
    assert folder.is_dir()


def test_a_series_is_fetched_once_for_all_callers(pacs: FakePacs, tmp_path: Path) -> None:
    series = pacs.add(write_series(tmp_path / "a", upright(ARRAY)))
    datastore = datastore_of(pacs, tmp_path)
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: datastore.get_image_uri(series), range(8)))) == 1
    assert len([path for path in pacs.asked if path.endswith(f"series/{series}")]) == 1


def test_a_hanging_pacs_does_not_delay_fetched_series(pacs: FakePacs, tmp_path: Path) -> None:
    series = pacs.add(write_series(tmp_path / "a", upright(ARRAY)))
    datastore = datastore_of(pacs, tmp_path, DicomWebLimits())
    file = label_for(datastore, series, tmp_path)
    datastore._list._asked = float("-inf")  # as if the list were old
    pacs.hangs = True
    began = time.monotonic()
    for _ in range(3):
        assert datastore.list_images() == [series]
        assert datastore.status()["total"] == 1
        assert datastore.get_unlabeled_images() == [series]
        assert datastore.get_image_info(series)["SeriesInstanceUID"] == series
        assert datastore.get_image_uri(series)
    assert time.monotonic() - began < 1.5
    began = time.monotonic()
    saved = datastore.save_person_label(series, file, "final", {"user": "kim"})
    assert time.monotonic() - began < 8
    assert saved.label.version.info["pacs"]["state"] == "pending"
    assert saved.label.version.info["pacs"]["problem"]


def test_the_number_of_callers_that_wait_for_a_hanging_pacs_is_limited(pacs: FakePacs, tmp_path: Path) -> None:
    for n in range(6):
        pacs.add(write_series(tmp_path / str(n), upright(ARRAY)))
    datastore = datastore_of(pacs, tmp_path, DicomWebLimits(series_pause=2.0))
    series = datastore.list_images()
    pacs.hangs = True

    def fetch(n: int) -> float:
        began = time.monotonic()
        with pytest.raises(StorageError):
            datastore.get_image_uri(series[n % 6])
        return time.monotonic() - began

    with ThreadPoolExecutor(40) as pool:
        seconds = sorted(pool.map(fetch, range(40)))
    assert seconds[11] < 1.0
    assert seconds[-1] < 8.0
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        datastore.get_image_uri(series[0])
    assert time.monotonic() - began < 0.5


def test_fetched_series_are_served_after_a_restart_without_the_pacs(pacs: FakePacs, tmp_path: Path) -> None:
    series = pacs.add(write_series(tmp_path / "a", upright(ARRAY)))
    other = pacs.add(write_series(tmp_path / "b", upright(ARRAY)))
    datastore = datastore_of(pacs, tmp_path)
    file = label_for(datastore, series, tmp_path)
    for known in ([series, other], [series]):
        again = PacsDatastore(DicomWeb(AWAY, limits=QUICK), tmp_path / "work")
        assert again.list_images() == sorted(known)
        assert again.get_image_uri(series)
        assert again.save_person_label(series, file, "final", {}).label.version.info["pacs"]["state"] == "pending"
        with pytest.raises(UnavailableError):
            again.get_image_uri(other)
        (tmp_path / "work" / "series.json").write_text("[{]")


def test_a_label_map_of_a_series_without_required_attributes_is_sent(pacs: FakePacs, tmp_path: Path) -> None:
    def without_attributes(ds: Dataset, n: int) -> None:
        for tag in ("StudyID", "PatientID", "PatientName", "PatientBirthDate", "FrameOfReferenceUID", "SliceThickness"):
            delattr(ds, tag)
        ds.StudyDate = ""

    series = pacs.add(write_series(tmp_path / "a", upright(ARRAY), without_attributes))
    datastore = datastore_of(pacs, tmp_path)
    saved = datastore.save_person_label(series, label_for(datastore, series, tmp_path), "final", {"user": "a\\b"})
    assert saved.label.version.info["pacs"]["state"] == "sent"
    assert len(pacs.stored) == 1


@pytest.mark.parametrize(
    "error", [ValueError("no"), AttributeError("StudyID"), MemoryError(), RecursionError(), OSError(28, "full")]
)
def test_a_label_map_that_cannot_be_sent_does_not_stop_the_others(
    pacs: FakePacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    uids = sorted(pacs.add(write_series(tmp_path / str(n), upright(ARRAY))) for n in range(2))
    datastore = datastore_of(pacs, tmp_path)

    def failing(labels: Any, headers: list[Dataset], origin: LabelOrigin) -> Dataset:
        if headers[0].SeriesInstanceUID == uids[0]:
            raise error
        return write_seg(labels, headers, origin)

    monkeypatch.setattr(pacs_datastore, "write_seg", failing)
    pacs.store_status = 503
    for series in uids:
        saved = datastore.save_person_label(series, label_for(datastore, series, tmp_path), "final", {})
        assert saved.label.version.info["pacs"]["state"] == "pending"
        assert saved.label.version.info["pacs"]["problem"]
    pacs.store_status = 200
    datastore._sender._failures.clear()  # as if enough time had passed
    datastore.send_pending()
    assert [pacs_state(datastore, series)["state"] for series in uids] == ["pending", "sent"]
    monkeypatch.undo()
    datastore._sender._failures.clear()
    datastore.send_pending()
    assert pacs_state(datastore, uids[0])["state"] == "sent"


def test_errors_do_not_end_the_sending_thread(pacs: FakePacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datastore, stop, called = datastore_of(pacs, tmp_path), threading.Event(), threading.Semaphore(0)

    def broken() -> None:
        called.release()
        raise KeyError("labels")

    monkeypatch.setattr(pacs_datastore, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(datastore, "send_pending", broken)
    thread = threading.Thread(target=datastore.keep_sending, args=(stop,))
    thread.start()
    assert all(called.acquire(timeout=5) for _ in range(3))
    stop.set()
    thread.join(5)
    assert not thread.is_alive()


def test_a_label_map_is_saved_even_if_its_pacs_state_cannot_be_recorded(
    pacs: FakePacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = pacs.add(write_series(tmp_path / "a", upright(ARRAY)))
    datastore = datastore_of(pacs, tmp_path)

    def full(*args: Any) -> None:
        raise StorageError(series, "cannot be described: No space left on device.")

    monkeypatch.setattr(datastore.store, "update_label_info", full)
    saved = datastore.save_person_label(series, label_for(datastore, series, tmp_path), "final", {})
    assert saved.label.version.info["pacs"]["state"] == "sent"
    datastore.send_pending()  # sends it again, as the same instance
    first, second = (body[body.index(b"DICM") :] for body in pacs.stored)
    uid = saved.label.version.info["pacs"]["instance"].encode()
    assert uid in first and uid in second


def test_a_removed_label_map_is_not_sent(pacs: FakePacs, tmp_path: Path) -> None:
    series = pacs.add(write_series(tmp_path / "a", upright(ARRAY)))
    datastore = datastore_of(pacs, tmp_path)
    pacs.store_status = 500
    datastore.save_person_label(series, label_for(datastore, series, tmp_path), "final", {})
    datastore.remove_label(series, "final")
    pacs.store_status = 200
    datastore.send_pending()
    assert datastore._sender.send(series) == {}
    assert not pacs.stored
    saved = datastore.restore_label(series, "final", 1, "lee")
    assert saved.label.version.info["pacs"]["state"] == "sent"
    assert saved.label.version.info["pacs"]["version"] == saved.label.version.number


FAILED = b'{"00081198":{"vr":"SQ","Value":[{"00081197":{"vr":"US","Value":[%d]}}]}}'


@pytest.mark.parametrize(
    ("status", "answer", "state"),
    [
        (200, b"", "sent"),
        (200, b"<xml>", "sent"),
        (202, FAILED % 0x0110, "pending"),
        (409, FAILED % 0x0111, "sent"),  # the PACS already has this instance
        (409, b"", "pending"),
        (500, b"", "pending"),
        (200, b'{"00081198":{"vr":"SQ","Value":[7]}}', "pending"),
        (200, b"[[[", "sent"),
    ],
)
def test_the_state_of_a_label_map_depends_on_the_answer_of_the_pacs(
    pacs: FakePacs, tmp_path: Path, status: int, answer: bytes, state: str
) -> None:
    series = pacs.add(write_series(tmp_path / "a", upright(ARRAY)))
    datastore = datastore_of(pacs, tmp_path)
    pacs.store_status, pacs.store_answer = status, answer
    saved = datastore.save_person_label(series, label_for(datastore, series, tmp_path), "final", {})
    assert saved.label.version.info["pacs"]["state"] == pacs_state(datastore, series)["state"] == state


def test_an_unusable_series_is_reported_and_not_fetched_again_at_once(pacs: FakePacs, tmp_path: Path) -> None:
    series = pacs.add(write_series(tmp_path / "a", upright(ARRAY))[:1])
    datastore = datastore_of(pacs, tmp_path)
    for _ in range(3):
        with pytest.raises(InputError, match="one slice") as caught:
            datastore.get_image_uri(series)
        assert caught.value.subject == series
    assert "one slice" in datastore.problems()[series]["image"]
    assert len([path for path in pacs.asked if path.endswith(f"series/{series}")]) == 1
    assert not list((tmp_path / "work" / "series").iterdir())


def test_a_series_that_is_too_large_is_refused(pacs: FakePacs, tmp_path: Path) -> None:
    series = pacs.add(write_series(tmp_path / "a", upright(ARRAY)))
    for limits in (MultipartLimits(3, 10**9, 10**9), MultipartLimits(99, 500, 10**9), MultipartLimits(99, 10**9, 2000)):
        datastore = datastore_of(pacs, tmp_path, DicomWebLimits(series=limits))
        with pytest.raises(InputError):
            datastore.get_image_uri(series)


def test_a_malformed_segmentation_is_refused(pacs: FakePacs, tmp_path: Path) -> None:
    files = write_series(tmp_path / "a", upright(ARRAY))
    series = pacs.add(files)
    datastore = datastore_of(pacs, tmp_path)
    image = read_volume(datastore.get_image_uri(series))
    array = np.zeros(image.array.shape, np.uint8)
    array[1:4, 2:9, 3:12] = 6
    seg = write_seg(image.with_array(array).restored(), tmp_path / "a", LabelOrigin("x", 1))
    good = tmp_path / "seg.dcm"
    seg.save_as(good, enforce_file_format=True)
    stored = datastore.read_seg(good)
    assert (read_volume_labels(stored.file) == array).all()
    content, random = bytearray(good.read_bytes()), np.random.default_rng(1)
    for n in range(40):
        changed = bytearray(content)
        for place in random.integers(132, len(content), 1 + n % 7):
            changed[place] = random.integers(256)
        if n % 5 == 0:
            changed = changed[: int(random.integers(0, len(changed)))]
        bad = tmp_path / f"bad-{n}.dcm"
        bad.write_bytes(changed)
        with suppress(InputError):
            datastore.read_seg(bad).file.unlink()


def test_a_segmentation_of_a_new_series_is_accepted(pacs: FakePacs, tmp_path: Path) -> None:
    datastore = datastore_of(pacs, tmp_path)
    assert datastore.list_images() == []
    files = write_series(tmp_path / "a", upright(ARRAY))
    series = pacs.add(files)
    seg = write_seg(
        read_volume(tmp_path / "a").with_array(np.zeros(ARRAY.shape, np.uint8)).restored(), tmp_path / "a", LabelOrigin("x", 1)
    )
    seg.ReferencedSeriesSequence.append(Dataset())
    seg.ReferencedSeriesSequence[-1].SeriesInstanceUID = "1.2.3"
    seg.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    datastore._list._asked = datastore._list._tried = time.monotonic() - 5  # as if the list were a few seconds old
    stored = datastore.read_seg(tmp_path / "seg.dcm")
    assert stored.study == series
    stored.file.unlink()


def read_volume_labels(file: Path) -> np.ndarray:
    from medsam2_atlas.imaging.volume import read_labels

    return read_labels(file).array


def test_the_store_raises_only_errors_of_the_project(pacs: FakePacs, tmp_path: Path) -> None:
    pacs.series = [listed("1.2.3")]
    pacs.objects = {"1.2.3": [b"", b"DICM", b"\x02\x00 garbage", bytes(200)]}
    with pytest.raises(MedSAM2AtlasError):
        datastore_of(pacs, tmp_path).get_image_uri("1.2.3")
