"""The cache of decoded CTs that viewers of a studies folder use."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from datastores import folder_datastore, folder_instances
from datastores.byte_cache import ByteCache
from datastores.folder_datastore import FolderDatastore
from medsam2_atlas.base.errors import InputError, NotFoundError, UnavailableError
from medsam2_atlas.dicom import write_seg
from medsam2_atlas.dicom.instances import decode_ct
from medsam2_atlas.storage import FINAL
from oriented_files import direction_of, small_ct

BYTES = 9 * 7 * 6 * 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a", "b", "c")):
        sitk.WriteImage(small_ct(direction_of("LPS"), seed), str(tmp_path / f"{name}.nii.gz"))
    return tmp_path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns the names of the files that are decoded from now on; decoding takes a moment."""
    names: list[str] = []

    def decode(file: Path) -> Any:
        names.append(file.name)
        time.sleep(0.1)
        return decode_ct(file)

    monkeypatch.setattr(folder_instances, "decode_ct", decode)
    return names


def test_many_requests_at_once_decode_a_ct_once(folder: Path, decoded: list[str]) -> None:
    instances = FolderDatastore(folder).instances
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: instances.open("a"), range(8)))
    assert decoded == ["a.nii.gz"]
    assert all(one is opened[0] for one in opened)
    assert instances.held("a") is opened[0]


def test_cts_are_kept_up_to_the_limit_and_the_last_one_always(folder: Path, decoded: list[str]) -> None:
    instances = FolderDatastore(folder, viewer_bytes=2 * BYTES).instances
    for study in ("a", "b", "c"):
        instances.open(study)
    assert [instances.held(study) is not None for study in ("a", "b", "c")] == [False, True, True]
    small = FolderDatastore(folder, viewer_bytes=1).instances
    small.open("a")
    small.open("b")
    assert [small.held(study) is not None for study in ("a", "b")] == [False, True]


def test_the_entry_used_longest_ago_leaves_the_cache_first() -> None:
    cache: ByteCache[bytes] = ByteCache(10, len)
    cache.put("a", b"12345")
    cache.put("b", b"12345")
    assert cache.get("a") == b"12345"
    cache.put("c", b"1")
    assert [cache.get(name) is not None for name in "abc"] == [True, False, True]
    cache.put("a", b"1")
    cache.put("d", b"12345678")
    assert [cache.get(name) is not None for name in "acd"] == [True, True, True]
    cache.clear()
    assert cache.get("a") is None


def test_a_replaced_file_is_decoded_again_under_new_instance_uids(folder: Path) -> None:
    instances = FolderDatastore(folder).instances
    before = instances.open("a").series
    sitk.WriteImage(small_ct(direction_of("RAI"), 9), str(folder / "a.nii.gz"))
    assert instances.held("a") is None
    after = instances.open("a").series
    assert before.about == after.about
    assert before.uid(1) != after.uid(1)
    assert instances.series("a").uid(1) == after.uid(1)


def test_forgetting_closes_all_cts(folder: Path) -> None:
    datastore = FolderDatastore(folder)
    datastore.instances.open("a")
    datastore.forget()
    assert datastore.instances.held("a") is None
    assert datastore.instances.study_of(datastore.instances.uids("b")[1]) == "b"


def test_a_ct_that_is_erased_while_it_is_decoded_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datastore = FolderDatastore(folder)

    def decode(file: Path) -> Any:
        found = decode_ct(file)
        datastore.forget()  # as after an erasure
        return found

    with monkeypatch.context() as patch:
        patch.setattr(folder_instances, "decode_ct", decode)
        assert datastore.instances.open("a").series.count > 0
        assert datastore.instances.held("a") is None
    datastore.instances.open("a")
    assert datastore.instances.held("a") is not None


@pytest.fixture
def signed(folder: Path) -> FolderDatastore:
    """Returns studies of which `a` has a signed-off label map."""
    image = sitk.ReadImage(str(folder / "a.nii.gz"))
    (folder / "labels" / "final").mkdir(parents=True)
    sitk.WriteImage(sitk.Cast(image > 0, sitk.sitkUInt8), str(folder / "labels" / "final" / "a.nii.gz"))
    return FolderDatastore(folder)


def test_many_requests_at_once_write_a_seg_once(signed: FolderDatastore, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def write(*given: Any) -> Any:
        written.append(1)
        time.sleep(0.1)
        return write_seg(*given)

    monkeypatch.setattr(folder_datastore, "write_seg", write)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: signed.seg("a"), range(8)))
    assert len(written) == 1
    assert all(one is found[0] for one in found)


def test_a_seg_that_is_erased_while_it_is_written_is_not_kept(signed: FolderDatastore, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def write(*given: Any) -> Any:
        written.append(1)
        found = write_seg(*given)
        if len(written) == 1:
            signed.forget()
        return found

    monkeypatch.setattr(folder_datastore, "write_seg", write)
    for count in (1, 2, 2):  # the second one is kept
        signed.seg("a")
        assert len(written) == count


def test_a_seg_that_cannot_be_written_is_not_offered_until_the_reason_has_gone(
    signed: FolderDatastore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for error, offered in ((OSError(28, "No space left on device"), True), (ValueError("no frames"), False)):
        with monkeypatch.context() as patch:
            patch.setattr(folder_datastore, "write_seg", lambda *_, error=error: (_ for _ in ()).throw(error))
            assert signed.seg_series("a")
            assert signed.offered_seg("a") is None
            with pytest.raises(type(error)):
                signed.seg("a")
        assert bool(signed.seg_series("a")) == offered
    assert sum("not offered to viewers" in message for message in caplog.messages) == 2
    label = signed.store.label("a", FINAL)
    array = sitk.ReadImage(str(label.file))
    sitk.WriteImage(array * 2, str(label.file))  # the next version
    assert signed.store.label("a", FINAL).version.number == 2
    assert signed.seg_series("a")
    assert signed.offered_seg("a") is not None
    assert signed.offered_seg("b") is None


def test_a_ct_whose_voxels_cannot_be_decoded_is_left_out_until_its_file_changes(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (folder / "b.nii.gz").read_bytes()
    (folder / "b.nii.gz").write_bytes(whole[: len(whole) // 2])
    instances = FolderDatastore(folder).instances
    with caplog.at_level(logging.WARNING), pytest.raises(InputError):
        instances.open("b")
    assert [about.name for about in instances.abouts()] == ["a", "c"]
    assert sum("is not offered to viewers" in message for message in caplog.messages) == 1
    (folder / "b.nii.gz").write_bytes(whole)
    assert [about.name for about in instances.abouts()] == ["a", "b", "c"]


def test_busy_reader_processes_do_not_make_a_study_vanish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instances = FolderDatastore(folder).instances

    def busy(_: Path) -> Any:
        raise UnavailableError("reader processes", "are all busy.", "Try again in a minute.")

    with monkeypatch.context() as patch:
        patch.setattr(folder_instances, "read_grid", busy)
        with pytest.raises(UnavailableError):
            list(instances.abouts())
    assert len(list(instances.abouts())) == 3


def test_unknown_studies_and_uids_are_not_found(folder: Path) -> None:
    instances = FolderDatastore(folder).instances
    with pytest.raises(NotFoundError):
        instances.open("x")
    assert instances.study_of("2.25.7") == ""
    removed = instances.uids("c")[0]
    assert instances.study_of(removed) == "c"
    (folder / "c.nii.gz").unlink()
    with pytest.raises(NotFoundError):
        instances.about(instances.study_of(removed) or "c")
