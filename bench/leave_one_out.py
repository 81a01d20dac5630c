"""The atlases of `bench/prompts.py`: for each target, one of the other subjects.

With a shared space, all CTs of the set are registered once to one common space, and each target's atlas is the subset without
its subject. This takes a tenth of the time. The target has neither image nor label in its atlas, but it took part in the
registration of the others, so figures may be slightly too good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from prompt_sets import Task
from registrations import ATLASES

from medsam2_atlas.atlas import Atlas, BuildOptions, ReferenceFiles, atlas_config, build_atlas, subset
from medsam2_atlas.base.choices import RegistrationMethod
from medsam2_atlas.base.console import bars
from medsam2_atlas.registration import registration_config
from medsam2_atlas.studies import file_stamp


def atlas_of(method: str) -> RegistrationMethod:
    """Returns the registration of the atlas that a method uses."""
    return ATLASES.get(method, "dense")


def made_from(tasks: Sequence[Task]) -> str:
    """Returns eight hexadecimal digits that change with a set's files, and with settings of atlas and registration.

    Kept atlases and registrations of others must not be used. The digits do not change with the version of the program.
    """
    files = {file for task in tasks for files in (task.target, *task.references) for file in (files.image, files.label)}
    parts = [f"{file.name} {file_stamp(file)}" for file in sorted(files)]
    parts += [config.model_dump_json() for config in (registration_config(), atlas_config())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def atlases(
    tasks: Sequence[Task], way: RegistrationMethod, folder: Path, everyone: Sequence[ReferenceFiles] = ()
) -> list[tuple[Task, Path]]:
    """Builds the atlas of each task's references, unless it exists; returns the tasks and their atlases.

    Args:
        tasks: the targets with their references.
        way: the method that registers the references to each other.
        folder: the folder of the atlases.
        everyone: the CTs that share one common space; if there are none, each atlas has its own.
    """
    config = registration_config().model_copy(update={"method": way})
    targets = []
    with bars() as progress:
        for number, task in enumerate(tasks):
            place = (folder if way == "dense" else folder.with_name(f"{folder.name}-{way}")) / task.atlas
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                options = BuildOptions(registration=config)
                if everyone:
                    whole = place.parent / "all"
                    if not whole.exists():
                        build_atlas(everyone, options).save(whole)
                    subset(Atlas.load(whole), [files.name for files in task.references]).save(place)
                else:
                    build_atlas(task.references, options).save(place)
            targets.append((task, place))
            progress(f"atlases of {folder.name}, {way}", (number + 1) / len(tasks))
    return targets
