"""The number format of the engine on the processor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from medsam2_atlas.base import precision
from medsam2_atlas.base.memory import ran_on

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    precision.bfloat16_pays.cache_clear()
    yield
    precision.bfloat16_pays.cache_clear()


def test_exact_mode_computes_in_float32_whatever_is_configured() -> None:
    assert precision.engine_dtype(CPU, "exact", "bfloat16") == torch.float32


@pytest.mark.parametrize("supported", [False, True])
def test_fast_mode_uses_bfloat16_where_the_processor_multiplies_it(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    monkeypatch.setattr(precision, "_has_bfloat16", lambda: supported)
    assert precision.engine_dtype(CPU, "fast") == (torch.bfloat16 if supported else torch.float32)


def test_products_that_are_too_imprecise_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_has_bfloat16", lambda: True)
    monkeypatch.setattr(precision, "_product_error", lambda: 0.1)
    assert not precision.bfloat16_pays()


def test_products_in_bfloat16_have_the_expected_error() -> None:
    assert 1e-4 < precision._product_error() < precision._MAX_ERROR


def test_a_pytorch_without_the_query_means_no_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert not precision._has_bfloat16()


@pytest.mark.parametrize("pinned", ["float32", "bfloat16"])
def test_a_configured_format_is_used_and_recorded(pinned: precision.ProcessorFormat) -> None:
    assert ran_on(CPU, medsam2=True, unet=False, mode="fast", processor=pinned)["precision"] == pinned
