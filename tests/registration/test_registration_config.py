"""Registration parameters: their stored form, and the choice of the method."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from medsam2_atlas.atlas import AtlasConfig, atlas_config
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.overlay import choose_settings
from medsam2_atlas.registration import METHODS, RegistrationConfig, Transform, WorkImage, register, registration_config
from medsam2_atlas.studies import use_published_method

STORED = (
    '{"spacing":4.0,"coarse_spacing":9.0,"z_scales":[0.8,0.87,0.93,1.0,1.07,1.15,1.25],"affine_steps":[50,25],"cell":4,'
    '"reach":3,"adam_steps":60,"smoothness":1.0,"class_weight":2.0}'
)
"""The text in the keys of stored registrations when there were only nine parameters."""


def config_of(**values: Any) -> RegistrationConfig:
    return RegistrationConfig.model_validate(values)


def test_the_files_contain_the_defaults() -> None:
    assert registration_config() == config_of()
    assert atlas_config() == AtlasConfig.model_validate({})


def test_the_first_nine_parameters_identify_stored_registrations_if_the_others_have_their_defaults() -> None:
    assert config_of().identity == STORED
    assert config_of(deformable={"rate": 1.0}, group={"rounds": 3}).digest == config_of().digest
    assert config_of().record() == json.loads(STORED)


@pytest.mark.parametrize("change", [{"spacing": 5.0}, {"features": {"air": 0.6}}, {"image": {"body_hu": -200.0}}])
def test_a_changed_value_identifies_another_registration_and_is_recorded(change: dict[str, Any]) -> None:
    changed = config_of(**change)
    assert changed.digest != config_of().digest
    assert changed.record() == config_of().record() | change


def test_the_earlier_name_of_a_method_gives_the_same_registrations() -> None:
    assert config_of(method="convex_adam") == config_of(method="dense") == config_of()
    assert config_of(method="convex_adam").digest == config_of().digest


@pytest.mark.parametrize("change", [{"method": "keypoints"}, {"method": "both"}, {"keypoints": {"levels": 2}}])
def test_each_method_has_its_own_stored_registrations(change: dict[str, Any]) -> None:
    changed = config_of(**change)
    assert len({changed.digest, config_of().digest, config_of(spacing=5.0).digest}) == 3
    assert changed.record() == config_of().record() | change


def test_a_chosen_method_replaces_that_of_the_file_and_of_the_overlay() -> None:
    choose_settings("registration.yaml", {"method": "both"})
    assert registration_config().method == "both"
    use_published_method()
    assert registration_config().method == "both"
    choose_settings("registration.yaml", {})
    assert registration_config().method == "keypoints"


def test_wrong_values_are_named(tmp_path: Path) -> None:
    file = tmp_path / "registration.yaml"
    file.write_text("method: none\naffine: {window: [3, 2]}\nfeatures: {water: 1}\n")
    with pytest.raises(InputError, match=r"method: .*keypoints") as failure:
        registration_config(file)
    assert "affine.window" in str(failure.value)
    assert "features.water" in str(failure.value)


def test_a_new_registration_is_a_module_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    module, asked = ModuleType("still"), []

    def stay(fixed: WorkImage, moving: WorkImage, config: RegistrationConfig, progress: Any) -> Transform:
        asked.append((fixed.config.body_hu, moving.config.body_hu))
        return Transform()

    setattr(module, "register", stay)  # noqa: B010 - a module has no such attribute for mypy
    monkeypatch.setitem(sys.modules, "still", module)
    monkeypatch.setitem(METHODS, "still", "still:register")
    blank = torch.zeros(4, 4, 4)
    image = WorkImage(blank, blank > -1, torch.zeros(3), 4.0)
    config = config_of(method="still", image={"body_hu": -250.0})
    assert register(image, image, config) == Transform()
    assert asked == [(-250.0, -250.0)]
    assert config.digest != config_of(image={"body_hu": -250.0}).digest


def test_the_body_is_found_by_the_configured_hu() -> None:
    hu = torch.full((8, 20, 20), -1000.0)
    hu[:, 5:15, 5:15], hu[:, 8:12, 8:12] = -400.0, 40.0
    image = WorkImage(hu, hu > -2000, torch.zeros(3), 4.0)
    fat = image.with_config(config_of(image={"body_hu": -500.0}).image)
    assert image.with_config(image.config) is image
    assert int(fat.body.sum()) > int(image.body.sum()) > 0
    assert fat.at_spacing(8.0).config == fat.config
