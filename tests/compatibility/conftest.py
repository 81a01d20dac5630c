"""Fixtures that unpack and open each generation once for the tests that only read it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from compatibility.facts import QUESTIONS
from compatibility.generations import Generation, generations, in_use
from medsam2_atlas.base.files import sha256

_INDEX = ".sqlite"


@dataclass(frozen=True)
class Opened:
    """A generation whose files were opened.

    Attributes:
        generation: the generation.
        home: folder of its unpacked files.
        before: checksums of all files except indexes, before anything was opened.
        answers: the answer to each of `facts.QUESTIONS`, or the error.
        after: checksums after the files were opened.
    """

    generation: Generation
    home: Path
    before: dict[str, str]
    answers: dict[str, Any]
    after: dict[str, str]


def checksums(home: Path) -> dict[str, str]:
    """Returns checksums of all files except indexes, and the targets of links, by path."""
    found = {}
    for folder, _, names in os.walk(home):
        for file in (Path(folder, name) for name in names if _INDEX not in name):
            found[str(file.relative_to(home))] = str(file.readlink()) if file.is_symlink() else sha256(file)
    return found


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Limits PyTorch to one thread, because several threads mostly wait for each other on volumes this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=generations(), ids=lambda generation: generation.name)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    generation: Generation = request.param
    folder = tmp_path_factory.mktemp("generation")
    home = generation.unpack(folder / "moved" / "home")
    before, answers = checksums(home), {}
    with in_use(home, generation.made_by["version"], folder / "settings"):
        for part, ask in QUESTIONS.items():
            try:
                answers[part] = ask(home, generation.made_by["notes"])
            except Exception as error:  # noqa: BLE001 - the test of this part shows it
                answers[part] = error
        yield Opened(generation, home, before, answers, checksums(home))


@pytest.fixture
def copy(opened: Opened, tmp_path: Path) -> Path:
    """Returns a copy of the generation's files for tests that change them; paths in its texts point into the copy."""
    return opened.generation.unpack(tmp_path / "home", in_place=True)
