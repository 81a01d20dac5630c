"""The project's Adam equals torch's, without importing torch's compiler."""

from __future__ import annotations

import sys

import pytest
import torch

from medsam2_atlas.registration import WorkImage, register, registration_config
from medsam2_atlas.registration.adam import Adam


def test_adam_equals_torch_s_optimiser_to_the_last_bit() -> None:
    generator = torch.Generator().manual_seed(1)
    target, start = torch.randn(2, 3, 4, 5, generator=generator)
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    adam, reference = Adam(ours, 0.3), torch.optim.Adam([theirs], lr=0.3)
    for _ in range(60):
        ((ours - target) ** 4).sum().backward()
        adam.step()
        reference.zero_grad()
        ((theirs - target) ** 4).sum().backward()
        reference.step()
        assert (ours == theirs).all()
    assert not (ours == start).any()


def test_a_registration_does_not_import_torch_s_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("torch._dynamo")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # makes an import of it fail
    hu = torch.full((10, 12, 12), -1000.0)
    hu[:, 2:10, 2:10] = 40.0
    image = WorkImage(hu, torch.ones_like(hu, dtype=torch.bool), torch.zeros(3), 8.0)
    config = registration_config().model_copy(update={"spacing": 8.0, "adam_steps": 2, "affine_steps": (2, 2)})
    assert register(image, image, config)(image.points()).isfinite().all()
