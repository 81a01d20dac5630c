"""Compiled parts run uncompiled, with a warning, if the compiler fails; errors of the GPU are passed on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from medsam2_atlas.medsam2.compiled import Compiled, compile_parts
from pretended_gpu import errors


class Compiler:
    """Stands for `torch.compile`, whose functions fail at their first call with some errors."""

    def __init__(self, *failures: Exception) -> None:
        self.failures, self.calls = list(failures), 0

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.failures:
                raise self.failures.pop(0)
            return function(*args, **options)

        return run


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Compiler]:
    def use(*failures: Exception) -> Compiler:
        made = Compiler(*failures)
        monkeypatch.setattr(torch, "compile", made)
        return made

    return use


def test_a_part_is_compiled_without_a_change_of_its_result(compiler: Callable[..., Compiler]) -> None:
    made, part = compiler(), Compiled(lambda x, y: x - y, "the part")
    assert [part(5, y=3), part(5, 1)] == [2, 4]
    assert made.calls == 2


def test_a_part_whose_compilation_fails_runs_uncompiled_with_one_warning(
    compiler: Callable[..., Compiler], caplog: pytest.LogCaptureFixture
) -> None:
    made, part = compiler(RuntimeError("Failed to find C compiler.\nhints")), Compiled(lambda x: x + 1, "the part")
    assert [part(1), part(2)] == [2, 3]
    assert made.calls == 1
    assert caplog.messages == ["the part runs uncompiled: RuntimeError: Failed to find C compiler."]


@pytest.mark.parametrize("error", [errors.out_of_memory, errors.cublas_allocation_failed, errors.illegal_access])
def test_an_error_of_the_gpu_is_left_to_the_ladder_and_the_part_stays_compiled(
    compiler: Callable[..., Compiler], error: Callable[[], Exception]
) -> None:
    made, part = compiler(error()), Compiled(lambda x: x + 1, "the part")
    with pytest.raises(RuntimeError):
        part(1)
    assert part(1) == 2
    assert made.calls == 2


def test_encoder_decoder_and_memory_encoder_are_compiled(compiler: Callable[..., Compiler]) -> None:
    made, network = compiler(), nn.Module()
    network.image_encoder = nn.Module()
    network.image_encoder.trunk = nn.Linear(2, 2)
    network.sam_mask_decoder, network.memory_encoder = nn.Linear(2, 2), nn.Linear(2, 2)
    compile_parts(network)
    for part in (network.image_encoder.trunk, network.sam_mask_decoder, network.memory_encoder):
        part(torch.zeros(2))
    assert made.calls == 3
