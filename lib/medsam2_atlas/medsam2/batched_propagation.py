"""Propagation on a GPU: the tracks of a step form one batch, and the processor does not wait for the GPU between steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import torch

from medsam2_atlas.medsam2.batched_attention import BatchedMemoryAttention
from medsam2_atlas.medsam2.encoder import FeatureStore, SliceFeatures
from medsam2_atlas.medsam2.prepared import PreparedNetwork
from medsam2_atlas.medsam2.propagation import Propagator
from medsam2_atlas.medsam2.tracks import Track, read_together
from medsam2_atlas.medsam2.uploads import uploaded


class BatchedPropagator(Propagator):
    """Runs tracks over the slices of one volume, on a GPU; see `Propagator`.

    Args:
        prepared: the network.
        features: the features of the volume's slices.
        slices: the number of slices of the volume.
        batch: the max number of tracks in one batch.
    """

    def __init__(self, prepared: PreparedNetwork, features: FeatureStore, slices: int, batch: int) -> None:
        super().__init__(prepared, features, slices, batch)
        self._slices = slices

    def _groups(self, going: Sequence[Track], step: int) -> Iterable[list[Track]]:
        """Yields batches of tracks, those with similar amounts of memory together, since shorter ones are padded."""
        places = [(track, track.slice_at(step)) for track in going]
        tracks = [track for track, z in places if z not in track.starting]
        tracks.sort(key=lambda track: self._amount(track, track.slice_at(step)))
        for first in range(0, len(tracks), self._batch):
            yield tracks[first : first + self._batch]

    def _amount(self, track: Track, z: int) -> tuple[int, int]:
        return len(self._spatial(track, z)), len(self._ptrs(track, z))

    def _attend(self, tracks: Sequence[Track], places: Sequence[int], slices: SliceFeatures) -> torch.Tensor:
        """Returns the slices' features conditioned on the tracks' memories, `[n, c, h, w]`."""
        net, attention = self._net, self._prepared.memory_attention
        assert isinstance(attention, BatchedMemoryAttention)
        spatial = [self._spatial(track, z) for track, z in zip(tracks, places, strict=True)]
        read_together([memory for own in spatial for _, memory in own], attention)
        row = int(net.num_maskmem) - 1
        read = [[memory.read(attention, row - place) for place, memory in own] for own in spatial]
        pointers, positions = self._pointer_memories([self._ptrs(track, z) for track, z in zip(tracks, places, strict=True)])
        attended = attention.attend(self._features.first(places), read, pointers, positions)
        return attended.transpose(1, 2).reshape(slices.levels[-1].shape)

    @cached_property
    def _positions_by_distance(self) -> torch.Tensor:
        """The position encoding of a pointer for each distance in slices, from `1 - slices` on, `[distances, tokens, c]`."""
        every = super()._pointer_positions([list(range(1 - self._slices, self._slices))])[0]
        return every.view(2 * self._slices - 1, -1, every.shape[-1])

    def _pointer_positions(self, distances: Sequence[Sequence[int]]) -> torch.Tensor:
        """Returns the position encodings of the pointers of n slices, `[n, max tokens, c]`; shorter lists are padded."""
        most = max(map(len, distances))
        rows = torch.tensor([[*own, *[0] * (most - len(own))] for own in distances]) + self._slices - 1
        return self._positions_by_distance[uploaded(rows, self._prepared.device)].flatten(1, 2)
