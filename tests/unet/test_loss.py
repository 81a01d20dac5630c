"""The loss on cases in which only some organs are annotated."""

from __future__ import annotations

import pytest
import torch

from medsam2_atlas.unet.config import LossConfig
from medsam2_atlas.unet.loss import PartialLabelLoss

ALL = torch.ones(1, 4, dtype=torch.bool)


def logits_for(labels: torch.Tensor, sure: float = 12.0) -> torch.Tensor:
    """Returns logits `[1, 4, …]` that predict a label map `[1, 1, …]` with certainty."""
    return sure * torch.nn.functional.one_hot(labels[:, 0].long(), 4).movedim(-1, 1).float()


def target(labels: torch.Tensor, known: torch.Tensor = ALL) -> dict[str, torch.Tensor]:
    return {"label": labels, "known": known}


def test_a_perfect_prediction_has_no_loss_and_a_wrong_one_has() -> None:
    labels = torch.randint(0, 4, (1, 1, 6, 6, 6), generator=torch.Generator().manual_seed(0))
    loss = PartialLabelLoss()
    assert loss(logits_for(labels), target(labels)) < 0.01
    assert loss(logits_for((labels + 1) % 4), target(labels)) > 3


def test_an_unannotated_organ_may_be_labelled_background() -> None:
    labels = torch.zeros(1, 1, 4, 4, 4)
    labels[..., 0] = 1
    found = labels.clone()
    found[..., 3] = 3  # the network finds organ 3 at voxels labelled background
    unknown = torch.tensor([[True, True, True, False]])
    loss = PartialLabelLoss()
    assert loss(logits_for(found), target(labels, unknown)) < 0.01
    assert loss(logits_for(found), target(labels)) > 1
    wrong = labels.clone()
    wrong[..., 3] = 2  # organ 2 is annotated in this case, so it cannot be part of the background
    assert loss(logits_for(wrong), target(labels, unknown)) > 1


def test_the_gradient_does_not_suppress_an_unannotated_organ() -> None:
    labels = torch.zeros(1, 1, 4, 4, 4)
    logits = torch.zeros(1, 4, 4, 4, 4, requires_grad=True)
    PartialLabelLoss()(logits, target(labels, torch.tensor([[True, True, True, False]]))).backward()
    gradient = logits.grad[0].mean((1, 2, 3))
    assert gradient[3] < 0  # it raises the logit of the organ as much as that of the background
    assert gradient[3] == gradient[0]
    assert gradient[1] > 0


def test_each_case_of_a_batch_has_its_own_annotated_organs() -> None:
    labels = torch.zeros(2, 1, 4, 4, 4)
    found = labels.clone()
    found[0, ..., 2] = 3
    known = torch.tensor([[True, True, True, False], [True, True, True, True]])
    swapped = known.flip(0)
    loss = PartialLabelLoss()
    assert loss(logits_for(found), target(labels, known)) < 0.01
    assert loss(logits_for(found), target(labels, swapped)) > 1


def test_coarser_heads_weigh_less() -> None:
    labels = torch.ones(1, 1, 4, 4, 4)
    good, bad = logits_for(labels), logits_for(labels * 2)
    loss = PartialLabelLoss()
    fine, coarse = (loss(torch.stack(pair, 1), target(labels)) for pair in ((bad, good), (good, bad)))
    assert fine > 1.9 * coarse > 0


def test_settings_weigh_dice_and_the_coarser_heads() -> None:
    labels = torch.ones(1, 1, 4, 4, 4)
    good, bad = logits_for(labels), logits_for(labels * 2)
    entropy, dice, both = (PartialLabelLoss(LossConfig(dice=share))(bad, target(labels)) for share in (0.0, 1.0, 0.25))
    assert float(both) == pytest.approx(0.75 * float(entropy) + 0.25 * float(dice))
    alike = PartialLabelLoss(LossConfig(head_decay=1.0))
    fine, coarse = (alike(torch.stack(pair, 1), target(labels)) for pair in ((bad, good), (good, bad)))
    assert float(fine) == pytest.approx(float(coarse))
