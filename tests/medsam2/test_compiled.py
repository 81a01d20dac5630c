"""Parts of a network are compiled on request, and run uncompiled with a warning if the compiler fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from equality import boxes, ct
from legacy import seeded_state
from medsam2_atlas.medsam2 import MedSAM2Config, MedSAM2Volume, Weights, build_network, prepared
from medsam2_atlas.medsam2.compiled import Compiled
from pretended_gpu import errors, pretended_gpu

GPU = torch.device("cuda:0")


class Compiler:
    """Replaces `torch.compile`; the compiled functions count their calls or raise an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.compiled, self.calls = error, 0, 0

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        self.compiled += 1

        def run(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.error is not None:
                raise self.error
            return function(*args, **options)

        return run


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    found = Compiler()
    monkeypatch.setattr(torch, "compile", found)
    yield found


def test_a_compiled_function_is_used(compiler: Compiler) -> None:
    double = Compiled(lambda x, times=2: x * times, "doubling")
    assert (double(3), double(3, times=5)) == (6, 15)
    assert compiler.calls == 2


def test_a_failing_compiler_is_reported_once_and_not_used_again(compiler: Compiler, caplog: pytest.LogCaptureFixture) -> None:
    compiler.error = ValueError("no C compiler\nlong hints")
    double = Compiled(lambda x: 2 * x, "doubling")
    assert (double(3), double(4)) == (6, 8)
    assert compiler.calls == 1
    assert [record.message for record in caplog.records] == ["doubling runs uncompiled: ValueError: no C compiler"]


@pytest.mark.parametrize("error", [errors.out_of_memory(), errors.illegal_access()], ids=["memory", "failure"])
def test_errors_of_the_gpu_are_not_taken_for_those_of_the_compiler(compiler: Compiler, error: Exception) -> None:
    compiler.error = error
    double = Compiled(lambda x: 2 * x, "doubling")
    for _ in range(2):
        with pytest.raises(type(error)):
            double(3)
    assert compiler.calls == 2


def test_an_error_of_the_function_itself_is_raised(compiler: Compiler) -> None:
    with pytest.raises(ZeroDivisionError):
        Compiled(lambda x: 1 // x, "division")(0)


def test_the_setting_compiles_parts_of_the_network_on_a_gpu_only(
    compiler: Compiler, narrow_config: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_network(narrow_config)
    network.load_state_dict(seeded_state(narrow_config))
    weights = Weights(network, narrow_config, Path("seeded"), "", "")
    usual = MedSAM2Volume(weights, ct(3)).segment([boxes(0, 2, 1)])[1].values
    monkeypatch.setattr(prepared, "medsam2_config", lambda: MedSAM2Config(compile=True))
    with pretended_gpu():
        MedSAM2Volume(Weights(network, narrow_config, Path("seeded"), "", ""), ct(3))
        assert compiler.compiled == 0
        found = MedSAM2Volume(weights.on(GPU), ct(3)).segment([boxes(0, 2, 1)])[1].values
    assert compiler.compiled == 3
    assert compiler.calls >= 3
    assert float((found - usual).abs().max()) < 0.1
