"""Tracks: the propagation of one organ in one direction, with its prompts, memories and results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from medsam2_atlas.medsam2.batched_attention import BatchedMemoryAttention
from medsam2_atlas.medsam2.memory_attention import Keys, MemoryAttention, Read
from medsam2_atlas.medsam2.windows import Pooling

OFF, ON, BOX_FIRST, BOX_LAST = range(4)
"""Kinds of points in SAM's prompt encoder: outside the organ, on the organ, first and second corner of a box."""


@dataclass
class Memory:
    """A track's memory of a slice.

    Attributes:
        features: the memory features, `[1, c, h, w]` bfloat16; None if no later slice reads them.
        pointer: the object pointer, `[1, c]`.
    """

    features: torch.Tensor | None
    pointer: torch.Tensor
    _tokens: torch.Tensor | None = field(default=None, repr=False)
    _keys: Keys = field(default=(), repr=False)
    _pooled: Read | None = field(default=None, repr=False)

    def read(self, attention: MemoryAttention, place: int) -> Read:
        """Returns the memory for the memory attention, which projects its keys at the first call.

        Args:
            attention: the memory attention.
            place: the row of the table of temporal positions.
        """
        if self._tokens is None:
            assert self.features is not None
            tokens = self.features.flatten(2)[0].T.to(self.pointer.dtype).contiguous()
            self._keys = attention.keys(tokens)
            self._tokens = tokens  # only after the keys, for which a GPU's memory may not suffice
        return Read(self._tokens, self._keys, place)

    def read_pooled(self, attention: MemoryAttention, place: int, pooling: Callable[[], Pooling]) -> Read:
        """Returns the memory with few tokens far from the organ, which the first call averages.

        Args:
            attention: the memory attention.
            place: the row of the table of temporal positions.
            pooling: returns which tokens are averaged; called once.
        """
        if self._pooled is None:
            whole, pool = self.read(attention, place), pooling()
            self._pooled = Read(pool(whole.tokens), tuple(map(pool, whole.keys)), place, pool)
        return replace(self._pooled, place=place)

    def forget_keys(self) -> None:
        """Deletes what `read` and `read_pooled` have computed; the next call computes it again."""
        self._tokens, self._keys, self._pooled = None, (), None

    def forget_features(self) -> None:
        """Deletes all but the pointer."""
        self.features = None
        self.forget_keys()


def read_together(memories: Sequence[Memory], attention: BatchedMemoryAttention) -> None:
    """Projects the keys of all memories that are read for the first time, in one batch."""
    new = list({id(memory): memory for memory in memories if memory._tokens is None}.values())
    if new:
        assert all(memory.features is not None for memory in new)
        features = torch.cat([memory.features for memory in new if memory.features is not None])
        tokens = attention.arithmetic.rounded(features.flatten(2).transpose(1, 2).to(new[0].pointer.dtype)).contiguous()
        keys = attention.keys(tokens)
        for n, memory in enumerate(new):
            memory._tokens, memory._keys = tokens[n], tuple(layer[n] for layer in keys)


@dataclass(frozen=True)
class Points:
    """A slice's prompt: its points.

    Attributes:
        places: `[n, 2]` (x, y) in pixels of the network's input.
        kinds: `[n]` int32: `OFF`, `ON`, `BOX_FIRST` or `BOX_LAST`.
    """

    places: torch.Tensor
    kinds: torch.Tensor

    def with_more(self, other: Points) -> Points:
        """Returns these points followed by the other points."""
        return Points(torch.cat([self.places, other.places], -2), torch.cat([self.kinds, other.kinds], -1))


Mend = Callable[[int, torch.Tensor], torch.Tensor]


@dataclass
class Track:
    """The propagation of one organ in one direction.

    Attributes:
        label: the organ number.
        start: the first slice.
        end: the last slice.
        direction: +1 (up) or −1 (down).
        starts: the prompts of the slices that start the track.
        corrections: the prompts of slices that are corrected after they were tracked.
        patience: number of successive slices without the organ after which the track ends, once it has passed all prompts.
            None: it ends at `end`.
        min_certainty: a slice also counts as without the organ if the mean logit inside its mask falls below this share of
            that of the starting slices: the network then follows another structure, or is about to.
        previous: logits `[1, h, w]` by corrected slice that enter the decoder with its prompt, instead of the tracked mask's.
        mend: changes the logits `[1, h, w]` of a prompted slice before they enter the memory.
        logits: the result, `[1, h, w]` by slice.
        starting: the memories of the starting slices. A new track that gets them and their logits continues from there.
        corrected: the memories of the corrected slices.
        passed: the memories of the tracked slices that later slices read.
        ended: whether the track has ended.
    """

    label: int
    start: int
    end: int
    direction: int
    starts: dict[int, Points] = field(default_factory=dict)
    corrections: dict[int, Points] = field(default_factory=dict)
    patience: int | None = None
    min_certainty: float = 0.0
    previous: dict[int, torch.Tensor] = field(default_factory=dict)
    mend: Mend | None = None
    logits: dict[int, torch.Tensor] = field(default_factory=dict)
    starting: dict[int, Memory] = field(default_factory=dict)
    corrected: dict[int, Memory] = field(default_factory=dict)
    passed: dict[int, Memory] = field(default_factory=dict)
    ended: bool = False
    _unseen: int = 0

    @cached_property
    def _starting_certainty(self) -> float:
        """The highest certainty of the starting slices, which are segmented before the first step."""
        return max(_certainty(self.logits[start]) for start in self.starting)

    def __len__(self) -> int:
        return abs(self.end - self.start) + 1

    def slice_at(self, step: int) -> int:
        """Returns the slice of a step; step 0 is the start."""
        return self.start + self.direction * step

    def done(self, step: int) -> int:
        """Returns the number of slices that are finished after a step."""
        return len(self) if self.ended else min(step + 1, len(self))

    def read_later(self, z: int, reach: int) -> bool:
        """Returns whether a later slice reads the memory of slice `z`.

        Args:
            z: a slice of the track.
            reach: the distance in slices up to which memories are read.
        """
        left = min(reach, (self.end - z) * self.direction)
        return any(z + self.direction * distance not in self.starting for distance in range(1, left + 1))

    def mended(self, z: int, logits: torch.Tensor) -> torch.Tensor:
        """Returns the logits of a prompted slice as they enter the memory, `[1, y, x]` at the network's mask resolution."""
        return logits if self.mend is None else self.mend(z, logits)

    def end_if_lost(self, z: int) -> None:
        """Ends the track if slice `z` completes `patience` successive slices without the organ."""
        if self.patience is None:
            return
        self._unseen = 0 if _certainty(self.logits[z]) > self.min_certainty * self._starting_certainty else self._unseen + 1
        prompted = [self.direction * p for p in (*self.starting, *self.corrections)]
        self.ended = self._unseen >= self.patience and self.direction * z >= max(prompted)


def _certainty(logits: torch.Tensor) -> float:
    """Returns the mean logit inside a mask; 0 if the mask is empty. The CPU waits only once for a GPU."""
    inside = logits > 0
    return float((logits * inside).sum() / inside.sum().clamp(min=1))
