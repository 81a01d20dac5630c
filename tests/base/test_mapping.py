"""Functions applied to many arguments in threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest
import torch

from medsam2_atlas.atlas import ReferenceFiles
from medsam2_atlas.base import mapping
from medsam2_atlas.base.mapping import in_turn, side_by_side
from medsam2_atlas.imaging.volume import read_volume
from medsam2_atlas.registration import WorkImage, build_common_space, registration_config

_NAME = ContextVar("name", default="nobody")


def test_results_are_those_of_the_calls_in_turn() -> None:
    numbers = [(number, 5) for number in range(20)]
    assert dict(side_by_side(3)(max, numbers)) == dict(in_turn(max, numbers))


def test_as_many_calls_as_cpus_run_at_the_same_time_but_few_on_a_large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus, expected in ((1, 1), (3, 3), (64, 4)):
        counts: list[int] = []
        monkeypatch.setattr(mapping, "processors", lambda cpus=cpus: cpus)
        monkeypatch.setattr(
            mapping, "ThreadPoolExecutor", lambda count, counts=counts: counts.append(count) or ThreadPoolExecutor(count)
        )
        assert dict(side_by_side()(max, [(1, 2)])) == {0: 2}
        assert counts == [expected]


def test_calls_run_at_the_same_time_in_the_context_of_the_caller() -> None:
    both = threading.Barrier(2, timeout=20)

    def call() -> tuple[str, int]:
        both.wait()  # breaks if the other call does not run
        return _NAME.get(), torch.get_num_threads()

    token = _NAME.set("somebody")
    try:
        assert dict(side_by_side(2)(call, [(), ()])) == dict.fromkeys(range(2), ("somebody", 1))
    finally:
        _NAME.reset(token)


def test_an_error_ends_the_calls_that_have_not_begun() -> None:
    begun = []

    def call(number: int) -> float:
        begun.append(number)
        return 1 / number

    with pytest.raises(ZeroDivisionError):
        list(side_by_side(1)(call, [(number,) for number in range(50)]))
    assert len(begun) < 50


def test_a_caller_that_gives_up_gets_its_threads_of_pytorch_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        results = side_by_side(2)(max, [(1, 2)] * 4)
        next(results)
        results.close()  # type: ignore[attr-defined]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_common_space_does_not_depend_on_the_number_of_registrations_at_the_same_time(
    references: list[ReferenceFiles],
) -> None:
    config = registration_config()
    config = config.model_copy(update={"spacing": 12.0, "group": config.group.model_copy(update={"rounds": 2})})
    images = [WorkImage.of(read_volume(files.image), config.spacing, config.image) for files in references[:3]]
    one, other = (build_common_space(images, config, mapped=side_by_side(count)) for count in (1, 3))
    assert torch.equal(one.template.hu, other.template.hu)
