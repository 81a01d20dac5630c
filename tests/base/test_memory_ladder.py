"""The memory ladder repeats a case if a GPU's memory does not suffice, or if the GPU fails."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Sequence

import pytest
import torch

from medsam2_atlas.base import memory
from medsam2_atlas.base.card_problems import Trial
from medsam2_atlas.base.choices import Memory
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.gpu_errors import is_gpu_failure, is_out_of_memory
from medsam2_atlas.base.memory import Ladder, in_parts, ran_on
from pretended_gpu import pretended_gpu

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")

SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 3.94 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1016'),
]
BROKEN = [
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnCreate(handle)`"),
]
OTHERS = [ValueError("CUDA out of memory"), RuntimeError("mat1 and mat2 shapes cannot be multiplied"), InputError("a", "b")]


class Card:
    """A case that fits in some steps only; it records the steps that were tried."""

    def __init__(self, fits: tuple[Memory, ...] = ("cpu",), error: Exception = SHORT[0]) -> None:
        self.fits, self.error, self.tried = fits, error, list[Memory]()

    def __call__(self, step: Memory) -> str:
        self.tried.append(step)
        if step not in self.fits:
            raise self.error
        return f"done {step}"


@pytest.mark.parametrize("error", SHORT, ids=str)
def test_a_lack_of_memory_is_not_mistaken_for_a_gpu_failure(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_gpu_failure(error)


@pytest.mark.parametrize("error", BROKEN, ids=str)
def test_a_gpu_failure_is_not_mistaken_for_a_lack_of_memory(error: Exception) -> None:
    assert is_gpu_failure(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_other_errors_are_passed_on(error: Exception) -> None:
    assert not is_out_of_memory(error)
    assert not is_gpu_failure(error)
    card = Card(error=error)
    with pytest.raises(type(error)):
        Ladder(GPU).run("model", card)
    assert card.tried == [""]


def test_an_error_that_a_library_wraps_is_recognised() -> None:
    try:
        try:
            raise SHORT[0]
        except RuntimeError as error:
            raise ValueError("applying transform") from error
    except ValueError as error:
        assert is_out_of_memory(error)


@pytest.mark.parametrize(
    ("fits", "tried", "note"),
    [
        (("", "cpu"), [""], ""),
        (("small", "cpu"), ["", "small"], "out of GPU memory as usual; done in smaller steps"),
        (
            ("cpu",),
            ["", "small", "smallest", "cpu"],
            "out of GPU memory as usual; out of GPU memory in smaller steps; out of GPU memory in the smallest steps; "
            "done on the processor",
        ),
    ],
)
def test_smaller_and_smaller_steps_are_tried_and_noted(fits: tuple[Memory, ...], tried: list[Memory], note: str) -> None:
    card = Card(fits)
    result, step = Ladder(GPU).run("model", card)
    assert card.tried == tried
    assert result == f"done {tried[-1]}"
    assert (step.memory, step.note) == (tried[-1], note)


def test_the_step_that_fitted_is_remembered_per_kind_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    ladder, card = Ladder(GPU), Card(("small", "cpu"))
    ladder.run("model", card)
    assert ladder.first("model") == "small"
    assert ladder.first("another model") == ""
    card.tried.clear()
    _, step = ladder.run("model", card)
    assert card.tried == ["small"]
    assert step.note == "out of GPU memory a short time ago; done in smaller steps"
    now = memory.time.monotonic()
    monkeypatch.setattr(memory.time, "monotonic", lambda: now + memory.REMEMBERED_SECONDS + 1)
    assert ladder.first("model") == ""


def test_memory_of_a_failed_attempt_is_free_before_the_next() -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []
    released: list[int] = []

    def attempt(step: Memory) -> str:
        alive.extend(one() is not None for one in held)
        tensor = torch.zeros(8)
        cycle: list[object] = [tensor]
        cycle.append(cycle)
        held.append(weakref.ref(tensor))
        if step != "cpu":
            try:
                raise SHORT[0].__class__("CUDA out of memory")
            except RuntimeError as error:
                raise ValueError("wrapped") from error
        return "done"

    gc.disable()
    try:
        Ladder(GPU, lambda: released.append(1)).run("model", attempt)
    finally:
        gc.enable()
    assert len(held) == 4
    assert not any(alive)
    assert len(released) == 3


@pytest.mark.parametrize("error", BROKEN, ids=str)
def test_a_gpu_that_no_longer_works_is_not_used_again(
    error: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "try_kernel", lambda _: Trial("the card is lost"))
    ladder, card = Ladder(GPU), Card(error=error)
    with caplog.at_level(logging.ERROR):
        result, step = ladder.run("model", card)
    assert result == "done cpu"
    assert card.tried == ["", "cpu"]
    assert step.note.startswith(f"the GPU failed ({error}"[:40])
    assert "until the program is restarted" in caplog.text
    assert ladder.first("another model") == "cpu"
    card.tried.clear()
    assert "failed" in ladder.run("another model", card)[1].note
    assert card.tried == ["cpu"]


def test_a_gpu_that_still_runs_kernels_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "try_kernel", lambda _: Trial())
    ladder, card = Ladder(GPU), Card(("small",), RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"))
    result, step = ladder.run("model", card)
    assert result == "done small"
    assert step.note == "the GPU failed (cuDNN error: CUDNN_STATUS_INTERNAL_ERROR); done in smaller steps"
    assert not ladder.failure
    assert ladder.first("another model") == ""


def test_the_processor_has_one_step_and_no_note() -> None:
    card = Card()
    assert Ladder(CPU).run("model", card)[1].note == ""
    assert card.tried == ["cpu"]
    card = Card(fits=())
    with pytest.raises(RuntimeError):
        Ladder(CPU).run("model", card)
    assert card.tried == ["cpu"]


def test_a_case_that_fits_nowhere_raises_the_last_error() -> None:
    card = Card(fits=())
    with pytest.raises(torch.OutOfMemoryError):
        Ladder(GPU).run("model", card)
    assert card.tried == ["", "small", "smallest", "cpu"]


def test_results_of_cpu_and_gpu_have_different_provenance() -> None:
    assert ran_on(CPU, medsam2=False, unet=True) == {"device": "cpu", "precision": "float32"}
    assert ran_on(GPU, medsam2=True, unet=False) == {"device": "cuda", "precision": "float32"}
    assert ran_on(GPU, medsam2=False, unet=True) == {"device": "cuda", "precision": "float16"}
    assert ran_on(GPU, medsam2=True, unet=True) == {"device": "cuda", "precision": "float32, U-Net float16"}
    assert ran_on(GPU, medsam2=True, unet=False, memory="small") == ran_on(GPU, medsam2=True, unet=False)
    assert ran_on(GPU, medsam2=False, unet=True, memory="smallest")["windows"] == "fewer slices"
    assert ran_on(GPU, medsam2=True, unet=False) == ran_on(torch.device("cuda:1"), medsam2=True, unet=False)


@pytest.mark.parametrize(
    ("capability", "precision"), [((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float16"), ((6, 1), "float32")]
)
def test_fast_results_of_a_gpu_name_their_16_bits(capability: tuple[int, int], precision: str) -> None:
    with pretended_gpu(capability=capability):
        assert ran_on(GPU, medsam2=True, unet=False, mode="fast") == {"device": "cuda", "precision": precision}
        assert ran_on(GPU, medsam2=True, unet=True, mode="fast")["precision"] == f"{precision}, U-Net float16"
        assert ran_on(GPU, medsam2=False, unet=True, mode="fast")["precision"] == "float16"


def test_fast_results_of_the_processor_name_the_configured_format() -> None:
    for given in ("float32", "bfloat16"):
        found = ran_on(CPU, medsam2=True, unet=False, mode="fast", processor=given)
        assert found == {"device": "cpu", "precision": given}


class Parts:
    """Work that fits up to a number of items at a time; it records the parts that it got."""

    def __init__(self, fits: int, error: Exception = SHORT[0]) -> None:
        self.fits, self.error, self.tried = fits, error, list[str]()

    def __call__(self, part: Sequence[str]) -> None:
        self.tried.append("".join(part))
        if len(part) > self.fits:
            raise self.error


def test_work_that_fits_is_done_in_parts_of_the_requested_size() -> None:
    work = Parts(fits=3)
    assert in_parts("abcdefg", 3, work) == 3
    assert work.tried == ["abc", "def", "g"]


def test_parts_are_halved_until_they_fit_and_stay_small(caplog: pytest.LogCaptureFixture) -> None:
    work = Parts(fits=2)
    assert in_parts("abcdefg", 6, work) == 2
    assert work.tried == ["abcdef", "abc", "ab", "cd", "ef", "g"]
    assert len(caplog.records) == 2
    assert "out of GPU memory with 6 at a time, so the next part has 3" in caplog.text


def test_a_single_item_that_does_not_fit_is_left_to_the_ladder() -> None:
    work = Parts(fits=0)
    with pytest.raises(torch.OutOfMemoryError):
        in_parts("abc", 2, work)
    assert work.tried == ["ab", "a"]


@pytest.mark.parametrize("error", [*BROKEN, *OTHERS], ids=repr)
def test_other_errors_do_not_halve_parts(error: Exception) -> None:
    work = Parts(fits=1, error=error)
    with pytest.raises(type(error)):
        in_parts("ab", 2, work)
    assert work.tried == ["ab"]


def test_a_failed_part_is_freed_before_its_half_is_tried() -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def work(part: Sequence[int]) -> None:
        alive.append(sum(made_one() is not None for made_one in made))
        tensor = torch.zeros(len(part))
        made.append(weakref.ref(tensor))
        if len(part) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")  # a new error: an old one would keep its frames

    in_parts(range(2), 2, work)
    assert alive == [0, 0, 0]
