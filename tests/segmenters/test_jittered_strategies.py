"""The reference strategies displace their true prompts if the options contain a jitter; the other strategies refuse it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.prompting import Jitter, Prompts, jittered, prompting_config, prompts_from_labels
from medsam2_atlas.segmenters.base import Options, Provenance
from medsam2_atlas.segmenters.case import Case
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.segmenters.strategies import REFERENCE_STRATEGIES, STRATEGIES, Segmentation, segment

GRID = Geometry((40, 40, 20), (2.0, 2.0, 5.0), (0.0, 0.0, 0.0))
IMAGE = Volume(np.zeros(GRID.shape, np.float32), GRID, GRID)
TEN = Jitter("shift", 10)


def truth() -> Volume:
    labels = np.zeros(GRID.shape, np.uint8)
    labels[4:15, 10:25, 12:30] = 6
    return IMAGE.with_array(labels)


def true_prompts() -> Prompts:
    return prompts_from_labels(truth().array, [6], prompting_config().three_boxes, "")


def resources() -> LoadedResources:
    weights: Any = SimpleNamespace(sha256="w", device=torch.device("cpu"), mark="", describe=lambda: {"sha256": "w"})
    atlas: Any = SimpleNamespace(version="a", options={})
    return LoadedResources(atlas, weights)


def run(monkeypatch: pytest.MonkeyPatch, strategy: str, jitter: Jitter | None) -> tuple[Prompts, Segmentation]:
    """Returns the prompts that the network gets, and the result."""
    given: list[Prompts] = []

    def prompted(case: Case, prompts: Prompts, _: object) -> np.ndarray:
        given.append(prompts)
        return np.zeros(case.image.array.shape, np.uint8)

    monkeypatch.setattr(Case, "prompted", prompted)
    result = segment(Case(IMAGE, resources(), Options(organs=(6,), truth=truth(), jitter=jitter)), strategy)
    return given[0], result


def provenance(strategy: str, jitter: Jitter | None) -> Provenance:
    return resources().segmenter(strategy).provenance(Options(jitter=jitter))


def test_a_reference_strategy_prompts_with_the_displaced_true_boxes_and_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, result = run(monkeypatch, "reference-3", TEN)
    assert prompts == jittered(true_prompts(), TEN, GRID, IMAGE.digest) != true_prompts()
    report = result.report.to_json()
    assert (report["jitter"], report["uses_truth"]) == ("shift=10", True)
    assert report["prompts"][0]["boxes"][0]["box"] == list(prompts.prompts[0].boxes[0].box)


def test_an_organ_whose_prompt_leaves_the_volume_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, result = run(monkeypatch, "reference-1", Jitter("shift", 1000))
    assert prompts.prompts == ()
    assert result.report.without_prompt == {"liver": "the jitter moved its prompt out of the volume"}


def test_one_box_and_three_boxes_move_in_the_same_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    one, three = (run(monkeypatch, name, TEN)[0].prompts[0] for name in ("reference-1", "reference-3"))
    assert (one.z_min, one.z_max, one.boxes[0]) == (three.z_min, three.z_max, three.boxes[1])


def test_without_a_jitter_prompts_report_and_provenance_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, result = run(monkeypatch, "reference-3", None)
    assert prompts == true_prompts()
    assert "jitter" not in result.report.to_json()
    assert "jitter" not in provenance("reference-3", None)


def test_the_provenance_contains_the_jitter() -> None:
    plain = provenance("reference-1", None)
    assert provenance("reference-1", Jitter("scale", -5)) == plain | {"jitter": "scale=-5"}


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - REFERENCE_STRATEGIES))
def test_other_strategies_refuse_a_jitter(strategy: str) -> None:
    with pytest.raises(InputError, match="reference-1 or reference-3 only"):
        segment(Case(IMAGE, resources(), Options(truth=truth(), jitter=TEN)), strategy)
    with pytest.raises(InputError, match="has no true prompts"):
        provenance(strategy, TEN)
