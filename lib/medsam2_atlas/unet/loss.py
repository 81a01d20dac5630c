"""Cross entropy and soft Dice for cases in which only some organs are annotated."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from medsam2_atlas.unet.config import LossConfig

_SMOOTHING = 1.0
"""Voxels added to overlap and sizes, so that Dice is defined for an organ that is neither annotated nor predicted."""


class PartialLabelLoss(torch.nn.Module):
    """Weighted mean of cross entropy and soft Dice over all heads of deep supervision.

    An organ that is not annotated in a case may be part of its background. So in voxels labelled background, the probability
    of background is the sum of background and all such organs (the marginal loss of Shi et al. 2021). Dice counts annotated
    organs only.
    """

    def __init__(self, config: LossConfig | None = None) -> None:
        """Sets the weights of the terms.

        Args:
            config: weights of the terms; by default those of nnU-Net.
        """
        super().__init__()
        self._config = config or LossConfig.model_validate({})

    def forward(self, predicted: torch.Tensor, target: dict[str, torch.Tensor]) -> torch.Tensor:
        """Returns the loss, a scalar.

        Args:
            predicted: logits `[batch, classes, z, y, x]`, or `[batch, heads, classes, z, y, x]` with deep supervision; without
                `z` in two dimensions.
            target: `label`: organ numbers `[batch, 1, z, y, x]`; `known`: whether a class is annotated, bool
                `[batch, classes]`. Background counts as known.
        """
        label, known = target["label"][:, 0].long(), target["known"]
        if predicted.dim() == label.dim() + 1:
            return self._of_head(predicted, label, known)
        weights = self._config.head_decay ** torch.arange(predicted.shape[1], device=predicted.device)
        heads = [self._of_head(predicted[:, n], label, known) for n in range(predicted.shape[1])]
        return (torch.stack(heads) * weights / weights.sum()).sum()

    def _of_head(self, logits: torch.Tensor, label: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        log_p = F.log_softmax(logits.float(), 1)
        shape = known.shape + (1,) * (log_p.dim() - 2)
        hidden = ~known
        hidden[:, 0] = True  # a background voxel is background or an organ that is not annotated
        background = torch.logsumexp(log_p.masked_fill(~hidden.view(shape), -torch.inf), 1)
        picked = log_p.gather(1, label[:, None])[:, 0]
        entropy = -torch.where(label == 0, background, picked).mean()
        p = log_p.exp()[:, 1:]
        truth = F.one_hot(label, log_p.shape[1]).movedim(-1, 1)[:, 1:].to(p.dtype)
        counted = known[:, 1:].view(*known[:, 1:].shape, *shape[2:]).to(p.dtype)
        axes = [0, *range(2, p.dim())]
        overlap, sizes = (p * truth * counted).sum(axes), ((p + truth) * counted).sum(axes)
        present = (truth * counted).sum(axes) > 0
        if not present.any():
            return entropy
        dice = (2 * overlap[present] + _SMOOTHING) / (sizes[present] + _SMOOTHING)
        share = self._config.dice
        return (1 - share) * entropy + share * (1 - dice).mean()
