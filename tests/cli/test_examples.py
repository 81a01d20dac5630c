"""The help of each command and group fits a terminal of 80 columns, and ends with an example that can be parsed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from medsam2_atlas.cli import app
from medsam2_atlas.cli.examples import EXAMPLES, PROGRAM, example


def everything(command: Any = None, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the full name, without the program's, and the click command of each command and group."""
    command = command or get_command(app)
    yield name, command
    for key, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from everything(inner, f"{name} {key}".strip())


NAMES = [name for name, _ in everything()]


def test_every_command_and_group_has_one_example() -> None:
    assert {*EXAMPLES} == {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_help_fits_80_columns_and_ends_with_the_example(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(app, [*name.split(), "--help"]).output
    assert max(map(len, shown.splitlines())) <= 80
    assert example(name) in shown  # in one line
    assert not re.search(r"\w\.\.\.", shown), "a summary is cut off"


@pytest.mark.parametrize("name", NAMES)
def test_the_example_can_be_parsed_and_belongs_to_its_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("references").mkdir()  # `check` refuses a path that does not exist while it parses
    program, *words = shlex.split(example(name).removeprefix("Example: "))
    command, used = get_command(app), list[str]()
    while hasattr(command, "commands") and words:
        used.append(words.pop(0))
        command = command.commands[used[-1]]
    assert program == PROGRAM
    assert " ".join(used).startswith(name)
    with command.make_context(used[-1], words):  # raises an error for an option or argument that does not exist
        pass
