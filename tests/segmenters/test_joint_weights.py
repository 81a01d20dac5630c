"""Learnt weights are stored with the atlas by checkpoint; they change the provenance of F only."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from blocks import PATIENT, QUICK, labelled
from medsam2_atlas.atlas import Atlas, BuildOptions, ReferenceFiles, build_atlas, find_references, subset
from medsam2_atlas.atlas.reference import OrganShare, Reference
from medsam2_atlas.base.errors import AtlasError, InputError
from medsam2_atlas.cli import app
from medsam2_atlas.imaging.hounsfield import CHECK, read_ct
from medsam2_atlas.imaging.volume import Geometry, read_labels
from medsam2_atlas.medsam2 import OrganLogits, Weights, find_checkpoint, load_weights
from medsam2_atlas.registration import Transform
from medsam2_atlas.scoremaps import ScoreMap, ScoreMaps
from medsam2_atlas.segmenters import joint_leave_one_out as leave_one_out
from medsam2_atlas.segmenters import joint_weights as module
from medsam2_atlas.segmenters import strategy_report
from medsam2_atlas.segmenters.base import Options
from medsam2_atlas.segmenters.case import Case, Clock, FirstPass
from medsam2_atlas.segmenters.joint_config import JointFusionConfig
from medsam2_atlas.segmenters.joint_fusion import JointWeights
from medsam2_atlas.segmenters.joint_leave_one_out import LeftOut, checked_files, learn_for_atlas, segment_left_out
from medsam2_atlas.segmenters.joint_weights import LearntWeights, joint_weights, with_joint_weights
from medsam2_atlas.segmenters.resources import LoadedResources

LEARNT = LearntWeights(JointWeights({6: 0.5, 14: 1.25}, {6: 2.0, 14: 1.0}, {6: 0.75}), {6: 0.8}, {6: 0.9}, 3)
ORGANS = {k: PATIENT[k] for k in (6, 14)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three patients, whose livers differ in size."""
    folder = tmp_path_factory.mktemp("patients")
    z, y, x = PATIENT[6]
    for shift, name in enumerate("abc"):
        labelled(folder, name, ORGANS | {6: (z, y, slice(x.start, x.stop - shift))})
    return folder


@pytest.fixture(scope="module")
def files(folder: Path) -> list[ReferenceFiles]:
    return find_references(folder)


@pytest.fixture(scope="module")
def blocks_atlas(files: list[ReferenceFiles]) -> Atlas:
    return build_atlas(files, BuildOptions(registration=QUICK))


@pytest.fixture(scope="module")
def demo() -> Weights:
    return load_weights(find_checkpoint())


def test_weights_are_stored_by_checkpoint_and_others_have_none(blocks_atlas: Atlas, tmp_path: Path) -> None:
    assert joint_weights(blocks_atlas, "w") is None, "an atlas of an earlier release has none"
    with_joint_weights(with_joint_weights(blocks_atlas, "w", LEARNT), "v", replace(LEARNT, weights=JointWeights())).save(
        tmp_path / "atlas"
    )
    loaded = Atlas.load(tmp_path / "atlas")
    assert joint_weights(loaded, "w") == LEARNT.weights
    assert joint_weights(loaded, "v") == JointWeights()
    assert joint_weights(loaded, "another") is None
    old = {name: value for name, value in loaded.options["joint_weights"]["w"].items() if name != "agreement"}
    earlier = replace(loaded, options={**loaded.options, "joint_weights": {"w": old}})
    assert joint_weights(earlier, "w") == replace(LEARNT.weights, agreement={}), "weights of an earlier version lack it"
    assert loaded.version == blocks_atlas.version, "score maps do not depend on the weights"
    assert loaded.options["joint_weights"]["w"]["dice_after"] == {"liver": 0.9}


def test_weights_are_not_used_with_other_references_or_settings(blocks_atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    atlas = with_joint_weights(blocks_atlas, "w", LEARNT)
    assert joint_weights(replace(atlas, references=atlas.references[1:]), "w") is None
    changed = replace(atlas.references[0], sha256="relabelled")
    assert joint_weights(replace(atlas, references=(changed, *atlas.references[1:])), "w") is None
    assert joint_weights(subset(atlas, ["a", "b", "c"]), "w") is None
    monkeypatch.setattr(module, "joint_fusion_config", lambda: JointFusionConfig.model_validate({"spread": 5.0}))
    assert joint_weights(atlas, "w") is None


def test_weights_change_the_provenance_of_f_only(blocks_atlas: Atlas) -> None:
    class Named:
        sha256, device = "w", torch.device("cpu")

    weights: Any = Named()
    atlases = (blocks_atlas, with_joint_weights(blocks_atlas, "w", LEARNT), with_joint_weights(blocks_atlas, "v", LEARNT))
    made = {
        name: [LoadedResources(atlas, weights).segmenter(name).provenance(Options()) for atlas in atlases]
        for name in ("atlas", "D", "F")
    }
    for name in ("atlas", "D"):
        assert made[name][0] == made[name][1] == made[name][2]
    plain, learnt, other = made["F"]
    assert plain == other, "weights of another checkpoint have no effect"
    assert learnt == plain | {"joint_weights": LEARNT.weights.as_json()}


def test_the_report_of_f_states_that_the_agreement_is_unknown_if_it_is_asked_for(
    blocks_atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = strategy_report.Outcome(np.zeros((2, 2, 2), np.uint8))
    earlier = replace(LEARNT, weights=replace(LEARNT.weights, agreement={}))
    told = {}
    for power in (0.0, 1.0):
        config = JointFusionConfig(agreement_power=power)
        monkeypatch.setattr(strategy_report, "joint_fusion_config", lambda config=config: config)
        for name, learnt in (("none", None), ("earlier", earlier), ("now", LEARNT)):
            atlas = with_joint_weights(blocks_atlas, "w", learnt) if learnt else blocks_atlas
            case: Any = SimpleNamespace(atlas=atlas, weights=SimpleNamespace(sha256="w"))
            told[name, power] = "agreement_unknown" in strategy_report._joint_fields(case, empty)
    assert [key for key, value in told.items() if value] == [("none", 1.0), ("earlier", 1.0)]


def test_settings_of_the_joint_fusion_change_the_provenance_of_f_only(
    blocks_atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Named:
        sha256, device = "w", torch.device("cpu")

    weights: Any = Named()
    before = {name: LoadedResources(blocks_atlas, weights).segmenter(name).provenance(Options()) for name in ("D", "F")}
    config = JointFusionConfig.model_validate({"spread": 5.0})
    monkeypatch.setattr("medsam2_atlas.segmenters.changed_settings.joint_fusion_config", lambda: config)
    after = {name: LoadedResources(blocks_atlas, weights).segmenter(name).provenance(Options()) for name in ("D", "F")}
    assert after["D"] == before["D"]
    assert after["F"]["settings"] == {"joint_fusion": {"spread": 5.0}}


def test_the_label_map_of_the_left_out_reference_does_not_enter_its_own_score_maps(
    blocks_atlas: Atlas, files: list[ReferenceFiles], demo: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same score maps result if the left-out reference's label map, in the atlas and on disk, covers the wrong half."""

    def first_pass(case: Case, clock: Clock) -> FirstPass:
        case.scores(clock)
        return FirstPass(case.first_prompts((0.5,), clock), {6: OrganLogits(6, 0, torch.zeros(1, 4, 4))})

    monkeypatch.setattr(Case, "first_pass", first_pass)
    wrong = {6: PATIENT[14], 14: PATIENT[6]}
    labelled(tmp_path, "c", wrong, seen=ORGANS)
    reference = blocks_atlas.references[2]
    everywhere = {k: OrganShare(np.full_like(share.values, 255), share.lower) for k, share in reference.shares.items()}
    swapped = replace(reference, shares={6: everywhere[14], 14: everywhere[6]})
    lying = replace(blocks_atlas, references=(*blocks_atlas.references[:2], swapped))
    honest = segment_left_out(blocks_atlas, reference, files[2], demo)
    other = segment_left_out(lying, swapped, ReferenceFiles("c", files[2].image, tmp_path / "labels" / "c.nii.gz"), demo)
    assert (honest.truth != other.truth).any()
    assert honest.scores.maps.keys() == other.scores.maps.keys() == {6, 14}
    for k, score in honest.scores.maps.items():
        assert score.lower == other.scores.maps[k].lower
        assert (score.values == other.scores.maps[k].values).all()
    # The comparison would notice a vote of the reference itself: with its wrong map, the other references' maps differ.
    voted = segment_left_out(lying, lying.references[0], files[0], demo)
    right = segment_left_out(blocks_atlas, blocks_atlas.references[0], files[0], demo)
    assert any(score.values.tobytes() != voted.scores.maps[k].values.tobytes() for k, score in right.scores.maps.items())


def test_files_that_have_changed_are_named_and_two_references_are_enough(
    blocks_atlas: Atlas, files: list[ReferenceFiles], folder: Path
) -> None:
    assert checked_files(blocks_atlas, files) == ({each.name: each for each in files}, {})
    assert set(checked_files(blocks_atlas, files[:2])[0]) == {"a", "b"}
    exchanged = [replace(files[0], label=files[1].label), *files[1:]]
    found, changed = checked_files(blocks_atlas, exchanged)
    assert set(found) == {"b", "c"}
    assert changed == {"a": f"{files[1].label} has changed since it became a reference."}
    with pytest.raises(AtlasError, match=r"usable files of 1 of them were given. a: .* has changed since .*Weights need two"):
        checked_files(blocks_atlas, exchanged[:2])


def without_checksums(atlas: Atlas) -> Atlas:
    return replace(atlas, references=tuple(replace(each, image_sha256="") for each in atlas.references))


def stub_segmentation(monkeypatch: pytest.MonkeyPatch, logits: Callable[[str], dict[int, OrganLogits]]) -> None:
    """Lets each left-out reference have the same small score map, and given logits; only its CT is read."""

    def segmented(_: Atlas, reference: Reference, files: ReferenceFiles, weights: Weights) -> LeftOut:
        assert weights.sha256
        read_ct(files.image, CHECK)
        inside = np.zeros((4, 8, 8), np.uint8)
        inside[1:3, 2:6, 2:6] = 6
        grid = Geometry((8, 8, 4), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
        score = ScoreMap((inside > 0).astype(np.uint8) * 230, (0, 0, 0), 1.0)
        return LeftOut(ScoreMaps({6: score}, grid, 1, Transform(), Transform()), logits(reference.name), inside)

    monkeypatch.setattr(leave_one_out, "segment_left_out", segmented)


def test_bad_references_are_named_and_the_others_are_left_out_in_turn(
    blocks_atlas: Atlas,
    files: list[ReferenceFiles],
    demo: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = tmp_path / "b.nii.gz"
    broken.write_bytes(b"no image")
    given = [replace(each, image=broken) if each.name == "b" else each for each in files]
    stub_segmentation(monkeypatch, lambda _: {6: OrganLogits(6, 0, torch.ones(4, 4, 4))})
    done: list[float] = []
    found, unusable = learn_for_atlas(without_checksums(blocks_atlas), given, demo, lambda _, share: done.append(share))
    assert found.references == 2
    assert list(unusable) == ["b"]
    assert str(broken) in unusable["b"]
    assert "b is not left out in turn" in caplog.text
    assert done == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_learning_stops_as_soon_as_fewer_than_two_references_can_be_left(
    blocks_atlas: Atlas, files: list[ReferenceFiles], demo: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def logits(name: str) -> dict[int, OrganLogits]:
        seen.append(name)
        return {}

    stub_segmentation(monkeypatch, logits)
    with pytest.raises(
        AtlasError, match=r"usable files of 1 of them.*a: .*has no organ that the other references could prompt"
    ):
        learn_for_atlas(blocks_atlas, files, demo)
    assert seen == ["a", "b"]


def test_the_logits_of_a_reference_are_dropped_before_the_next_one_is_segmented(
    blocks_atlas: Atlas, files: list[ReferenceFiles], demo: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def logits(_: str) -> dict[int, OrganLogits]:
        alive.append(sum(each() is not None for each in made))
        values = torch.ones(4, 4, 4)
        made.append(weakref.ref(values))
        return {6: OrganLogits(6, 0, values)}

    stub_segmentation(monkeypatch, logits)
    assert learn_for_atlas(blocks_atlas, files, demo)[0].references == 3
    assert alive == [0, 0, 0]


def test_the_command_learns_weights_for_a_checkpoint_and_states_their_cost(
    blocks_atlas: Atlas, folder: Path, demo: Weights, tmp_path: Path
) -> None:
    blocks_atlas.save(tmp_path / "atlas")
    command = ["thresholds", str(tmp_path / "atlas"), "--references", str(folder), "--checkpoint", str(demo.file)]
    done = CliRunner().invoke(app, [*command, "--device", "cpu"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "3 runs of `segment --segmenter B`" in " ".join(done.output.split())
    assert "s per reference" in done.output
    loaded = Atlas.load(tmp_path / "atlas")
    assert "thresholds" in loaded.options
    found = joint_weights(loaded, demo.sha256)
    assert found is not None
    assert set(found.network) == set(found.maps) == {6, 14}
    image = folder / "images" / "a.nii.gz"
    out, report = tmp_path / "label.nii.gz", tmp_path / "report.json"
    segment = ["segment", str(image), "-o", str(out), "--atlas", str(tmp_path / "atlas"), "--segmenter", "F"]
    segment += ["--organs", "liver,bladder", "--checkpoint", str(demo.file), "--report", str(report), "--device", "cpu"]
    assert CliRunner().invoke(app, segment, catch_exceptions=False).exit_code == 0
    assert (read_labels(out).array == 6).any()
    assert '"joint_weights"' in report.read_text()
    assert '"disagreement"' in report.read_text()


def test_a_checkpoint_alone_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["thresholds", str(tmp_path), "--checkpoint", "w.pt"])
    assert isinstance(done.exception, InputError)
    assert "has no effect without --references" in str(done.exception)


def test_a_label_map_that_cannot_be_read_ends_a_case_before_it_is_registered(
    blocks_atlas: Atlas, files: list[ReferenceFiles], demo: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores(*_: Any) -> ScoreMaps:
        raise AssertionError("the CT was registered")

    monkeypatch.setattr(Case, "scores", scores)
    broken = tmp_path / "a.nii.gz"
    broken.write_bytes(b"no label map")
    with pytest.raises(InputError, match=r"a\.nii\.gz"):
        segment_left_out(blocks_atlas, blocks_atlas.references[0], replace(files[0], label=broken), demo)
