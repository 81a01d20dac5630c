"""The atlases of `bench/prompts.py`: for each target, one of the other subjects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prompt_sets import Task
from registrations import ATLASES

from medsam2_atlas.atlas import BuildOptions, build_atlas
from medsam2_atlas.base.choices import RegistrationMethod
from medsam2_atlas.base.console import bars
from medsam2_atlas.registration import registration_config


def atlas_of(method: str) -> RegistrationMethod:
    """Returns the registration of the atlas that a method uses."""
    return ATLASES.get(method, "dense")


def atlases(tasks: Sequence[Task], way: RegistrationMethod, folder: Path) -> list[tuple[Task, Path]]:
    """Builds the atlas of each task's references, unless it exists; returns the tasks and their atlases.

    Args:
        tasks: the targets with their references.
        way: the method that registers the references to each other.
        folder: the folder of the atlases.
    """
    config = registration_config().model_copy(update={"method": way})
    targets = []
    with bars() as progress:
        for number, task in enumerate(tasks):
            place = (folder if way == "dense" else folder.with_name(f"{folder.name}-{way}")) / task.atlas
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                build_atlas(task.references, BuildOptions(registration=config)).save(place)
            targets.append((task, place))
            progress(f"atlases of {folder.name}, {way}", (number + 1) / len(tasks))
    return targets
