"""docs/tutorial.md: the page's commands are known to the command line, and lead to what the page shows."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import typer

from docs.tutorial import PAGE, blocks, commands, run_page
from medsam2_atlas.cli import app

TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = blocks(TEXT)
SHELL = {"cp", "curl", "kill", "ls", "mkdir", "cat"}
"""Programs that the page uses besides its own."""


def program_lines() -> list[list[str]]:
    """Returns the arguments of each line of `medsam2-atlas` on the page, without redirections."""
    found = []
    for block in BLOCKS:
        for line in commands(block):
            words = shlex.split(re.sub(r"[\d]?>+&?\s*[\w.]*|&\s*$|\|.*$", "", line))
            assert words[0] in SHELL | {"medsam2-atlas"}, line
            if words[0] == "medsam2-atlas":
                found.append(words[1:])
    return found


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """Returns the command that a line runs, and the words after its name."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"{words[0]} is not a command"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("words", program_lines(), ids=" ".join)
def test_the_command_line_knows_each_command_and_option_of_the_page(words: list[str]) -> None:
    command, rest = command_of(words)
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.partition("=")[0] for word in rest if word.startswith("-")}
    assert used <= known


def test_the_page_has_a_command_for_each_step() -> None:
    run = [" ".join(words[:2]) for words in program_lines()]
    steps = [
        "phantoms",
        "check",
        "atlas build",
        "thresholds",
        "segment",
        "serve",
        "practice",
        "atlas grow",
        "train unet",
        "compare",
    ]
    places = [next(n for n, words in enumerate(run) if words.startswith(step)) for step in steps]
    assert places == sorted(places)


def test_the_pictures_of_the_page_exist_and_are_small() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    assert pictures
    for picture in pictures:
        assert (PAGE.parent / picture).stat().st_size < 200_000, picture


@pytest.mark.slow
def test_the_page_leads_from_a_folder_of_cts_to_a_comparison(tmp_path: Path) -> None:
    check_results(tmp_path, run_page(tmp_path).read_text())


def check_results(folder: Path, printed: str) -> None:
    """Checks what the page's commands have made in a folder and printed against what the page shows."""
    for name in re.findall(r"<!-- made: (.*?) -->", TEXT):
        assert (folder / name).exists(), name
    for words in re.findall(r"<!-- printed: (.*?) -->", TEXT):
        assert words in printed, words
    finals = [*(folder / "studies" / "labels" / "final").iterdir()]
    assert len(finals) == 10
    for file in finals:
        assert file.read_bytes() == (folder / "practice" / "labels" / file.name).read_bytes()
    sizes = {sitk.ReadImage(str(folder / name)).GetSize() for name in ("label.nii.gz", "studies/phantom-2-000.nii.gz")}
    assert len(sizes) == 1
    compared = json.loads((folder / "comparison" / "comparison.json").read_text())
    assert compared["models"] == ["medsam2_atlas", "unet_3d"]
    assert len(compared["studies"]) == 3
    assert compared["problems"] == {}
    organs = list(csv.DictReader((folder / "comparison" / "comparison.csv").open()))
    dice = {model: np.mean([float(row[f"dice_{model}_to_final"]) for row in organs]) for model in compared["models"]}
    assert dice["medsam2_atlas"] > 0.75
    assert 0.3 < dice["unet_3d"] < dice["medsam2_atlas"]  # as the page says
