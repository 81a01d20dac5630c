"""Windows of a slice's tokens, and memories whose tokens outside a window are averaged.

A *token* is a cell of the encoder's coarsest features, 16 x 16 pixels of the network's input. In fast mode, only the tokens
around the previous mask read memories in full detail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch


@dataclass(frozen=True)
class Window:
    """A rectangle of a slice's tokens; the upper bounds are excluded.

    Attributes:
        top: the first row.
        bottom: the row after the last.
        left: the first column.
        right: the column after the last.
    """

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def whole(cls, side: int) -> Window:
        """Returns the window of all tokens of a slice with `side` rows and columns."""
        return cls(0, side, 0, side)

    @classmethod
    def around(cls, logits: torch.Tensor, side: int) -> Window | None:
        """Returns the smallest window that covers a mask; None if the mask is empty.

        Args:
            logits: the mask's logits `[1, y, x]`, with multiples of `side` rows and columns.
            side: the number of rows and columns of tokens.
        """
        mask = logits[0] > 0
        cells = mask.view(side, mask.shape[0] // side, side, mask.shape[1] // side).amax((1, 3))
        rows, columns = (torch.nonzero(cells.amax(axis)).flatten().tolist() for axis in (1, 0))
        return cls(rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) if rows else None

    def grown(self, margin: int, side: int) -> Window:
        """Returns the window with `margin` more tokens on each side, within a slice of `side` rows and columns."""
        return Window(
            max(0, self.top - margin),
            min(side, self.bottom + margin),
            max(0, self.left - margin),
            min(side, self.right + margin),
        )

    def tokens(self, side: int) -> torch.Tensor:
        """Returns the numbers `[n]` of the window's tokens in a slice of `side` rows and columns."""
        rows, columns = torch.arange(self.top, self.bottom), torch.arange(self.left, self.right)
        return (rows[:, None] * side + columns).flatten()

    def crop(self, maps: torch.Tensor, scale: int = 1) -> torch.Tensor:
        """Returns the window's part of maps `[..., y, x]` with `scale` rows and columns per token; a view."""
        return maps[..., self.top * scale : self.bottom * scale, self.left * scale : self.right * scale]


@dataclass(frozen=True)
class Pooling:
    """Which tokens of a memory stay, and which are averaged in blocks.

    Attributes:
        kept: the numbers `[k]` of the tokens that stay.
        blocks: the numbers `[b, n]` of the tokens of each block.
    """

    kept: torch.Tensor
    blocks: torch.Tensor

    @classmethod
    def outside(cls, window: Window, side: int, block: int, device: torch.device) -> Pooling:
        """Returns the pooling that averages blocks of `block` x `block` tokens outside a window.

        The window grows to whole blocks. `side` is a multiple of `block`.
        """
        inside = torch.zeros(side // block, side // block, dtype=torch.bool)
        inside[window.top // block : -(-window.bottom // block), window.left // block : -(-window.right // block)] = True
        numbers = torch.arange(side * side).view(side // block, block, side // block, block).transpose(1, 2)
        kept = numbers[inside].flatten().sort().values
        return cls(kept.to(device), numbers[~inside].flatten(1).to(device))

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns the kept and averaged tokens `[k + b, c]` of tokens `[all, c]`."""
        return torch.cat([tokens[self.kept], tokens[self.blocks].mean(1)])

    @cached_property
    def bias(self) -> torch.Tensor:
        """The logarithm of the number of tokens that each token `[n]` stands for: added to the scores of its key."""
        bias = torch.zeros(len(self.kept) + len(self.blocks), device=self.kept.device)
        bias[len(self.kept) :] = math.log(self.blocks.shape[1])
        return bias
