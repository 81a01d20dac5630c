"""The files of settings contain the defaults, each setting has a description, and the page lists all settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from medsam2_atlas.base.configuration import Settings, differing
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.resource import resource
from medsam2_atlas.cli import configurations as listed
from medsam2_atlas.cli.configurations import changed_settings, configurations
from medsam2_atlas.prompting import PromptingConfig, prompting_config
from settings_page import PAGE, content, models, rows

FILES = sorted(configurations())


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_settings_contains_every_setting_with_its_default(name: str) -> None:
    config = configurations()[name]()
    content = yaml.safe_load((resource("configs") / name).read_text(encoding="utf-8"))
    assert differing(config) == {}
    assert set(content) == set(type(config).model_fields)


def test_every_file_of_settings_is_listed() -> None:
    others = {"labels.yaml", "published.yaml", "segment_names.yaml", "weights.yaml", "known_checkpoints.yaml", "server.yaml"}
    others |= {"viewer.yaml"}
    assert {file.name for file in resource("configs").glob("*.yaml")} == {*FILES, *others}


@pytest.mark.parametrize("name", sorted(models()))
def test_every_setting_has_a_description(name: str) -> None:
    assert [key for key, _, meaning in rows(models()[name]) if len(meaning) < 5] == []


def test_the_page_lists_the_current_settings() -> None:
    assert PAGE.file.read_text(encoding="utf-8") == PAGE.replaced(content()), "run `make settings`"


def test_a_changed_setting_is_named_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "prompting.yaml"
    file.write_text("min_score: 0.1\nrange_growth: 0.2\n", encoding="utf-8")
    assert prompting_config(file).changed() == {"min_score": 0.1}
    monkeypatch.setattr(listed, "configurations", lambda: {"prompting.yaml": lambda: prompting_config(file)})
    assert changed_settings() == ["prompting.yaml: min_score"]


@pytest.mark.parametrize("text", ["min_scores: 0.1", "min_score: 2", "three_boxes: [0.5]", "- 1", "min_score: {"])
def test_an_invalid_setting_is_refused_with_its_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "prompting.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"prompting\.yaml.*prompting configuration"):
        prompting_config(file)


class Inner(Settings):
    """A part of settings."""

    size: tuple[float, float] = (1.0, 2.0)
    name: str = "a"


class Outer(BaseModel):
    """Settings with a part, and one without a default."""

    number: int
    inner: Inner = Inner()
    flag: bool = False


def test_only_settings_that_differ_from_their_defaults_count_as_changed() -> None:
    assert differing(Outer(number=1)) == {"number": 1}
    assert differing(Outer(number=1, inner=Inner(name="b"))) == {"number": 1, "inner": {"name": "b"}}
    assert Inner(size=(1, 3)).changed() == {"size": [1.0, 3.0]}
    assert PromptingConfig.model_validate({}).changed() == {}
