"""The published method: its settings and options, and the provenance of its results."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from medsam2_atlas.base.resource import resource
from medsam2_atlas.cli import configurations as listed
from medsam2_atlas.cli.configurations import changed_settings, configurations
from medsam2_atlas.evaluation import published
from medsam2_atlas.imaging import labels
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.medsam2 import medsam2_config
from medsam2_atlas.prompting import prompting_config
from medsam2_atlas.registration import registration_config
from medsam2_atlas.scoremaps import FusionConfig, fusion_config
from medsam2_atlas.segmenters.base import DEFAULTS, Options, Provenance
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.segmenters.strategies import STRATEGIES
from medsam2_atlas.studies import published_options, use_published_method
from medsam2_atlas.studies.as_published import FOLDER, REGISTRATION


def made_by(name: str, options: Options = DEFAULTS) -> Provenance:
    """Returns a segmenter's provenance, with weights and an atlas that have versions only."""
    atlas: Any = SimpleNamespace(version="a", options={})
    weights: Any = SimpleNamespace(sha256="w")
    unet: Any = SimpleNamespace(sha256="u", version="u", device=torch.device("cpu"), validation={}, cases={})
    return LoadedResources(atlas, weights, {"unet_3d": unet}).segmenter(name).provenance(options)


def test_all_settings_follow_the_published_method() -> None:
    use_published_method()
    fusion, prompting = fusion_config(), prompting_config()
    assert (fusion.vote.label_fusion, fusion.vote.unseen, fusion.uses_intensities) == ("mean", "absent", False)
    assert (prompting.one_box, prompting.three_boxes) == ((0.5,), (0.25, 0.5, 0.75))
    assert (prompting.box_area_factor, prompting.range_growth) == (1.1, 0.2)
    assert (prompting.min_visible, prompting.min_score, prompting.check_sides) == (0, 0, False)
    assert medsam2_config().window == (-100, 500)
    assert (registration_config().method, registration_config().keypoints.max_offset) == ("keypoints", 0)
    assert registration_config().method == REGISTRATION


def test_the_options_have_the_published_loop_and_thresholds_and_keep_the_others() -> None:
    kept = Options(organs=(6,), prompts="unet", fill_holes=True)
    found = published_options(replace(kept, mode="fast"))
    assert found == replace(kept, loop="published", thresholds="published", mode="exact")


def test_the_overlay_contains_only_valid_settings() -> None:
    use_published_method()
    for read in (*configurations().values(), organ_table):
        read()
    files = {file.name for file in resource(FOLDER).glob("*")}
    assert files == {"fusion.yaml", "prompting.yaml", "medsam2.yaml", "registration.yaml", "labels.yaml"}


def test_a_user_s_other_thresholds_and_ranges_are_replaced_by_the_published_ones() -> None:
    content = yaml.safe_load((resource(FOLDER) / "labels.yaml").read_text(encoding="utf-8"))["organs"]
    assert {entry["name"]: entry["published_threshold"] for entry in content} == published().thresholds
    kept = [entry["name"] for entry in content if not entry["enlarge_z"]]
    assert kept == ["aorta", "inferior_vena_cava", "right_adrenal_gland", "left_adrenal_gland"]


def test_a_changed_organ_table_gets_the_published_thresholds(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """The user's table has another order, another threshold, and an organ that was not published."""
    entries = yaml.safe_load(resource("configs/labels.yaml").read_text(encoding="utf-8"))["organs"]
    entries[0] |= {"published_threshold": 0.9, "enlarge_z": False, "colour": [1, 2, 3]}
    added = entries[0] | {"index": 16, "name": "colon", "published_threshold": 0.35}
    folder = tmp_path / "configs"
    folder.mkdir()
    for file in resource("configs").glob("*.yaml"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "labels.yaml").write_text(yaml.safe_dump({"organs": [*reversed(entries), added]}), encoding="utf-8")
    monkeypatch.setattr(labels, "resource", lambda name: tmp_path / name)
    monkeypatch.setattr("medsam2_atlas.base.overlay.resource", lambda name: tmp_path / name)
    use_published_method()
    table = organ_table()
    assert (table[1].published_threshold, table[1].enlarge_z, table[1].colour) == (0.6, True, (1, 2, 3))
    assert table[8].enlarge_z is False
    assert table[16].published_threshold == 0.35


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_result_as_published_and_a_default_one_never_share_a_provenance(name: str) -> None:
    default, halfway = made_by(name), made_by(name, published_options(DEFAULTS))
    use_published_method()
    assert made_by(name) not in (default, halfway)
    assert made_by(name, published_options(DEFAULTS)) not in (default, halfway)


def test_a_u_net_s_result_is_the_same_in_both() -> None:
    default = made_by("unet_3d")
    use_published_method()
    assert made_by("unet_3d", published_options(DEFAULTS)) == default


def test_the_user_s_changed_settings_stay_visible_and_those_of_the_method_are_not_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_published_method()
    assert changed_settings() == []
    method = {"vote": {"method": "mean", "unseen": "absent"}, "bend": {"enabled": False}, "correct": {"enabled": False}}
    user = FusionConfig.model_validate(method | {"correct": {"enabled": False, "rounds": 2}, "warp": {"pixel": 1.0}})
    monkeypatch.setattr(listed, "configurations", lambda: {"fusion.yaml": lambda: user})
    assert changed_settings() == ["fusion.yaml: warp, correct"]
