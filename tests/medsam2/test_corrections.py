"""A corrected organ is tracked first up to its last correction only, with the result of a first run over all slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from legacy import seeded_state
from medsam2_atlas.medsam2 import MedSAM2Volume, OrganLogits, Weights, build_network
from medsam2_atlas.medsam2.tracks import Track
from medsam2_atlas.prompting import MarkedOrgan, SliceMarks

BOX = SliceMarks(5, (10, 10, 30, 30))
CORRECTIONS = (SliceMarks(4, None, (), ((14, 14),)), SliceMarks(8, None, ((20, 20),)))
SLICES, PATIENCE = 14, 20


@pytest.fixture(scope="module")
def engine(narrow_config: DictConfig) -> MedSAM2Volume:
    network = build_network(narrow_config)
    network.load_state_dict(seeded_state(narrow_config))
    hu = np.random.default_rng(3).normal(60, 30, (SLICES, 40, 40)).astype(np.float32)
    hu[3:11, 12:28, 12:28] += 150
    return MedSAM2Volume(Weights(network, narrow_config, Path("seeded"), "", ""), hu)


def tracked(monkeypatch: pytest.MonkeyPatch, engine: MedSAM2Volume, organ: MarkedOrgan) -> tuple[OrganLogits, list[int]]:
    """Returns the result, and the numbers of tracked slices of the runs."""
    runs: list[int] = []
    run = engine._propagator.run

    def counted(tracks: list[Track], *arguments: object) -> None:
        run(tracks, *arguments)  # type: ignore[arg-type]
        runs.append(len({z for track in tracks for z in track.logits}))

    monkeypatch.setattr(engine._propagator, "run", counted)
    return engine.segment_marked(organ, patience=PATIENCE), runs


def whole_first_run(engine: MedSAM2Volume, organ: MarkedOrgan) -> torch.Tensor:
    """Returns the logits `[n, h, w]` if the first run tracks all slices."""

    def both_ways(start: int) -> list[Track]:
        return engine._both_ways(organ, start, PATIENCE, 0.0)

    tracks = both_ways(BOX.z)
    for track in tracks:
        track.starts = {BOX.z: engine._points(BOX)}
        ahead = [marks for marks in organ.correcting if track.direction * (marks.z - BOX.z) > 0]
        track.corrections = {marks.z: engine._points(marks) for marks in ahead}
    engine._propagator.run(tracks)
    known = {z: memory for track in tracks for z, memory in (track.starting | track.corrected).items()}
    logits = {z: track.logits[z] for track in tracks for z in known if z in track.logits}
    tracks = both_ways(min(known))
    for track in tracks:
        track.starting, track.logits = dict(known), dict(logits)
    engine._propagator.run(tracks)
    found = {z: values for track in tracks for z, values in track.logits.items()}
    return torch.cat([found[z] for z in sorted(found)])


@pytest.mark.parametrize(
    ("corrections", "first"), [(CORRECTIONS, [4, 5, 6, 7, 8]), (CORRECTIONS[:1], [4, 5]), (CORRECTIONS[1:], [5, 6, 7, 8])]
)
def test_the_first_run_ends_at_the_last_correction_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch, engine: MedSAM2Volume, corrections: tuple[SliceMarks, ...], first: list[int]
) -> None:
    organ = MarkedOrgan(1, 0, SLICES - 1, (BOX,), corrections)
    expected = whole_first_run(engine, organ)
    found, runs = tracked(monkeypatch, engine, organ)
    assert runs == [len(first), SLICES]
    assert torch.equal(found.values, expected)
    assert (expected > 0).any()


def test_an_organ_without_corrections_is_tracked_once(monkeypatch: pytest.MonkeyPatch, engine: MedSAM2Volume) -> None:
    found, runs = tracked(monkeypatch, engine, MarkedOrgan(1, 0, SLICES - 1, (BOX,)))
    assert runs == [SLICES]
    assert len(found.values) == SLICES
