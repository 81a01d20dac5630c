"""CTs stay open between cases, within a limit on memory."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from omegaconf import DictConfig

from gpu_results import Gpu
from legacy import seeded_state
from medsam2_atlas.imaging.volume import Geometry, Volume, from_sitk
from medsam2_atlas.medsam2 import Weights, build_network, encoder
from medsam2_atlas.prompting import marked_organ
from medsam2_atlas.segmenters import open_images
from medsam2_atlas.segmenters.base import Options
from medsam2_atlas.segmenters.open_images import OpenImages, configured_bytes, none_kept
from medsam2_atlas.segmenters.open_images_config import OpenImagesConfig
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.studies.models import Models

CPU, LIVER, SLICES, PER_SLICE = torch.device("cpu"), 6, 10, 100
GRID = Geometry((1, 1, SLICES), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


class FakePrepared:
    """A prepared CT whose slices need 100 bytes each once they are encoded."""

    def __init__(self, weights: Weights, hu: np.ndarray, **options: Any) -> None:
        self.encoded = 0

    @property
    def bytes(self) -> int:
        return SLICES + self.encoded * PER_SLICE

    @property
    def slice_bytes(self) -> float:
        return PER_SLICE if self.encoded else 0.0


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Weights:
    monkeypatch.setattr(open_images, "MedSAM2Volume", FakePrepared)
    return fake_weights("a")


def fake_weights(checksum: str, file: str = "w.pt") -> Weights:
    return Weights(torch.nn.Linear(1, 1), DictConfig({}), Path(file), checksum, "")


def ct(value: float) -> Volume:
    return Volume(np.full(GRID.shape, value, np.float32), GRID, GRID)


def encode(images: OpenImages, image: Volume, weights: Weights, slices: int = SLICES, **options: Any) -> Any:
    opened: Any = images.open(image, weights, **options)
    with opened.used() as prepared:
        prepared.encoded = slices
    return opened


def test_a_ct_stays_open_for_the_same_weights_device_step_and_mode(fake: Weights) -> None:
    images = OpenImages(lambda _: 10**6)
    opened = images.open(ct(0), fake)
    assert images.open(ct(0), fake) is opened
    others = [
        images.open(ct(1), fake),
        images.open(ct(0), fake, memory="small"),
        images.open(ct(0), fake, mode="fast"),
        images.open(ct(0), fake_weights("a2", "other.pt")),
    ]
    assert len({id(one) for one in (opened, *others)}) == 5


def test_the_ct_that_was_used_longest_ago_is_closed_first(fake: Weights) -> None:
    images = OpenImages(lambda _: 2500)
    first, second = encode(images, ct(1), fake), encode(images, ct(2), fake)
    images.open(ct(1), fake)
    encode(images, ct(3), fake)
    assert images.open(ct(1), fake) is first
    assert images.open(ct(2), fake) is not second


def test_memory_stays_within_the_limit_over_fifty_cases_and_also_while_a_case_encodes_its_slices(fake: Weights) -> None:
    limit, generator = 3500, np.random.default_rng(1)
    images = OpenImages(lambda _: limit)
    for _ in range(50):
        opened: Any = images.open(ct(float(generator.integers(8))), fake)
        with opened.used() as prepared:
            for encoded in range(prepared.encoded, SLICES + 1):
                prepared.encoded = encoded
                assert images.bytes <= limit
        assert 0 < images.bytes <= limit


def test_a_ct_larger_than_the_limit_is_closed_after_its_case_and_remains_usable_until_then(fake: Weights) -> None:
    images = OpenImages(lambda _: 900)
    small = encode(images, ct(1), fake, slices=2)
    large: Any = images.open(ct(2), fake)
    with large.used() as prepared:
        prepared.encoded = SLICES
        assert len(images) == 1, "room was made before the slices needed it"
    assert len(images) == 0
    with large.used() as again:
        assert again is prepared
    assert small.bytes == SLICES + 2 * PER_SLICE


def test_cts_of_weights_that_were_replaced_are_closed(fake: Weights) -> None:
    images = OpenImages(lambda _: 10**6)
    encode(images, ct(1), fake)
    encode(images, ct(2), fake_weights("c", "other.pt"))
    encode(images, ct(3), fake_weights("b"))
    assert sorted(key.weights for key in images._open) == ["b", "c"]


def test_commands_keep_no_ct_open(fake: Weights) -> None:
    images = Models({"device": "cpu"}).images
    encode(images, ct(1), fake)
    assert len(images) == 0
    assert none_kept(CPU) == 0


def test_two_threads_open_a_ct_once_and_use_it_one_after_the_other(fake: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    images, both, seen = OpenImages(lambda _: 10**6), threading.Barrier(2, timeout=10), list[Any]()
    inside = threading.Lock()

    def prepare(*arguments: Any, **options: Any) -> FakePrepared:
        both.wait()  # both threads find no open CT
        return FakePrepared(*arguments, **options)

    monkeypatch.setattr(open_images, "MedSAM2Volume", prepare)

    def work() -> None:
        opened = images.open(ct(1), fake)
        with opened.used() as prepared:
            assert inside.acquire(blocking=False)
            both_saw.wait(0.05)
            inside.release()
            seen.append(prepared)

    both_saw = threading.Event()
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(seen) == 2
    assert seen[0] is seen[1]


def test_the_limit_on_a_gpu_is_a_share_of_its_memory(monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> None:
    monkeypatch.setattr(open_images, "open_images_config", lambda: OpenImagesConfig(max_gib=0.5, max_gpu_share=0.1))
    assert configured_bytes(CPU) == 2**29
    with gpu() as device:
        assert configured_bytes(device) == int(0.1 * torch.cuda.get_device_properties(device).total_memory)


def test_slices_kept_in_main_memory_do_not_count_for_the_gpu(fake: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Weights, "device", property(lambda _: torch.device("cuda:0")))
    images = OpenImages(lambda device: 0 if device.type == "cuda" else 10**6)
    encode(images, ct(1), fake, memory="small")
    encode(images, ct(2), fake)
    assert [key.memory for key in images._open] == ["small"]


@pytest.fixture(scope="module")
def weights(narrow_config: DictConfig) -> Weights:
    network = build_network(narrow_config)
    network.load_state_dict(seeded_state(narrow_config))
    return Weights(network, narrow_config, Path("seeded"), "", "")


@pytest.fixture(scope="module")
def patient() -> tuple[Volume, Volume]:
    """A CT with a bright block on four of six slices, and its label map."""
    hu, labels = np.full((6, 40, 40), 40, np.float32), np.zeros((6, 40, 40), np.uint8)
    hu[1:5, 12:28, 12:28], labels[1:5, 12:28, 12:28] = 150, LIVER
    return from_sitk(sitk.GetImageFromArray(hu)), from_sitk(sitk.GetImageFromArray(labels))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns the numbers of slices that are encoded together, in order."""
    found: list[int] = []
    to_network = encoder.to_network

    def counted(planes: list[np.ndarray], *arguments: Any, **options: Any) -> torch.Tensor:
        found.append(len(planes))
        return to_network(planes, *arguments, **options)

    monkeypatch.setattr(encoder, "to_network", counted)
    return found


def clicked(patient: tuple[Volume, Volume]) -> Options:
    return Options(marks=marked_organ(patient[0], LIVER, boxes=[[[12, 12, 2], [27, 27, 2]]], reach=1))


def test_a_correction_after_the_automatic_segmentation_encodes_no_slice(
    patient: tuple[Volume, Volume], weights: Weights, encoded: list[int]
) -> None:
    given = LoadedResources(None, weights)
    given.segmenter("reference-3").segment(patient[0], Options(organs=(LIVER,), truth=patient[1]))
    assert sum(encoded) == 4
    found = given.segmenter("medsam2").segment(patient[0], clicked(patient))
    assert sum(encoded) == 4
    alone = LoadedResources(None, weights).segmenter("medsam2").segment(patient[0], clicked(patient))
    assert sum(encoded) == 7
    assert np.array_equal(found.labels.array, alone.labels.array)


def test_freed_gpu_memory_includes_open_cts(patient: tuple[Volume, Volume], weights: Weights, gpu: Gpu) -> None:
    with gpu() as device:
        given = LoadedResources(None, weights, device=device)
        given.segmenter("medsam2").segment(patient[0], clicked(patient))
        assert len(given.images) == 1
        given.release()
        assert len(given.images) == 0


def test_all_kept_data_of_cts_can_be_forgotten_and_a_running_case_is_reported(fake: Weights) -> None:
    models = Models({"device": "cpu"}, keeps_images=True)
    models._scores["image", "atlas"] = object()  # type: ignore[assignment]
    encode(models.images, ct(1), fake)
    with models.busy:
        assert not models.forget_cases()
    assert not models._scores
    assert len(models.images) == 0
    assert models.forget_cases()
    assert not models.busy.locked()


def test_limits_outside_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match="max_gpu_share"):
        replace_settings(max_gpu_share=1.5)
    with pytest.raises(ValueError, match="max_gib"):
        replace_settings(max_gib=-1)


def replace_settings(**settings: float) -> OpenImagesConfig:
    return OpenImagesConfig.model_validate(settings)
