"""Training of a U-Net: stored files, resuming after a kill, and handling of unusable cases."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blocks import PATIENT, labelled
from medsam2_atlas.base.errors import InputError, WeightsError
from medsam2_atlas.imaging.volume import read_volume
from medsam2_atlas.unet import (
    TrainingCase,
    UNetConfig,
    UNetTraining,
    build_unet,
    load_unet,
    predict,
    save_unet,
    split_cases,
    unet_config,
    with_training,
)
from medsam2_atlas.unet.data import usable_cases
from tiny_unets import block_cases, tiny_unet

CPU = torch.device("cpu")
TINY = tiny_unet(epochs=6, validate_every=2, learning_rate=0.01, early_stop=0)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingCase]:
    """Returns four patients made of blocks; the last has only the liver annotated."""
    folder = tmp_path_factory.mktemp("cases")
    labelled(folder, "d", {6: PATIENT[6]}, seen=PATIENT)
    return block_cases(folder, "a", "b", "c")


def weights_of(file: Path) -> dict[str, torch.Tensor]:
    return load_unet(file).network.state_dict()


def test_a_run_keeps_weights_curves_and_dice_per_organ(cases: list[TrainingCase], tmp_path: Path) -> None:
    stats = UNetTraining(cases, TINY, tmp_path / "run", CPU).run()
    assert json.loads((tmp_path / "run" / "stats.json").read_text())["loss"] == stats["loss"]
    assert len(stats["loss"]) == stats["epoch"] == 6
    assert stats["loss"][-1] < stats["loss"][0]
    assert [entry["epoch"] for entry in stats["validation"]] == [2, 4, 6]
    assert set(stats["train_cases"]) | set(stats["validation_cases"]) == {"a", "b", "c", "d"}
    best = load_unet(tmp_path / "run" / "best.pt")
    train = [case for case in cases if case.name in stats["train_cases"]]
    assert best.cases[6] == len(train)
    assert best.cases.get(14, 0) == sum(case.name != "d" for case in train)
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    assert not list((tmp_path / "run").glob(".part*"))


class Killed(BaseException):
    pass


def forget_an_option(file: Path) -> None:
    """Removes an option with its default value from a checkpoint, as if an earlier release without it had written the file."""
    kept = torch.load(file, weights_only=True)
    config = json.loads(kept["config"])
    assert config["training"].pop("weight_decay") == UNetConfig.model_validate(config).training.weight_decay
    torch.save(kept | {"config": json.dumps(config)}, file)


def test_a_killed_and_resumed_run_gives_the_result_of_an_uninterrupted_one(cases: list[TrainingCase], tmp_path: Path) -> None:
    UNetTraining(cases, TINY, tmp_path / "whole", CPU).run()

    def kill(stage: str, share: float) -> None:
        if stage == "training" and share > 0.6:
            raise Killed

    with pytest.raises(Killed):
        UNetTraining(cases, TINY, tmp_path / "killed", CPU, progress=kill).run()
    forget_an_option(tmp_path / "killed" / "latest.pt")
    stats = UNetTraining(cases, TINY, tmp_path / "killed", CPU).run()
    assert stats["resumed_from"] == 4
    assert stats["state"] == "finished"
    whole, killed = (torch.load(tmp_path / run / "latest.pt", weights_only=True) for run in ("whole", "killed"))
    assert whole["stats"]["loss"] == pytest.approx(killed["stats"]["loss"], abs=1e-4)
    for name, tensor in whole["network"].items():
        assert torch.allclose(tensor, killed["network"][name], atol=1e-4), name


def test_a_finished_run_is_followed_by_a_new_one(cases: list[TrainingCase], tmp_path: Path) -> None:
    for _ in range(2):
        stats = UNetTraining(cases, with_training(TINY, {"epochs": 2}), tmp_path / "run", CPU).run()
    assert stats["resumed_from"] is None
    assert len(stats["loss"]) == 2


def test_initial_weights_stay_if_training_does_not_improve_them(cases: list[TrainingCase], tmp_path: Path) -> None:
    UNetTraining(cases, with_training(TINY, {"epochs": 30, "validate_every": 10}), tmp_path / "good", CPU).run()
    good = load_unet(tmp_path / "good" / "best.pt")
    spoil = with_training(TINY, {"epochs": 2, "learning_rate": 5.0})
    marked = replace(good, mark="demo", cases={6: 99})
    stats = UNetTraining(cases, spoil, tmp_path / "run", CPU, start=marked).run()
    assert stats["best_metric_epoch"] == 0
    assert stats["started_from"]["sha256"] == good.sha256
    kept, before = weights_of(tmp_path / "run" / "best.pt"), good.network.state_dict()
    best = load_unet(tmp_path / "run" / "best.pt")
    assert (best.mark, best.cases) == ("demo", {6: 99})  # mark and cases of the initial weights are unchanged
    assert all(torch.equal(kept[name], before[name]) for name in before)


def test_training_stops_when_validation_no_longer_improves(cases: list[TrainingCase], tmp_path: Path) -> None:
    still = with_training(TINY, {"epochs": 40, "validate_every": 1, "early_stop": 2, "learning_rate": 1e-12})
    stats = UNetTraining(cases, still, tmp_path / "run", CPU).run()
    assert stats["epoch"] == 3
    assert stats["state"] == "finished"


def test_a_single_case_trains_without_validation(cases: list[TrainingCase], tmp_path: Path) -> None:
    stats = UNetTraining(cases[:1], with_training(TINY, {"epochs": 2}), tmp_path / "run", CPU).run()
    assert stats["validation_cases"] == []
    assert load_unet(tmp_path / "run" / "best.pt").validation == {}


def test_training_without_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Sign off"):
        UNetTraining([], TINY, tmp_path / "run", CPU)


def test_a_case_that_cannot_be_used_does_not_stop_training(cases: list[TrainingCase], tmp_path: Path) -> None:
    labelled(tmp_path, "empty", {}, seen=PATIENT)
    labelled(tmp_path, "wild", {**PATIENT, 16: PATIENT[6]})
    labelled(tmp_path, "shifted", PATIENT, z_from=2)
    empty = (tmp_path / "images" / "empty.nii.gz", tmp_path / "labels" / "empty.nii.gz")
    (tmp_path / "labels" / "garbage.nii.gz").write_bytes(b"no image")
    good = cases[0]
    more = [
        TrainingCase("garbage", good.image, tmp_path / "labels" / "garbage.nii.gz"),
        TrainingCase("gone", tmp_path / "gone.nii.gz", good.label),
        TrainingCase("strange", good.image, good.label, annotated=(999,)),  # raises an IndexError, as a library may
        TrainingCase("empty", *empty),
        TrainingCase("wild", tmp_path / "images" / "wild.nii.gz", tmp_path / "labels" / "wild.nii.gz"),
        TrainingCase("shifted", tmp_path / "images" / "shifted.nii.gz", good.label),
    ]
    complete = TrainingCase("complete", *empty, annotated=(6,))  # a person has stated that there is no liver
    shorter = with_training(TINY, {"epochs": 2})
    stats = UNetTraining([*cases, *more, complete], shorter, tmp_path / "run", CPU, skipped={"before": "no label"}).run()
    assert set(stats["skipped"]) == {"garbage", "gone", "strange", "before", "empty", "wild", "shifted"}
    assert "contains no organ" in stats["skipped"]["empty"]
    assert "[16]" in stats["skipped"]["wild"]
    assert "40 x 30 x 30 voxels instead of" in stats["skipped"]["shifted"]
    assert "garbage.nii.gz" in stats["skipped"]["garbage"]
    assert json.loads((tmp_path / "run" / "stats.json").read_text())["skipped"] == stats["skipped"]
    assert set(stats["train_cases"]) | set(stats["validation_cases"]) == {"a", "b", "c", "d", "complete"}
    with pytest.raises(InputError, match=r"no case that can be used.*garbage"):
        UNetTraining(more[:2], shorter, tmp_path / "other", CPU)
    with pytest.raises(InputError, match=r"gone: cannot be trained on: .*gone\.nii\.gz"):
        UNetTraining([*cases, more[1]], shorter, tmp_path / "other", CPU, strict=True)


def test_a_damaged_cache_file_does_not_stop_training(cases: list[TrainingCase], tmp_path: Path) -> None:
    shorter = with_training(TINY, {"epochs": 2})
    UNetTraining(cases, shorter, tmp_path / "run", CPU)
    for file in (tmp_path / "run" / "cache").rglob("*.pt"):
        file.write_bytes(file.read_bytes()[:-300])
    stats = UNetTraining(cases, shorter, tmp_path / "run", CPU).run()
    assert stats["skipped"] == {}


@given(st.sets(st.text("abcdef", min_size=1, max_size=6), min_size=2, max_size=40), st.floats(0.05, 0.8))
def test_a_validation_case_is_never_used_for_training_later(names: set[str], share: float) -> None:
    cases = [TrainingCase(name, Path(name), Path(name)) for name in sorted(names)]
    train, validation = split_cases(cases, share)
    assert len(train) >= 1
    assert len(validation) >= 1
    assert {c.name for c in train} | {c.name for c in validation} == names
    more = [*cases, *(TrainingCase(f"new-{n}", Path(), Path()) for n in range(400))]
    later = {c.name for c in split_cases(more, share)[1]}
    stable = {c.name for c in split_cases(more[: len(cases) + 200], share)[1]}
    assert stable <= later


def test_saved_weights_are_loaded_with_their_metadata(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = build_unet(TINY).state_dict()
    save_unet(tmp_path / "u.pt", state, TINY, validation={6: 0.9}, cases={6: 12}, mark="demo", half=True)
    unet = load_unet(tmp_path / "u.pt")
    assert (unet.config, unet.validation, unet.cases, unet.mark) == (TINY, {6: 0.9}, {6: 12}, "demo")
    assert all(torch.allclose(tensor, state[name], atol=1e-2) for name, tensor in unet.network.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk"])
def test_a_file_without_weights_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "u.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"u\.pt"):
        load_unet(tmp_path / "u.pt")


def test_a_checkpoint_without_a_unet_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "u.pt")
    with pytest.raises(WeightsError, match="does not contain a U-Net"):
        load_unet(tmp_path / "u.pt")


WHOLE = "dimensions: 2\nslice_pixels: [64, 64]\nfilters: [8, 16, 32]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dimensions: 3\nspacing: [3, 3, 3]\npatch: [60, 64, 64]\nfilters: [8, 16, 32, 64]", "multiple of 8"),
        ("dimensions: 2\nspacing: [3, 3, 3]\npatch: [64, 64, 64]\nfilters: [8, 16, 32]", "2 sides"),
        ("dimensions: 3\nspacing: [3, 3, 3]\npatch: [64, 64, 64]\nfilters: [8, 16, 32]\nmirror: true", "mirror"),
        ("dimensions: 3\nspacing: [3, 3, 3]\npatch: [64, 64, 64]\nfilters: [8, 16, 32]\nwindow: [200, 0]", "lower bound"),
        (f"{WHOLE}spacing: [2, 0, 0]\npatch: [64, 64]", "spacing: x and y must be 0"),
        (f"{WHOLE}spacing: [0, 0, 3]\npatch: [64, 128]", "not be larger than slice_pixels"),
        ("{", "configuration"),
    ],
)
def test_an_invalid_configuration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        unet_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("name", ["unet_2d", "unet_3d", "unet_3d_large", "unet_2d_published", "unet_3d_published"])
def test_the_presets_are_valid_and_fit_their_networks(name: str) -> None:
    config = unet_config(name)
    assert build_unet(config) is not None
    with pytest.raises(InputError, match="epochs"):
        with_training(config, {"epochs": 0})


@pytest.mark.parametrize("name", ["unet_2d_published", "unet_3d_published"])
def test_the_published_presets_resample_whole_slices_to_256_pixels(name: str) -> None:
    config = unet_config(name)
    assert config.slice_pixels == (256, 256)
    assert config.spacing == (0, 0, 0)
    assert config.dimensions == 3 or config.patch == config.slice_pixels


@pytest.mark.parametrize("dimensions", [2, 3])
def test_whole_slices_train_a_network_whose_weights_segment_a_ct(
    dimensions: int, cases: list[TrainingCase], tmp_path: Path
) -> None:
    training = {"epochs": 3, "patches_per_case": 8 // dimensions, "validate_every": 3, "learning_rate": 0.01}
    sizes = {"dimensions": dimensions, "spacing": (0, 0, 0), "slice_pixels": (32, 16), "patch": (32, 16, 16)[:dimensions]}
    config = UNetConfig.model_validate({**sizes, "filters": (4, 8, 16), "heads": 1, "training": training})
    stats = UNetTraining(cases, config, tmp_path / "run", CPU).run()
    assert stats["loss"][-1] < stats["loss"][0]
    assert stats["validation"]
    unet, image = load_unet(tmp_path / "run" / "best.pt"), read_volume(cases[0].image)
    assert unet.config == config
    assert predict(image, unet).labels.shape == image.array.shape == (30, 30, 40)


def test_presets_without_slice_pixels_reuse_the_cache_of_earlier_versions(cases: list[TrainingCase], tmp_path: Path) -> None:
    for name, folder in (("unet_2d", "5cdce4bf99c3"), ("unet_3d", "5b9bbd5fb582")):  # printed by version 97d9e78
        usable_cases(cases[:1], unet_config(name), tmp_path)
        assert (tmp_path / folder).is_dir()


def test_weights_that_were_written_before_slice_pixels_existed_are_loaded(tmp_path: Path) -> None:
    save_unet(tmp_path / "new.pt", build_unet(TINY).state_dict(), TINY, validation={}, cases={})
    content = torch.load(tmp_path / "new.pt", weights_only=True)
    assert content["config"].pop("slice_pixels") is None
    torch.save(content, tmp_path / "old.pt")
    assert load_unet(tmp_path / "old.pt").config == TINY


def test_slices_train_a_two_dimensional_network(cases: list[TrainingCase], tmp_path: Path) -> None:
    flat = UNetConfig.model_validate(
        {
            "dimensions": 2,
            "spacing": (8.0, 8.0, 0.0),
            "patch": (16, 16),
            "filters": (4, 8, 16),
            "heads": 1,
            "training": {"epochs": 8, "patches_per_case": 8, "validate_every": 8, "learning_rate": 0.01},
        }
    )
    stats = UNetTraining(cases, flat, tmp_path / "run", CPU).run()
    assert stats["loss"][-1] < stats["loss"][0]
    assert load_unet(tmp_path / "run" / "best.pt").config.dimensions == 2
