"""Autocast is active inside the network's calls only, and a caller's autocast does not reach them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medsam2_atlas.medsam2.arithmetic import Arithmetic, halve_weights, in_own_arithmetic
from medsam2_atlas.medsam2.linear import Linear

EXACT, BFLOAT16 = Arithmetic("cpu"), Arithmetic("cpu", torch.bfloat16)


class Network:
    """A network with one matrix product."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        self.arithmetic = arithmetic

    @in_own_arithmetic
    def product(self, x: torch.Tensor) -> torch.Tensor:
        """Returns x·x `[n, n]`, in the arithmetic of the network."""
        if x.isnan().any():
            raise ValueError("not a number")
        return x @ x


@pytest.mark.parametrize(("arithmetic", "dtype"), [(EXACT, torch.float32), (BFLOAT16, torch.bfloat16)])
@pytest.mark.parametrize("outside", [True, False])
def test_a_network_has_its_own_arithmetic_whatever_its_caller_has(
    arithmetic: Arithmetic, dtype: torch.dtype, outside: bool
) -> None:
    x = torch.eye(3)
    with torch.autocast("cpu", torch.float16, enabled=outside):
        assert Network(arithmetic).product(x).dtype == dtype
        assert (x @ x).dtype == (torch.float16 if outside else torch.float32), "the caller's arithmetic is as before"


def test_an_error_ends_the_networks_arithmetic() -> None:
    with pytest.raises(ValueError, match="not a number"):
        Network(BFLOAT16).product(torch.full((2, 2), torch.nan))
    assert not torch.is_autocast_enabled("cpu")


def test_halved_weights_leave_norms_and_modules_that_share_them_in_float32() -> None:
    conv, norm = nn.Conv2d(2, 2, 1), nn.LayerNorm(2)
    shared = nn.Linear(2, 2)
    own, other = Linear(shared.weight, shared.bias), Linear(shared.weight, shared.bias)
    halve_weights(nn.Sequential(conv, norm, own), torch.bfloat16)
    assert {conv.weight.dtype, conv.bias.dtype, own.weight.dtype, own.bias.dtype} == {torch.bfloat16}  # type: ignore[union-attr]
    assert {norm.weight.dtype, shared.weight.dtype, other.weight.dtype} == {torch.float32}
