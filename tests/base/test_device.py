"""Picking a device: names, cards that no kernel runs on, full cards, and precision.

PyTorch's errors were recorded from its CUDA build with a replacement of libcuda that behaves like broken drivers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from medsam2_atlas.base import card_look, cards, device
from medsam2_atlas.base.card_look import Look
from medsam2_atlas.base.card_problems import NO_CARD, NO_DRIVER, Trial, explained
from medsam2_atlas.base.device import pick_device, use_full_precision
from medsam2_atlas.base.errors import InputError

NO_KERNEL = (
    "CUDA error: no kernel image is available for execution on the device\n"
    "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect."
)
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver by downloading and "
    "installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: "
    "https://pytorch.org to install a PyTorch version that has been compiled with your version of the CUDA driver."
)
COUNTING = (
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() that might "
    "have already set an error? Error "
)
FakeCards = Callable[..., None]


@pytest.fixture
def fake_cards(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCards]:
    """Yields a function that makes PyTorch see cards: one per argument, the error of its kernels or None if they run."""
    kernel, before = cards._kernel, (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    cudnn_attention = torch.backends.cuda.cudnn_sdp_enabled()

    def see(*errors: Exception | None, none_because: Exception | None = None, free: int = 8 << 30) -> None:
        def run(card: torch.device) -> float:
            error = errors[card.index] if card.type == "cuda" else None
            if error is not None:
                raise error
            return kernel(torch.device("cpu"))

        def init() -> None:
            if none_because is not None:
                raise none_because

        about = SimpleNamespace(name="Fake 1060", major=6, minor=1, total_memory=16 << 30)
        for name, answer in {
            "is_available": lambda: bool(errors),
            "device_count": lambda: len(errors),
            "init": init,
            "get_arch_list": lambda: ["sm_75", "sm_80", "sm_90a", "compute_120"],
            "get_device_capability": lambda card=None: (6, 1),
            "get_device_properties": lambda card: about,
            "mem_get_info": lambda card: (free, 16 << 30),
        }.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(cards, "_kernel", run)

    _forget()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device, "shows_card", lambda: False)
    yield see
    _forget()
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)


def _forget() -> None:
    cards.trial_of.cache_clear()
    device._warn.cache_clear()


@pytest.mark.parametrize("name", ["meta", "mps", "cuda:x", "cuda:", "cuda:-1", "gpu", "CUDA", "cuda:0; rm", "cpu:0", " cpu"])
def test_untested_devices_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="Choose cpu, cuda, cuda:N or auto"):
        pick_device(name)


def test_a_card_always_has_its_number(fake_cards: FakeCards) -> None:
    fake_cards(None, None)
    assert [str(pick_device(name)) for name in (None, "auto", "cuda", "cuda:1", "cpu")] == [
        "cuda:0",
        "cuda:0",
        "cuda:0",
        "cuda:1",
        "cpu",
    ]


def test_a_card_that_does_not_exist_is_refused(fake_cards: FakeCards, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cards(None, None)
    with pytest.raises(InputError, match=r"cuda:7: does not exist. PyTorch sees cuda:0, cuda:1\. Choose another"):
        pick_device("cuda:7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES is '2,3'"):
        pick_device("cuda:2")


def test_a_card_without_kernels_is_found_before_the_first_case(fake_cards: FakeCards, caplog: pytest.LogCaptureFixture) -> None:
    fake_cards(RuntimeError(NO_KERNEL))
    assert str(pick_device()) == "cpu"
    for words in ("its compute capability is 6.1", "kernels for 7.5, 8.0, 9.0", "whl/cu126", "on the processor"):
        assert words in caplog.text
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    with pytest.raises(InputError, match=r"cuda: cannot be used: its compute capability is 6\.1"):
        pick_device("cuda")


def test_the_next_card_is_used_if_one_is_broken(fake_cards: FakeCards, caplog: pytest.LogCaptureFixture) -> None:
    fake_cards(RuntimeError("CUDA error: uncorrectable ECC error encountered"), None)
    assert str(pick_device()) == "cuda:1"
    assert "cuda:0 is not used: the card reports a hardware error" in caplog.text


def test_a_card_is_tried_and_reported_once_per_process(
    fake_cards: FakeCards, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cards(RuntimeError(NO_KERNEL))
    pick_device()
    logged = len(caplog.records)
    monkeypatch.setattr(cards, "_kernel", lambda card: pytest.fail("tried again"))
    pick_device()
    assert len(caplog.records) == logged == 2  # one for the card, one for the device that is used instead


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported elsewhere"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_full_card_is_not_mistaken_for_a_broken_one(
    error: Exception, fake_cards: FakeCards, caplog: pytest.LogCaptureFixture
) -> None:
    fake_cards(error, free=40 << 20)
    assert str(pick_device("cuda:0")) == "cuda:0"
    assert str(pick_device()) == "cuda:0"
    assert "cuda:0 has hardly any free memory" in caplog.text
    assert "not used" not in caplog.text


def test_a_card_with_free_memory_is_preferred_to_a_full_one(fake_cards: FakeCards) -> None:
    fake_cards(torch.OutOfMemoryError("CUDA out of memory."), None)
    assert str(pick_device()) == "cuda:1"


def test_a_broken_library_is_not_mistaken_for_a_full_card(fake_cards: FakeCards) -> None:
    fake_cards(RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), free=8 << 30)
    with pytest.raises(InputError, match="a CUDA library is missing"):
        pick_device("cuda")


def test_a_card_that_computes_wrong_results_is_not_used(fake_cards: FakeCards, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cards(None)
    monkeypatch.setattr(cards, "_kernel", lambda card: float("nan") if card.type == "cuda" else 1.0)
    with pytest.raises(InputError, match="computes wrong results"):
        pick_device("cuda")


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        (TOO_OLD, "it supports CUDA 12.2, and this PyTorch was built for CUDA 13.0", "Install driver 580 or newer"),
        ("CUDA driver initialization failed, you might not have a CUDA gpu.", "the NVIDIA driver does not start", "nvidia-smi"),
        ("CUDA unknown error - this may be due to an incorrectly set up environment", "does not start", "Restart"),
        (COUNTING + "802: system not yet initialized", "connections between the cards", "Fabric Manager"),
        (COUNTING + "804: forward compatibility was attempted on non supported HW", "have different versions", "cuda-compat"),
        (
            COUNTING + "803: system has unsupported display driver / cuda driver combination",
            "have different versions",
            "Restart",
        ),
        (COUNTING + "46: CUDA-capable device(s) is/are busy or unavailable", "exclusive use", "nvidia-smi -c DEFAULT"),
        (COUNTING + "801: operation not supported", "801: operation not supported", "nvidia-smi"),
    ],
)
def test_each_failure_of_a_driver_is_explained(
    text: str, problem: str, remedy: str, fake_cards: FakeCards, caplog: pytest.LogCaptureFixture
) -> None:
    fake_cards(none_because=RuntimeError(text))
    assert str(pick_device()) == "cpu"
    assert problem in caplog.text
    assert remedy in caplog.text
    with pytest.raises(InputError, match="cuda:0: cannot be used"):
        pick_device("cuda:0")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU", NO_DRIVER),
        ("No CUDA GPUs are available", NO_CARD),
    ],
)
def test_a_machine_without_a_card_is_not_warned(
    text: str, meant: Trial, fake_cards: FakeCards, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cards(none_because=RuntimeError(text))
    assert explained(RuntimeError(text)) == meant
    assert str(pick_device()) == "cpu"
    assert caplog.text == ""
    monkeypatch.setattr(device, "shows_card", lambda: True)
    assert str(pick_device()) == "cpu"
    assert meant.problem in caplog.text


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_cards_that_are_hidden_on_purpose_cause_no_warning(
    hidden: str, fake_cards: FakeCards, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_cards(none_because=RuntimeError("No CUDA GPUs are available"))
    monkeypatch.setattr(device, "shows_card", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert str(pick_device()) == "cpu"
    assert caplog.text == ""


def test_a_build_without_cuda_is_named(fake_cards: FakeCards, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cards()
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(InputError, match=r"is a CPU build\. .*make install TORCH=cuda"):
        pick_device("cuda")


def test_choosing_the_processor_does_not_touch_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("is_available", "device_count", "init"):
        monkeypatch.setattr(torch.cuda, name, lambda: pytest.fail("asked"))
    assert str(pick_device("cpu")) == "cpu"


def test_no_card_rounds_to_tf32(fake_cards: FakeCards) -> None:
    fake_cards(None)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    pick_device("cuda")
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cudnn.benchmark
    assert torch.get_float32_matmul_precision() == "highest"


def test_no_card_compiles_attention_kernels(fake_cards: FakeCards) -> None:
    fake_cards(None)
    torch.backends.cuda.enable_cudnn_sdp(True)
    pick_device("cpu")
    assert torch.backends.cuda.cudnn_sdp_enabled()
    pick_device("cuda")
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this PyTorch has the old names only")
def test_tf32_is_switched_off_under_the_new_names_too(fake_cards: FakeCards) -> None:
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = "tf32"
    use_full_precision()
    assert "tf32" not in (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision)


def test_a_look_lists_each_card_with_the_result_of_its_trial(fake_cards: FakeCards, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cards(None, RuntimeError(NO_KERNEL))
    monkeypatch.setattr(card_look, "driver_version", lambda: "580.65.06")
    found = Look.parse(card_look.look().as_json())
    assert [(card.device, card.name, card.capability, card.free, card.total) for card in found.cards] == [
        ("cuda:0", "Fake 1060", "6.1", 8 << 30, 16 << 30),
        ("cuda:1", "Fake 1060", "6.1", 8 << 30, 16 << 30),
    ]
    assert found.cards[0].trial == Trial()
    assert "compute capability" in found.cards[1].trial.problem
    assert found.driver == "580.65.06"
    assert found.cause == Trial()


def test_a_card_that_does_not_answer_is_still_listed(fake_cards: FakeCards, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(card: torch.device) -> None:
        raise RuntimeError("CUDA error: GPU is lost")

    fake_cards(RuntimeError("CUDA error: GPU is lost"))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lost)
    (card,) = card_look.look().cards
    assert (card.name, card.trial.problem) == ("unknown card", "the card reports a hardware error")


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:11:17 UTC 2025",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (root@host)",
    ],
)
def test_the_driver_version_is_found_without_nvml(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "version").write_text(f"{line}\nGCC version:  gcc version 12.2.0\n")
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    monkeypatch.setattr(card_look, "Path", lambda _: tmp_path / "version")
    assert card_look.driver_version() == "580.65.06"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no card")
def test_a_kernel_runs_on_this_machines_card() -> None:
    cards.trial_of.cache_clear()
    assert cards.trial_of(torch.device("cuda", 0)) == Trial()
    assert str(pick_device()) == "cuda:0"
