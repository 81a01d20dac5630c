"""The mode of MedSAM2 reaches the engine; provenance and report contain it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medsam2_atlas.base.choices import Mode
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.medsam2 import OrganLogits
from medsam2_atlas.prompting import marked_organ
from medsam2_atlas.segmenters import open_images
from medsam2_atlas.segmenters.base import Options
from medsam2_atlas.segmenters.case import Case
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.segmenters.strategies import STRATEGIES, segment

GRID = Geometry((8, 8, 6), (2.0, 2.0, 5.0), (0.0, 0.0, 0.0))
IMAGE = Volume(np.zeros(GRID.shape, np.float32), GRID, GRID)
WITH_NETWORK = sorted({*STRATEGIES, "medsam2"} - {"atlas"})


class Engine:
    """An engine that finds nothing; `made` lists the modes of all engines."""

    made: list[Mode] = []  # noqa: RUF012 emptied by `engines`
    bytes = slice_bytes = 0

    def __init__(self, *_: object, mode: Mode, **__: object) -> None:
        self.mode = mode
        Engine.made.append(mode)

    def segment(self, *_: object, **__: object) -> dict[int, OrganLogits]:
        return {}

    def segment_marked(self, *_: object, **__: object) -> OrganLogits:
        return OrganLogits(6, 0, torch.full((6, 2, 2), -1.0))


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Mode]:
    """Replaces all engines, and returns the list of their modes."""
    Engine.made = []
    monkeypatch.setattr(open_images, "MedSAM2Volume", Engine)
    return Engine.made


def resources() -> LoadedResources:
    weights: Any = SimpleNamespace(
        sha256="w", file="w.pt", device=torch.device("cpu"), mark="", describe=lambda: {"sha256": "w"}
    )
    unet: Any = SimpleNamespace(sha256="u", version="u", device=torch.device("cpu"), validation={}, cases={})
    atlas: Any = SimpleNamespace(version="a", options={})
    return LoadedResources(atlas, weights, {"unet_3d": unet})


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_a_strategy_runs_the_engine_in_the_requested_mode_and_reports_it(engines: list[Mode], mode: Mode) -> None:
    truth = IMAGE.with_array(np.full(GRID.shape, 6, np.uint8))
    result = segment(Case(IMAGE, resources(), Options(organs=(6,), truth=truth, mode=mode)), "reference-1")
    assert engines == [mode]
    assert result.report.to_json()["mode"] == mode
    assert result.report.engine


def test_marks_are_segmented_by_an_engine_of_the_requested_mode(engines: list[Mode]) -> None:
    segmenter = resources().segmenter("medsam2")
    organ = marked_organ(IMAGE, 6, boxes=[[[1, 1, 2], [5, 5, 2]]])
    modes: list[Mode] = ["exact", "exact", "fast", "exact"]
    reported = [segmenter.segment(IMAGE, Options(marks=organ, mode=mode)).report.mode for mode in modes]
    assert reported == modes
    assert engines == ["exact", "fast"], "another mode needs another engine, the same mode does not"


@pytest.mark.parametrize("name", WITH_NETWORK)
def test_the_provenance_contains_the_mode_only_if_it_is_fast(name: str) -> None:
    segmenter = resources().segmenter(name)
    plain = segmenter.provenance(Options())
    assert "mode" not in plain, "stored predictions of earlier releases stay valid"
    fast = segmenter.provenance(Options(mode="fast"))
    assert fast == plain | {"mode": "fast", "precision": fast["precision"]}


@pytest.mark.parametrize("name", ["atlas", "unet_3d"])
def test_a_result_without_medsam2_does_not_depend_on_the_mode(name: str) -> None:
    segmenter = resources().segmenter(name)
    assert segmenter.provenance(Options(mode="fast")) == segmenter.provenance(Options())
    assert "mode" not in segmenter.available_options()


def test_a_viewer_can_choose_the_mode_of_medsam2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoadedResources, "weight_names", lambda _: ["w.pt"])
    for name in WITH_NETWORK:
        assert resources().segmenter(name).available_options()["mode"] == ["exact", "fast"]
