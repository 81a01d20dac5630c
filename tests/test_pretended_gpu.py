"""The pretended card refuses the same operations as a real one, and counts operations and memory."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pretended_gpu import MixedDevicesError, PretendedTensor, errors, pretended_gpu


def test_results_are_the_same_as_on_the_cpu() -> None:
    layer, x = torch.nn.Conv2d(2, 3, 3), torch.rand(1, 2, 8, 8)
    with torch.inference_mode():
        expected = layer(x)
    with pretended_gpu(), torch.inference_mode():
        found = layer.to("cuda")(x.to("cuda"))
        assert str(found.device) == "cuda:0"
        assert torch.equal(found.cpu(), expected)
        assert not isinstance(found.cpu(), PretendedTensor)


def test_a_network_moves_to_the_card_and_back_with_its_parameters() -> None:
    layer = torch.nn.Linear(3, 3)
    parameter = layer.weight
    with pretended_gpu(2):
        for device in ("cuda:1", "cuda:0", "cpu"):
            assert layer.to(device).weight is parameter
            assert str(parameter.device) == device
        assert torch.cuda.memory_allocated(0) == torch.cuda.memory_allocated(1) == 0


def test_gradients_reach_a_network_on_the_card() -> None:
    with pretended_gpu():
        layer = torch.nn.Linear(4, 1).to("cuda")
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
        before = layer.weight.detach().cpu()
        layer(torch.ones(2, 4, device="cuda")).sum().backward()
        optimizer.step()
        assert not torch.equal(layer.weight.detach().cpu(), before)


MIXES = {
    "a CPU tensor": lambda t: t + torch.ones(3),
    "another card": lambda t: t + torch.ones(3, device="cuda:1"),
    "a mask for a CPU tensor": lambda t: torch.ones(3)[t > 0],
    "values from the CPU": lambda t: t.index_put_((torch.tensor([0, 1]),), torch.ones(2)),
    "a CPU generator": lambda t: t.uniform_(generator=torch.Generator()),
    "a CPU generator for a new tensor": lambda t: torch.rand(3, device="cuda", generator=torch.Generator()),
    "a CPU target": lambda t: torch.ones(3).add_(t),
    "a CPU layer": lambda t: torch.nn.Linear(3, 3)(t),
}


@pytest.mark.parametrize("name", MIXES)
def test_devices_do_not_mix(name: str) -> None:
    with pretended_gpu(2):
        tensor = torch.ones(3, device="cuda")
        with pytest.raises(MixedDevicesError):
            MIXES[name](tensor)


def test_scalars_and_indices_from_the_cpu_work_with_a_card() -> None:
    with pretended_gpu():
        tensor = torch.arange(3.0, device="cuda")
        assert (tensor * torch.tensor(2.0))[torch.tensor([1, 2])].tolist() == [2.0, 4.0]


def test_numpy_does_not_see_a_card() -> None:
    with pretended_gpu(), pytest.raises(TypeError, match="can't convert"):
        torch.ones(3, device="cuda").numpy()


def test_a_missing_pretended_card_is_refused() -> None:
    with pretended_gpu(), pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.ones(3, device="cuda:1")


def test_operators_are_counted_on_their_card() -> None:
    with pretended_gpu(2) as machine:
        _ = torch.ones(3, device="cuda:1") + 1
        torch.ones(3).add(1)
        assert [card.count for card in machine.cards] == [0, machine.cards[1].operations.total()]
        assert machine.cards[1].operations["add"] == 1


def test_memory_of_living_tensors_is_counted_once() -> None:
    with pretended_gpu(megabytes=10) as machine:
        tensor = torch.zeros(1 << 20, device="cuda")
        views = [tensor[:5], tensor.view(2, -1), tensor.detach()]
        assert torch.cuda.memory_allocated() == 4 << 20
        assert torch.cuda.mem_get_info() == (6 << 20, 10 << 20)
        del tensor
        assert torch.cuda.memory_allocated() == 4 << 20
        del views
        gc.collect()
        assert torch.cuda.memory_allocated() == 0
        assert machine.cards[0].peak == 4 << 20


def test_out_of_memory_leaves_the_card_usable() -> None:
    with pretended_gpu(megabytes=10):
        kept = torch.zeros(2 << 20, device="cuda")
        with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
            torch.zeros(1 << 20, device="cuda")
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(1 << 20).to("cuda")
        assert (kept[:2] + 0).tolist() == [0, 0]
        del kept
        assert torch.zeros(2 << 20, device="cuda").shape == (2 << 20,)


@pytest.mark.parametrize("error", [errors.out_of_memory, errors.cublas_allocation_failed, errors.cudnn_allocation_failed])
def test_a_card_fails_at_the_chosen_operation(error: Callable[[], Exception]) -> None:
    with pretended_gpu() as machine:
        tensor = torch.zeros(3, device="cuda")
        machine.cards[0].fail(error, after=2, times=1)
        tensor += 1
        tensor += 1
        with pytest.raises(RuntimeError, match=r"(?i)memory|alloc"):
            tensor += 1
        tensor += 1
        assert tensor.tolist() == [3, 3, 3]


def test_threads_that_start_inside_see_the_card() -> None:
    found: list[str] = []
    with pretended_gpu():
        thread = threading.Thread(target=lambda: found.append(str(torch.ones(3).to("cuda").device)))
        thread.start()
        thread.join()
    assert found == ["cuda:0"]


def test_forked_processes_get_no_card() -> None:
    with pretended_gpu():
        torch.ones(3, device="cuda")
        child = os.fork()
        if child == 0:
            try:
                torch.ones(3, device="cuda")
            except RuntimeError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_files_are_written_and_read_on_their_device(tmp_path: Path) -> None:
    with pretended_gpu(2):
        file = tmp_path / "tensors.pt"
        torch.save({"a": torch.ones(3, device="cuda")}, file)
        assert str(torch.load(file, map_location="cuda:1")["a"].device) == "cuda:1"
        assert str(torch.load(file)["a"].device) == "cpu"


def test_the_pretended_gpu_leaves_no_traces() -> None:
    with pretended_gpu():
        torch.ones(3, device="cuda")
        assert torch.cuda.get_device_name() == "pretended"
    if torch.cuda.is_available():
        assert torch.cuda.get_device_name() != "pretended"
    assert str((torch.ones(3) + 1).device) == "cpu"


WAITS = {
    "a value": (lambda t: t.sum().item(), 1),
    "a copy to the CPU": (lambda t: t.cpu(), 1),
    "values selected by a mask": (lambda t: t[t > 0], 1),
    "a copy from usual memory": (lambda t: torch.ones(3).to(t.device, non_blocking=True), 1),
    "a tensor made of numbers": (lambda t: torch.tensor([1, 2], device=t.device), 1),
    "a copy from pinned memory": (lambda t: torch.ones(3).pin_memory().to(t.device, non_blocking=True), 0),
    "a tensor made on the card": (lambda t: torch.zeros(3, device=t.device) + t, 0),
    "rows selected by numbers": (lambda t: t[torch.zeros(2, dtype=torch.long, device=t.device)], 0),
}


@pytest.mark.parametrize("name", WAITS)
def test_the_cpu_s_waits_for_a_card_are_counted(name: str) -> None:
    work, expected = WAITS[name]
    with pretended_gpu() as machine:
        tensor = torch.ones(3, device="cuda")
        before = machine.waits
        work(tensor)
        assert machine.waits - before == expected
