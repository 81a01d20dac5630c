"""Functions on a cluster: the same results as in turn, in whatever order they end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from medsam2_atlas.atlas import ReferenceFiles
from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.mapping import KilledError, in_turn
from medsam2_atlas.base.processes import ProcessMark
from medsam2_atlas.base.progress import showing
from medsam2_atlas.imaging.volume import read_volume
from medsam2_atlas.registration import UnregisteredError, WorkImage, build_common_space, registration_config

pytest.importorskip("distributed")

from medsam2_atlas.batch import stored_arguments
from medsam2_atlas.batch.cluster_map import ClusterMap
from medsam2_atlas.batch.dask_calls import Call, EndedCall
from medsam2_atlas.batch.stored_arguments import ArgumentStore, unpacked


def backwards(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
    """Calls a function on the last argument first, as a cluster may."""
    yield from reversed(list(in_turn(function, arguments)))


def test_results_and_errors_of_a_local_cluster_are_those_of_the_functions(tmp_path: Path) -> None:
    from medsam2_atlas.batch.cluster_map import cluster_map
    from medsam2_atlas.batch.clusters import Wanted

    with cluster_map("local", Wanted(1, 1), work=tmp_path) as mapped:
        found = dict(mapped(max, [(number, 5) for number in range(20)]))
        assert found == dict(in_turn(max, [(number, 5) for number in range(20)]))
        with pytest.raises(ZeroDivisionError):
            list(mapped(divmod, [(1, 0), *[(number, 1) for number in range(9)]]))
        assert dict(mapped(max, [(number, 7) for number in range(9)])) == dict(enumerate([7] * 8 + [8]))


class OpenTasks:
    """Keeps tasks until they are forgotten; each call of `ended` ends the oldest one, and runs its function."""

    gpus, threads = 0, 2

    def __init__(self) -> None:
        self.open: list[Call] = []

    def submit(self, call: Call) -> None:
        self.open.append(call)

    def ended(self, seconds: float) -> list[EndedCall]:
        call = self.open.pop(0)
        try:
            return [EndedCall(call, call.function(*call.arguments))]
        except ZeroDivisionError as error:
            return [EndedCall(call, error=error)]

    def forget(self) -> None:
        self.open.clear()

    def misses(self, resource: str) -> bool:
        return False


class UnpackedTasks(OpenTasks):
    """Runs each task as a worker does."""

    def ended(self, seconds: float) -> list[EndedCall]:
        call = self.open.pop(0)
        return [EndedCall(call, unpacked(call.arguments[1]))]


def mapping(tasks: Any) -> ClusterMap:
    return ClusterMap(tasks, 1, False, ArgumentStore(Path("unused")))


def test_results_of_a_call_that_was_given_up_are_not_taken_for_those_of_the_next_one() -> None:
    tasks: Any = OpenTasks()
    mapped = mapping(tasks)
    first = mapped(divmod, [(7, 7), (1, 0), (8, 8), (9, 9)])
    with pytest.raises(ZeroDivisionError):
        list(first)
    assert not tasks.open
    left = mapped(divmod, [(1, 1), (2, 1), (3, 1)])
    next(left)
    assert tasks.open
    again = mapped(divmod, [(4, 1), (5, 1)])
    assert next(again) == (0, (4, 0))
    left.close()
    assert list(again) == [(1, (5, 0))]
    assert not list(left)


def test_a_call_that_kills_its_workers_does_not_end_the_others() -> None:
    class Killing(OpenTasks):
        def ended(self, seconds: float) -> list[EndedCall]:
            call = self.open.pop(0)
            return [EndedCall(call, call.name, error=RuntimeError() if call.name == "1" else None, killed=call.name == "1")]

    tasks: Any = Killing()
    found = dict(mapping(tasks)(max, [(1, 2)] * 4))
    assert isinstance(found.pop(1), KilledError) and found == {0: "0", 2: "2", 3: "3"}


def test_a_reference_that_kills_its_workers_is_named(references: list[ReferenceFiles]) -> None:
    config = registration_config()
    images = [WorkImage.of(read_volume(references[0].image), 12.0, config.image)] * 2
    with pytest.raises(UnregisteredError, match=r"image 1 .* was killed"):
        build_common_space(images, config, mapped=lambda *_: iter([(1, KilledError("worker", "was killed."))]))


def test_dasks_log_is_silent_only_while_a_cluster_is_open(tmp_path: Path) -> None:
    from medsam2_atlas.batch.clusters import Wanted, opened

    logger = logging.getLogger("distributed")
    logger.setLevel(logging.INFO)
    with opened("tcp://127.0.0.1:1", Wanted(), None, tmp_path):
        assert logger.level == logging.CRITICAL
    assert logger.level == logging.INFO


def test_threads_go_up_again_in_a_worker_that_lives_on() -> None:
    import SimpleITK as sitk

    from medsam2_atlas.batch.session import limit_threads

    itk = sitk.ProcessObject
    before, own = torch.get_num_threads(), itk.GetGlobalDefaultNumberOfThreads()
    try:
        for threads in (1, own):
            limit_threads(threads)
            assert (torch.get_num_threads(), itk.GetGlobalDefaultNumberOfThreads()) == (threads, threads)
    finally:
        torch.set_num_threads(before)
        itk.SetGlobalDefaultNumberOfThreads(own)


def test_a_common_space_does_not_depend_on_the_order_in_which_registrations_end(references: list[ReferenceFiles]) -> None:
    config = registration_config()
    config = config.model_copy(update={"spacing": 12.0, "group": config.group.model_copy(update={"rounds": 2})})
    images = [WorkImage.of(read_volume(files.image), config.spacing, config.image) for files in references[:3]]
    shown: list[str] = []
    with showing(shown.append):
        one, other = (build_common_space(images, config, mapped=mapped) for mapped in (in_turn, backwards))
    assert "keypoints, image 2 of 3" in shown
    assert torch.equal(one.template.hu, other.template.hu)
    points = one.template.points()[::4, ::4, ::4]
    for first, second in zip(one.transforms, other.transforms, strict=True):
        assert torch.equal(first(points), second(points))


def test_stored_arguments_are_removed_when_a_call_ends_and_are_stored_again_for_the_next_one(tmp_path: Path) -> None:
    work = tmp_path / "work"
    mapped = ClusterMap(cast("Any", UnpackedTasks()), 1, False, ArgumentStore(work))
    for _ in range(2):
        (first, *rest) = mapped(torch.add, [(torch.arange(100_000), number) for number in range(3)])
        assert int(first[1][-1]) == 99_999 and len(rest) == 2
        assert not [*work.iterdir()]


def test_the_arguments_of_other_machines_and_of_living_processes_are_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, boot = tmp_path / "work", tmp_path / "boot"
    monkeypatch.setattr(stored_arguments, "_BOOT", boot)  # all machines have the same inode of the process namespace
    for machine in ("first", "second"):
        boot.write_text(f"{machine}-1\n")
        ArgumentStore(work).packed(torch.neg, (torch.arange(100_000),))
    ArgumentStore(work).close()
    assert len([*work.iterdir()]) == 2  # their process lives
    monkeypatch.setattr(ProcessMark, "alive", False)
    ArgumentStore(work).close()
    assert [folder.name.split("-")[1] for folder in work.iterdir()] == ["first1"]


def test_a_large_argument_is_stored_once_and_read_only_if_nobody_has_changed_it(tmp_path: Path) -> None:
    store, large = ArgumentStore(tmp_path / "work"), torch.arange(100_000)
    calls = [store.packed(torch.add, (large, number)) for number in range(3)]
    assert all(len(call) < 2000 for call in calls)
    (file,) = (file for file in (tmp_path / "work").rglob("*") if file.is_file())
    assert [int(unpacked(call)[-1]) for call in calls] == [99_999, 100_000, 100_001]
    other = store.packed(torch.neg, (large + 1,))
    for found in file.parent.iterdir():
        found.write_bytes(b"evil")
    with pytest.raises(StorageError, match="changed"):
        unpacked(other)
    another = store.packed(torch.neg, (large + 2,))
    store.close()
    assert not (tmp_path / "work").exists()
    with pytest.raises(StorageError, match="cannot be read by a worker"):
        unpacked(another)
