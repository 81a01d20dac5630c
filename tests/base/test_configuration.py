"""Configuration files: keys of the previous release are read, and a warning names the current keys."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from medsam2_atlas.base.configuration import OldKeys, Settings, differing, read_config
from medsam2_atlas.base.errors import InputError


class Bend(Settings):
    enabled: bool = Field(True, description="whether maps are bent")
    max_evidence: float = Field(3.0, description="natural logarithm")


class Organ(Settings):
    name: str
    published_threshold: float = Field(0.5, description="score")


class Steps(Settings):
    bend: Bend = Bend()  # type: ignore[call-arg]
    organs: tuple[Organ, ...] = ()


OLD_KEYS: OldKeys = {
    "appearance.bending.most": "bend.max_evidence",
    "appearance.rounds": lambda rounds: {"bend.enabled": rounds > 0},
    "organs.*.threshold": "organs.*.published_threshold",
}


def read(folder: Path, text: str) -> Steps:
    file = folder / "steps.yaml"
    file.write_text(text)
    return read_config(Steps, file, "list of steps", old_keys=OLD_KEYS)


def test_old_keys_are_read_and_one_warning_names_the_new_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    organs = "organs: [{name: a, threshold: 0.1}, {name: b}, {name: c, threshold: 0.3}]"
    text = f"appearance: {{rounds: 0, bending: {{most: 2.0}}}}\n{organs}"
    with caplog.at_level(logging.WARNING):
        found = read(tmp_path, text)
    assert found.bend == Bend(enabled=False, max_evidence=2.0)
    assert [organ.published_threshold for organ in found.organs] == [0.1, 0.5, 0.3]
    (record,) = caplog.records
    for words in ("steps.yaml", "appearance.bending.most is now bend.max_evidence", "appearance.rounds is now bend.enabled"):
        assert words in record.getMessage()


def test_current_keys_are_read_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(tmp_path, "bend: {max_evidence: 2.0}").bend.max_evidence == 2.0
    assert read(tmp_path, "") == Steps()
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("bend: {max_evidence: 1.0}\nappearance: {bending: {most: 2.0}}", r"steps\.yaml.*twice.*appearance\.bending\.most"),
        ("appearance: {bending: {most: much}}", r"bend\.max_evidence"),
        ("appearance: {bending: {moist: 2.0}}", "appearance"),
        ("appearance: 3", "appearance"),
        ("- 1", "list of steps"),
        ("bend: 3\nappearance: {bending: {most: 2.0}}", "list of steps"),
    ],
)
def test_invalid_settings_are_refused_under_old_and_new_keys(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        read(tmp_path, text)


def test_an_empty_section_under_an_old_key_gives_the_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, "appearance: {}\n") == Steps()


@pytest.mark.parametrize(
    ("config", "expected"),
    [(Steps(), {}), (Steps(bend=Bend(max_evidence=2.0)), {"bend": {"max_evidence": 2.0}})],  # type: ignore[call-arg]
)
def test_settings_that_differ_from_their_defaults_are_listed(config: Steps, expected: dict[str, Any]) -> None:
    assert differing(config) == config.changed() == expected
