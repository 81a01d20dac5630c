"""An overlay replaces single settings of the files in `configs/`, for a process, and names its own mistakes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

import medsam2_atlas
from medsam2_atlas.base import overlay as overlays
from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.overlay import current_overlay, merged, overlaid_settings, overlay, read_once, use_overlay
from medsam2_atlas.cli.configurations import configurations
from medsam2_atlas.evaluation.published import published
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.segment_names import organ_names
from medsam2_atlas.prompting import prompting_config


class Bend(Settings):
    enabled: bool = Field(True, description="whether maps are bent")
    rounds: int = Field(2, ge=0, description="number of rounds")


class Organ(Settings):
    name: str
    threshold: float = Field(0.5, description="score")


class Steps(Settings):
    bend: Bend = Bend()  # type: ignore[call-arg]
    places: tuple[float, ...] = (0.5,)
    organs: tuple[Organ, ...] = ()


OLD_KEYS = {"bending": "bend.rounds"}


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the user's file of settings, in a folder `configs` that stands for the project's."""
    file = tmp_path / "configs" / "steps.yaml"
    file.parent.mkdir()
    file.write_text("bend: {rounds: 5}\nplaces: [0.1, 0.2]\norgans: [{name: a, threshold: 0.1}, {name: b, threshold: 0.2}]\n")
    monkeypatch.setattr(overlays, "resource", lambda name: tmp_path / name)
    return file


def overlay_with(folder: Path, content: Any, name: str = "steps.yaml") -> Path:
    """Returns the folder of an overlay with one file."""
    made = folder / "overlay"
    made.mkdir(exist_ok=True)
    (made / name).write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return made


def read(file: Path) -> Steps:
    return read_config(Steps, file, "list of steps", old_keys=OLD_KEYS)


def test_an_overlay_replaces_its_settings_and_keeps_the_user_s_others(user: Path, tmp_path: Path) -> None:
    changes = {"bend": {"enabled": False}, "places": [0.9], "organs": [{"name": "b", "threshold": 0.7}]}
    with overlay(overlay_with(tmp_path, changes)):
        found = read(user)
        assert overlaid_settings("steps.yaml") == changes
    assert found.bend == Bend(enabled=False, rounds=5)
    assert found.places == (0.9,)
    assert [(organ.name, organ.threshold) for organ in found.organs] == [("a", 0.1), ("b", 0.7)]
    assert read(user).bend == Bend(enabled=True, rounds=5)
    assert overlaid_settings("steps.yaml") == {}


def test_an_overlay_wins_over_a_setting_under_its_old_key(user: Path, tmp_path: Path) -> None:
    user.write_text("bending: 5\n")
    with overlay(overlay_with(tmp_path, {"bend": {"rounds": 1}})):
        assert read(user).bend.rounds == 1


def test_files_outside_the_folder_of_settings_are_read_as_they_are(user: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "steps.yaml"
    elsewhere.write_text(user.read_text())
    with overlay(overlay_with(tmp_path, {"bend": {"rounds": 1}})):
        assert read(elsewhere).bend.rounds == 5
        assert read(user).bend.rounds == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"bent": {"rounds": 1}}, "bent: Extra inputs are not permitted"),
        ({"bend": {"round": 1}}, "bend.round: Extra inputs"),
        ({"bend": {"rounds": -1}}, "bend.rounds"),
        ({"organs": [{"name": "c"}]}, "changes c, which configs/steps.yaml lacks"),
        ("- 1", "contains no settings"),
        ("", "contains no settings"),
        ("bend: {", "cannot be read"),
    ],
)
def test_a_mistake_in_an_overlay_is_reported_with_the_overlay_s_file(
    content: Any, problem: str, user: Path, tmp_path: Path
) -> None:
    with overlay(overlay_with(tmp_path, content)), pytest.raises(InputError, match=problem) as raised:
        read(user)
    assert raised.value.subject.endswith("overlay/steps.yaml")


def test_a_mistake_in_the_user_s_file_is_reported_with_that_file(user: Path, tmp_path: Path) -> None:
    user.write_text("bent: 1\n")
    with overlay(overlay_with(tmp_path, {"bend": {"rounds": 1}})), pytest.raises(InputError) as raised:
        read(user)
    assert raised.value.subject == str(user)


@pytest.mark.usefixtures("user")
def test_an_overlay_without_effect_is_refused_and_the_previous_one_stays(tmp_path: Path) -> None:
    with overlay(good := overlay_with(tmp_path, {"bend": {"rounds": 1}})):
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match="empty: contains no settings"):
            use_overlay(tmp_path / "empty")
        overlay_with(tmp_path, {}, "stepps.yaml")
        with pytest.raises(InputError, match=r"stepps\.yaml: changes no settings"):
            use_overlay(good)
        assert current_overlay() == good
    assert current_overlay() is None


def test_an_overlay_is_removed_even_if_its_block_fails(user: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), overlay(overlay_with(tmp_path, {"bend": {"rounds": 1}})):
        raise RuntimeError
    assert read(user).bend.rounds == 5


def test_settings_that_were_read_before_are_read_again(tmp_path: Path) -> None:
    calls = []

    @read_once
    def reader() -> int:
        calls.append(1)
        return len(calls)

    before = prompting_config().min_score
    assert (reader(), reader()) == (1, 1)
    with overlay(overlay_with(tmp_path, {"min_score": 0.3}, "prompting.yaml")):
        assert prompting_config().changed() == {"min_score": 0.3}
        assert reader() == 2
    assert prompting_config().min_score == before
    assert reader() == 3


def test_every_reader_of_settings_notices_an_overlay(tmp_path: Path) -> None:
    readers: list[Any] = [*configurations().values(), organ_table, organ_names, published]
    for reader in readers:
        reader()
    use_overlay(overlay_with(tmp_path, {"min_score": 0.3}, "prompting.yaml"))
    assert [reader for reader in readers if reader.cache_info().currsize] == []
    library = Path(medsam2_atlas.__file__).parent
    sources = {file: file.read_text(encoding="utf-8") for file in library.rglob("*.py")}
    assert [
        file for file, text in sources.items() if "read_config(" in text and re.search(r"functools import .*\bcache\b", text)
    ] == []


def test_merging_leaves_both_sides_as_they_were() -> None:
    settings, changes = (
        {"a": {"b": 1, "c": [1, 2]}, "d": [{"name": "x", "v": 1}]},
        {"a": {"c": [3]}, "d": [{"name": "x", "v": 2}]},
    )
    found = merged(settings, changes, Path("f.yaml"))
    assert found == {"a": {"b": 1, "c": [3]}, "d": [{"name": "x", "v": 2}]}
    assert settings == {"a": {"b": 1, "c": [1, 2]}, "d": [{"name": "x", "v": 1}]}
    assert changes == {"a": {"c": [3]}, "d": [{"name": "x", "v": 2}]}
