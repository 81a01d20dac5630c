"""If a GPU's memory is short, MedSAM2 uses less of it and gives the same result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from omegaconf import DictConfig

from legacy import seeded_state
from medsam2_atlas.base.choices import Memory
from medsam2_atlas.base.memory import STEPS, Ladder
from medsam2_atlas.imaging.volume import Volume, from_sitk
from medsam2_atlas.medsam2 import MedSAM2Volume, Weights, build_network
from medsam2_atlas.prompting import prompting_config, prompts_from_labels
from medsam2_atlas.segmenters import resources
from medsam2_atlas.segmenters.base import Options, Segmentation
from medsam2_atlas.segmenters.case import Case
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.segmenters.strategies import segment
from medsam2_atlas.studies.runner import run
from pretended_gpu import errors, pretended_gpu

GPU = torch.device("cuda:0")


@pytest.fixture(scope="module")
def weights(narrow_config: DictConfig) -> Weights:
    network = build_network(narrow_config)
    network.load_state_dict(seeded_state(narrow_config))
    return Weights(network, narrow_config, Path("seeded"), "", "")


@pytest.fixture(scope="module")
def patient() -> tuple[Volume, Volume]:
    """A CT with a bright block on four of six slices, and its label map."""
    hu, labels = np.full((6, 40, 40), 40, np.float32), np.zeros((6, 40, 40), np.uint8)
    hu[1:5, 12:28, 12:28], labels[1:5, 12:28, 12:28] = 150, 6
    image, label = sitk.GetImageFromArray(hu), sitk.GetImageFromArray(labels)
    return from_sitk(image), from_sitk(label)


def given(weights: Weights, device: torch.device | None = None) -> LoadedResources:
    return LoadedResources(None, weights, device=device)


def options_of(patient: tuple[Volume, Volume]) -> Options:
    return Options(organs=(6,), truth=patient[1])


def run_on_gpu(weights: Weights, patient: tuple[Volume, Volume]) -> Segmentation:
    """Runs a case as commands do."""
    models = given(weights, GPU)
    return run(models.segmenter("reference-3"), patient[0], options_of(patient), models).segmentation


def peak_of(weights: Weights, patient: tuple[Volume, Volume], memory: Memory) -> tuple[int, torch.Tensor]:
    """Returns the max number of bytes on the card, and the logits."""
    prompts = prompts_from_labels(patient[1].array, [6], prompting_config().three_boxes, "none").prompts
    with pretended_gpu() as machine:
        found = MedSAM2Volume(weights.on(GPU), patient[0].array, memory=memory).segment(prompts)
        return machine.cards[0].peak, found[6].values


def test_less_memory_is_used_on_the_card_with_the_same_result(weights: Weights, patient: tuple[Volume, Volume]) -> None:
    peaks, logits = zip(*(peak_of(weights, patient, memory) for memory in STEPS[:3]), strict=True)
    assert peaks[0] > peaks[1] > peaks[2]
    for other in logits[1:]:
        assert float((other - logits[0]).abs().mean()) < 1e-3
    with pretended_gpu(megabytes=(peaks[1] + peaks[2]) / 2 / 2**20):
        result = run_on_gpu(weights, patient)
    assert result.report.memory == "out of GPU memory as usual; done in smaller steps with smaller batches"
    assert result.report.device == "cuda:0"


def test_smaller_batches_suffice_if_little_memory_is_missing(
    weights: Weights, patient: tuple[Volume, Volume], caplog: pytest.LogCaptureFixture
) -> None:
    with pretended_gpu():
        usual = run_on_gpu(weights, patient)
    peak = peak_of(weights, patient, "")[0]
    with pretended_gpu(megabytes=0.98 * peak / 2**20):
        result = run_on_gpu(weights, patient)
    assert usual.report.memory is None
    assert result.report.memory == "out of GPU memory at times; done as usual with smaller batches"
    assert "out of GPU memory with" in caplog.text
    assert np.array_equal(result.labels.array, usual.labels.array)


def test_a_report_of_fast_mode_names_16_bits(weights: Weights, patient: tuple[Volume, Volume]) -> None:
    with pretended_gpu():
        models = given(weights, GPU)
        segmenter, options = models.segmenter("reference-3"), replace(options_of(patient), mode="fast")
        assert segmenter.provenance(options)["precision"] == "bfloat16"
        report = run(segmenter, patient[0], options, models).segmentation.report
    assert (report.device, report.precision) == ("cuda:0", "bfloat16")


def test_a_command_s_case_falls_back_to_the_processor_with_the_same_label_map(
    weights: Weights, patient: tuple[Volume, Volume]
) -> None:
    expected = segment(Case(patient[0], given(weights), options_of(patient)), "reference-3").labels.array
    with pretended_gpu(megabytes=1):
        result = run_on_gpu(weights, patient)
    assert (result.report.memory or "").endswith("done on the processor")
    assert (result.report.device, result.report.precision) == ("cpu", "float32")
    assert np.array_equal(result.labels.array, expected)


def test_a_failed_attempt_leaves_nothing_on_the_card(weights: Weights, patient: tuple[Volume, Volume]) -> None:
    with pretended_gpu() as machine:
        machine.cards[0].fail(errors.cublas_allocation_failed, after=1500)
        left: list[int] = []
        models = given(weights, GPU)

        def release() -> None:
            models.release()
            left.append(machine.cards[0].used)

        models.ladder = Ladder(GPU, release)
        result = run(models.segmenter("reference-3"), patient[0], options_of(patient), models).segmentation
        assert result.report.memory == "out of GPU memory as usual; done in smaller steps"
    assert left == [0]


def test_registration_is_not_repeated(
    weights: Weights, patient: tuple[Volume, Volume], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    monkeypatch.setattr(resources, "score_maps", lambda *_, **__: made.append(object()) or made[-1])
    models, atlas = given(weights), SimpleNamespace(version="a")
    assert models.score_maps(patient[0], atlas) is models.score_maps(patient[0], atlas)  # type: ignore[arg-type]
    assert len(made) == 1
