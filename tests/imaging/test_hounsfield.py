"""Values that are not HU are refused with the reason, and corrected on request."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from typer.testing import CliRunner

from blocks import PATIENT, QUICK, labelled
from fake_segmenters import FakeSegmenter, plain_models
from medsam2_atlas.atlas import BuildOptions, GrowthOptions, ReferenceFiles, build_atlas, find_references, grow_atlas
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.cli import app
from medsam2_atlas.comparison import compare_studies
from medsam2_atlas.imaging.hounsfield import CHECK, OFFSETS, HuRule, examine, read_ct, to_hu
from medsam2_atlas.imaging.volume import Geometry, Volume, read_volume
from medsam2_atlas.segmenters.base import Options, Provenance, Report, Segmentation
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.storage import StudyFolder, WorkFolder
from medsam2_atlas.studies import StudiesGrowthOptions, grow_studies_atlas
from medsam2_atlas.unet import TrainingCase, unet_config
from medsam2_atlas.unet.data import usable_cases

AUTO, AS_IS = HuRule("auto"), HuRule("as-is")


def patient(noise: float = 15.0) -> np.ndarray:
    """Returns a trunk in air, `[z, y, x]` float32 HU of 24 x 60 x 80 voxels: fat, muscle, liver, spine, lungs at the top."""
    z, y, x = np.indices((24, 60, 80), np.float32)
    inside = ((y - 30) / 24) ** 2 + ((x - 40) / 32) ** 2
    hu = np.full(z.shape, -1000, np.float32)
    hu[inside < 1] = -100
    hu[inside < 0.7] = 50
    hu[(inside < 0.7) & (x < 35)] = 110
    hu[(np.abs(y - 42) < 5) & (np.abs(x - 40) < 5)] = 400
    hu[(inside < 0.5) & (z > 17) & (np.abs(x - 40) > 8)] = -820
    hu[(np.abs(y - 24) < 3) & (np.abs(x - 46) < 4) & (z < 10)] = -950  # bowel gas
    return (hu + np.random.default_rng(0).normal(0, noise, hu.shape)).astype(np.float32)


def volume(array: np.ndarray) -> Volume:
    grid = Geometry(array.shape[::-1], (4.0, 4.0, 6.0), (0.0, 0.0, 0.0))  # type: ignore[arg-type]
    return Volume(np.asarray(array, np.float32), grid, grid, "ct.nii.gz")


def write(array: np.ndarray, file: Path) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((4.0, 4.0, 6.0))
    sitk.WriteImage(image, str(file))
    return file


def padded(hu: np.ndarray, value: float) -> np.ndarray:
    """Returns a CT whose voxels outside of a round field of view have one value."""
    _, y, x = np.indices(hu.shape)
    return np.where((y - 30) ** 2 / 29**2 + (x - 40) ** 2 / 39**2 > 1, value, hu)


def with_metal(hu: np.ndarray) -> np.ndarray:
    hu = hu.copy()
    hu[5:8, 30:34, 20:24] = 3071
    hu[5:8, 34:36, 10:40] = -1400  # a dark streak
    return hu


PLAUSIBLE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "whole": lambda hu: hu,
    "rounded": lambda hu: np.rint(hu).astype(np.int16),
    "air clipped at −1024": lambda hu: np.maximum(hu, -1024),
    "air without noise": lambda hu: np.where(hu < -900, -1000, hu),
    "much noise": lambda _: patient(60.0),
    "padding −2000": lambda hu: padded(hu, -2000),
    "padding −3024": lambda hu: padded(hu, -3024),
    "padding −1024": lambda hu: padded(hu, -1024),
    "padding 0": lambda hu: padded(hu, 0),
    "metal": with_metal,
    "dense contrast": lambda hu: np.where((hu > 90) & (hu < 200), hu + 200, hu),
    "inside the body": lambda hu: hu[2:16, 10:50, 15:65],
    "inside an organ": lambda hu: np.random.default_rng(0).normal(40, 30, hu.shape),
    "lung only": lambda hu: hu[18:, 18:42, 14:34],
    "small body": lambda hu: np.pad(hu, ((0, 0), (80, 80), (80, 80)), constant_values=-1000),
}


@pytest.mark.parametrize("kind", PLAUSIBLE)
def test_a_ct_in_hu_is_accepted_and_not_changed(kind: str) -> None:
    image = volume(PLAUSIBLE[kind](patient()))
    found = to_hu(image)
    assert found.array is image.array
    assert found.hu is not None
    assert (found.hu["rule"], found.hu["offset"], found.hu["found"]) == ("check", 0.0, "plausible")
    assert to_hu(image, AUTO).array is image.array


@pytest.mark.parametrize("noise", [0.0, 15.0, 30.0])
@pytest.mark.parametrize("offset", OFFSETS)
def test_a_known_offset_is_reported_and_corrected(offset: int, noise: float) -> None:
    hu = patient(noise)
    shifted = volume(hu + offset)
    with pytest.raises(
        InputError, match=rf"ct.nii.gz: its values are {abs(offset)} too .* --hu auto or --hu {-offset} "
    ) as error:
        to_hu(shifted)
    assert "server_hu" in error.value.remedy
    for rule in (AUTO, HuRule.parse(str(-offset))):
        corrected = to_hu(shifted, rule)
        np.testing.assert_allclose(corrected.array, hu, atol=1e-3)
        assert corrected.array.dtype == np.float32
        assert corrected.hu is not None
        assert (corrected.hu["rule"], corrected.hu["offset"]) == (str(rule), -offset)
        assert corrected.digest != shifted.digest  # a stored registration is found by the digest


@pytest.mark.parametrize("kind", ["padding −2000", "padding −1024", "padding −3024", "much noise", "metal", "dense contrast"])
def test_an_offset_is_found_despite_padding_noise_and_metal(kind: str) -> None:
    shifted = PLAUSIBLE[kind](patient())
    shifted = np.where(
        shifted <= -1999, shifted, shifted + 1024
    )  # scanners add padding after the rescale, so it is not shifted
    assert examine(shifted).shift == 1024
    assert examine(np.maximum(np.where(shifted <= -1999, 0, shifted), 0).astype(np.uint16)).shift == 1024


def test_an_offset_without_air_is_refused_but_not_guessed() -> None:
    crop = volume(patient()[2:16, 10:50, 15:65] + 1024)
    with pytest.raises(InputError, match="1024 or 1000 too high"):
        to_hu(crop, AUTO)
    assert to_hu(crop, HuRule("offset", -1024.0)).array.min() < -900


NOT_HU: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "8 bit": (lambda hu: np.clip((hu + 1000) / 2000 * 255, 0, 255).astype(np.uint8), "neither air"),
    "8 bit of a window": (lambda hu: np.clip((hu + 160) / 400 * 255, 0, 255).astype(np.uint8), "neither air"),
    "signed 8 bit": (lambda hu: np.clip((hu + 160) / 400 * 255, 0, 255) - 128, "clipped at -128"),
    "12 bit": (lambda hu: np.clip((hu + 1000) / 2000 * 4095, 0, 4095), "denser than bone"),
    "shifted left by 4 bits": (lambda hu: np.clip(hu + 1024, 0, 4095) * 16, "denser than bone"),
    "between 0 and 1": (lambda hu: np.clip((hu + 1000) / 2000, 0, 1), "neither air"),
    "mean 0, deviation 1": (lambda hu: (hu - hu.mean()) / hu.std(), "neither air .* nor fat"),
    "a soft-tissue window": (lambda hu: np.clip(hu, -160, 240), "clipped at -160"),
    "masked with 0": (lambda hu: np.where(hu < -500, 0, hu), "masked with 0"),
    "inverted": (lambda hu: -hu, "denser than bone|too high"),
    "MR": (lambda hu: np.abs(np.where(hu < -500, 0, 300 + 2 * hu) + 20), "neither air .* nor fat"),
    "air alone": (
        lambda hu: np.random.default_rng(1).normal(-1000, 15, hu.shape),
        "shows no body: 100 %",
    ),
    "two values": (lambda hu: np.where(hu > -500, 1, 0), "neither air"),
}


@pytest.mark.parametrize("kind", NOT_HU)
def test_values_without_the_hu_of_air_and_tissue_are_refused(kind: str) -> None:
    make, reason = NOT_HU[kind]
    image = volume(make(patient()))
    for rule in (CHECK, AUTO):
        with pytest.raises(InputError, match=reason) as error:
            to_hu(image, rule)
        assert "Export the CT again in HU" in error.value.remedy
    unchecked = to_hu(image, AS_IS)
    assert unchecked.array is image.array
    assert unchecked.hu is not None
    assert unchecked.hu["found"] == error.value.problem


def test_an_offset_that_does_not_give_hu_is_refused() -> None:
    with pytest.raises(InputError, match="after adding 1024, its values are 1024 too high"):
        to_hu(volume(patient()), HuRule.parse("1024"))


@pytest.mark.parametrize("text", ["", "guess", "nan", "inf", "1e9", "--"])
def test_an_unknown_rule_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a rule for HU"):
        HuRule.parse(text)


@pytest.mark.parametrize("text", ["check", "auto", "as-is", "-1024", "12345.675"])
def test_a_rule_is_read_and_written(text: str) -> None:
    assert str(HuRule.parse(f" {text} ")) == text


def test_the_check_of_a_large_ct_takes_milliseconds() -> None:
    large = np.zeros((200, 512, 512), np.int16)
    large[:, 100:400, 100:400] = 40
    large[:, :100] = -1000
    began = time.process_time()
    examine(large)
    assert time.process_time() - began < 0.5


def test_real_cts_and_their_crops_are_accepted(real_cts: Path) -> None:
    for name in ("cropped_trunk/ct.nii.gz", "whole_abdomen_3mm/ct.nii.gz", "dicom_abdomen/dicom"):
        hu = read_volume(real_cts / name).array
        z, y, x = hu.shape
        parts = [hu, hu[: z // 5], hu[-z // 6 :], hu[z // 3 : 2 * z // 3, y // 3 : 2 * y // 3, x // 3 : 2 * x // 3]]
        assert [examine(part).problem for part in parts] == [""] * 4
        assert examine(hu + 1024).problem
        if name != "cropped_trunk/ct.nii.gz":  # has too little air to decide between 1024 and 1000
            assert [examine(hu + offset).shift for offset in OFFSETS] == [*OFFSETS]


def test_the_sample_cts_are_accepted(references: list[ReferenceFiles], target: Volume) -> None:
    for image in (target, read_volume(references[0].image)):
        assert not examine(image.array).problem
        assert [examine(image.array + offset).shift for offset in OFFSETS] == [*OFFSETS]


def test_segment_refuses_an_offset_before_it_writes_and_accepts_a_rule(tmp_path: Path) -> None:
    ct = write(patient() + 1024, tmp_path / "ct.nii.gz")
    labelled(tmp_path / "references", "a", PATIENT)
    build_atlas(find_references(tmp_path / "references"), BuildOptions(registration=QUICK)).save(tmp_path / "atlas")
    out, report = tmp_path / "out.nii.gz", tmp_path / "report.json"
    words = [
        "segment",
        str(ct),
        "-o",
        str(out),
        "--atlas",
        str(tmp_path / "atlas"),
        "--strategy",
        "atlas",
        "--report",
        str(report),
    ]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, InputError)
    assert "1024 too high" in str(refused.exception)
    assert not out.exists()
    for rule in ("auto", "-1024"):
        done = CliRunner().invoke(app, [*words, "--hu", rule])
        assert done.exit_code == 0, done.output
        found = json.loads(report.read_text())["hu"]
        assert (found["rule"], found["offset"]) == (rule, -1024)
    wrong = CliRunner().invoke(app, [*words, "--hu", "guess"])
    assert "is not a rule for HU" in str(wrong.exception)


@pytest.mark.parametrize(
    "words",
    [
        "segment ct.nii.gz -o out.nii.gz",
        "atlas build refs out",
        "atlas grow studies",
        "atlas scores ct.nii.gz --atlas a",
        "train unet cases run",
        "compare studies -o out",
    ],
)
def test_every_command_that_reads_cts_has_the_option_hu(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ct.nii.gz").touch()
    refused = CliRunner().invoke(app, [*words.split(), "--hu", "guess"])
    assert "is not a rule for HU" in str(refused.exception)
    assert [file.name for file in tmp_path.iterdir()] == ["ct.nii.gz"]


def shift(file: Path, offset: int) -> None:
    image = sitk.ReadImage(str(file))
    sitk.WriteImage(image + offset, str(file))


def test_a_reference_with_an_offset_is_skipped_or_corrected(tmp_path: Path) -> None:
    for name in ("a", "b"):
        labelled(tmp_path, name, PATIENT)
    shift(tmp_path / "images" / "b.nii.gz", 1000)
    skipped: dict[str, str] = {}
    atlas = build_atlas(find_references(tmp_path), BuildOptions(registration=QUICK), skipped=skipped)
    assert [reference.name for reference in atlas.references] == ["a"]
    assert "b.nii.gz: its values are 1000 too high" in skipped["b"]
    both = build_atlas(find_references(tmp_path), BuildOptions(registration=QUICK, hu=AUTO))
    assert both.options["hu"] == "auto"
    assert both.options["hu_offsets"] == {"b": -1000.0}
    assert (both.references[0].picture == both.references[1].picture).all()


def test_a_growing_atlas_refuses_offsets_and_reads_its_finals_again_by_another_rule(tmp_path: Path) -> None:
    base = tmp_path / "base"
    for name in ("a", "b"):
        labelled(base, name, PATIENT)
    labelled(tmp_path, "c", PATIENT)
    shift(tmp_path / "images" / "c.nii.gz", 1000)
    atlas, finals = build_atlas(find_references(base), BuildOptions(registration=QUICK)), find_references(tmp_path)
    assert "1000 too high" in grow_atlas(atlas, finals, GrowthOptions(registration=QUICK)).refused["c"]
    unchecked = grow_atlas(atlas, finals, GrowthOptions(registration=QUICK, trust=["c"], hu=AS_IS)).atlas
    grown = grow_atlas(unchecked, finals, GrowthOptions(registration=QUICK, hu=AUTO))
    assert grown.added == ("c",)
    assert grown.atlas.options["hu_offsets"] == {"c": -1000.0}
    assert unchecked.references[-1].picture.max() > 1000 > grown.atlas.references[-1].picture.max()
    assert grow_atlas(grown.atlas, finals, GrowthOptions(registration=QUICK, hu=AUTO)).kept == ("a", "b", "c")
    assert "c" in grow_atlas(grown.atlas, finals, GrowthOptions(registration=QUICK)).refused
    report = grow_studies_atlas(WorkFolder(tmp_path / "work"), atlas, finals, StudiesGrowthOptions(hu=AUTO))
    assert report["hu"] == {"rule": "auto", "offsets": {"c": -1000.0}}


def test_a_reference_that_agrees_with_no_other_causes_a_warning(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        labelled(tmp_path, name, PATIENT)
    atlas = build_atlas(find_references(tmp_path), BuildOptions(registration=QUICK))
    assert atlas.disagreeing == []
    first, *rest = atlas.references
    outlying = replace(atlas, references=(first.with_agreement(dict.fromkeys(PATIENT, 0.01)), *rest))
    assert outlying.disagreeing == ["a"]
    outlying.save(tmp_path / "atlas")
    printed = CliRunner().invoke(app, ["atlas", "info", str(tmp_path / "atlas")])
    assert "agrees with no other reference" in printed.output + printed.stderr


def test_a_training_case_with_an_offset_is_skipped_or_corrected(tmp_path: Path) -> None:
    labelled(tmp_path, "a", PATIENT)
    shift(tmp_path / "images" / "a.nii.gz", 1000)
    (files,) = find_references(tmp_path)
    config = unet_config("unet_3d").model_copy(update={"spacing": (6.0, 6.0, 6.0)})

    def read(rule: HuRule) -> tuple[list[TrainingCase], dict[str, str], dict[str, float]]:
        return usable_cases([TrainingCase("a", files.image, files.label, hu=rule)], config, tmp_path / "cache")

    assert read(AUTO)[2] == {"a": -1000.0}
    usable, problems, _ = read(CHECK)  # does not use the cache of the other rule
    assert usable == []
    assert "1000 too high" in problems["a"]


def made_by(name: str, rule: HuRule) -> Provenance:
    """Returns the provenance of a segmenter with fake weights and a fake atlas, which only have versions."""
    unet: Any = SimpleNamespace(sha256="w", device=torch.device("cpu"))
    atlas: Any = SimpleNamespace(version="a")
    return LoadedResources(atlas, None, {"unet_3d": unet}, hu=rule).segmenter(name).provenance(Options())


def test_compared_models_get_hu_and_another_rule_reuses_no_stored_prediction(tmp_path: Path) -> None:
    write(patient() + 1024, tmp_path / "shifted.nii.gz")
    seen: list[float] = []

    def run(image: Volume, _: Options) -> Segmentation:
        seen.append(float(np.median(image.array)))
        return Segmentation(image.with_array((image.array > 80).astype(np.uint8)), Report(seconds={"total": 1.0}, organs=[]))

    def compared(rule: HuRule) -> dict[str, str]:
        pair = (FakeSegmenter("atlas", made_by("atlas", rule), run), FakeSegmenter("unet_3d", made_by("unet_3d", rule), run))
        return compare_studies(StudyFolder(tmp_path), pair, plain_models(tmp_path, rule)).problems

    assert "1024 too high" in compared(CHECK)["shifted"]
    assert compared(AUTO) == {}
    assert compared(AUTO) == {}
    assert len(seen) == 2
    assert max(seen) < 0
    assert "shifted" in compared(CHECK)


def test_the_rule_is_part_of_the_provenance() -> None:
    assert "hu" not in made_by("unet_3d", CHECK)  # as in predictions of earlier versions
    assert made_by("unet_3d", AUTO)["hu"] == "auto"
    assert made_by("atlas", HuRule("offset", -1024.0))["hu"] == "-1024"


def test_read_ct_names_the_file_in_its_error(tmp_path: Path) -> None:
    file = write(patient() + 1000, tmp_path / "shifted.nrrd")
    with pytest.raises(InputError, match=r"shifted\.nrrd: its values are 1000 too high"):
        read_ct(file)
