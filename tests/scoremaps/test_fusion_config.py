"""Settings of the steps: files of the previous release are read, and stored predictions use its names."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.resource import resource
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.scoremaps import FusionConfig, fusion_config

EARLIER: dict[str, Any] = {
    "method": "joint", "references": 7, "radius": 3, "power": 1.5, "beta": 1.0, "ridge": 0.2,
    "appearance": {
        "rounds": 2, "spread": 4.0, "weight": 1.1, "most": 2.5, "smoothing": 1.5, "rounding": 0.02, "decay": 70.0,
        "reach": 90.0,
        "bending": {
            "rounds": 1, "steps": 30, "rate": 0.9, "cell": 5.0, "knots": 25.0, "stiffness": 0.01, "blur": 3.0, "most": 2.0,
        },
    },
}  # fmt: skip
"""All settings of the previous release, each with another value than its default."""


def read(folder: Path, content: dict[str, Any]) -> FusionConfig:
    file = folder / "fusion.yaml"
    file.write_text(yaml.safe_dump(content))
    return fusion_config(file)


def changed(original: dict[str, Any], rounds: int, bending: int) -> dict[str, Any]:
    appearance = original["appearance"]
    return original | {"appearance": appearance | {"rounds": rounds, "bending": appearance["bending"] | {"rounds": bending}}}


@pytest.mark.parametrize("rounds", [0, 2])
@pytest.mark.parametrize("bending", [0, 1])
def test_an_earlier_file_is_read_and_its_predictions_are_found(
    rounds: int, bending: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = changed(EARLIER, rounds, bending)
    with caplog.at_level(logging.WARNING):
        found = read(tmp_path, earlier)
    assert found.provenance() == earlier
    assert (found.vote.references, found.correct.max_evidence, found.bend.knots) == (7, 2.5, 25.0)
    assert found.uses_intensities == (rounds > 0)
    (record,) = caplog.records
    assert "appearance.most is now correct.max_evidence" in record.getMessage()


def test_the_shipped_file_names_every_setting_with_its_default(caplog: pytest.LogCaptureFixture) -> None:
    fusion_config.cache_clear()
    assert fusion_config() == FusionConfig.model_validate({})
    assert yaml.safe_load(resource("configs/fusion.yaml").read_text()) == {
        name: settings | ({"enabled": True} if name != "histograms" else {})
        for name, settings in FusionConfig.model_validate({}).model_dump().items()
    } | {"align": {"enabled": True}}
    assert not caplog.records


@pytest.mark.parametrize(
    ("settings", "added"),
    [
        ({"correct": {"min_prior": 0.03}}, {"correct": {"min_prior": 0.03}}),
        ({"correct": {"pieces": {"min_main": 0.3}}}, {"correct": {"pieces": {"min_main": 0.3}}}),
        ({"vote": {"max_hu": 300.0}, "histograms": {"bins": 50}}, {"vote": {"max_hu": 300.0}, "histograms": {"bins": 50}}),
        ({"align": {"enabled": False}}, {"align": {"enabled": False}}),
        ({"evidence": {"enabled": False}}, {"evidence": {"enabled": False}}),
        ({"correct": {"enabled": False}}, {"appearance": {"rounds": 0}, "bend": {"enabled": True}}),
        ({"bend": {"enabled": False}}, {"appearance": {"bending": {"rounds": 0}}}),
        ({"vote": {"enabled": False}}, {"method": "mean"}),
    ],
)
def test_stored_predictions_name_new_settings_that_were_changed(settings: dict[str, Any], added: dict[str, Any]) -> None:
    expected, found = FusionConfig.model_validate({}).provenance(), FusionConfig.model_validate(settings).provenance()
    for name, value in added.items():
        if name == "appearance":
            bending = expected["appearance"]["bending"] | value.get("bending", {})
            value = expected["appearance"] | value | {"bending": bending}
        expected[name] = value
    assert found == expected


def test_published_settings_have_the_same_provenance_as_before(tmp_path: Path) -> None:
    earlier = read(tmp_path, {"method": "mean", "appearance": {"rounds": 0}})
    today = FusionConfig.model_validate({}).with_method("mean").as_registered()
    assert earlier.provenance() == today.provenance()
    assert not earlier.uses_intensities


@pytest.mark.parametrize("text", ["method: most", "vote: {method: most}", "appearance: {moist: 3}", "bend: {rounds: -1}"])
def test_a_wrong_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(InputError, match=r"f\.yaml.*fusion configuration"):
        fusion_config(tmp_path / "f.yaml")


def test_an_organ_table_with_the_earlier_key_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = resource("configs/labels.yaml").read_text()
    file = tmp_path / "labels.yaml"
    file.write_text(text.replace("published_threshold", "threshold"))
    with caplog.at_level(logging.WARNING):
        assert organ_table(file) == organ_table()
    assert "organs.*.threshold is now organs.*.published_threshold" in caplog.text
