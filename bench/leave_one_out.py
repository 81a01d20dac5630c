"""The atlases of `bench/prompts.py`: for each target, one of the other subjects."""

from __future__ import annotations

from pathlib import Path

from registrations import ATLASES

from medsam2_atlas.atlas import BuildOptions, ReferenceFiles, build_atlas
from medsam2_atlas.base.choices import RegistrationMethod
from medsam2_atlas.base.console import bars
from medsam2_atlas.registration import registration_config


def subject_of(name: str) -> str:
    """Returns the subject of a target; variants of one anatomy have the same subject and are not references for each other."""
    head, _, tail = name.rpartition("-")
    return head if tail.isdigit() and len(tail) == 1 else name


def atlas_of(method: str) -> RegistrationMethod:
    """Returns the registration of the atlas that a method uses."""
    return ATLASES.get(method, "dense")


def atlases(files: list[ReferenceFiles], way: RegistrationMethod, folder: Path) -> list[tuple[ReferenceFiles, Path]]:
    """Builds an atlas of the other subjects for each target, unless it exists; returns the targets and their atlases.

    Args:
        files: the targets.
        way: the method that registers the references to each other.
        folder: the folder of the atlases.
    """
    config = registration_config().model_copy(update={"method": way})
    targets = []
    with bars() as progress:
        for number, target in enumerate(files):
            place = (folder if way == "dense" else folder.with_name(f"{folder.name}-{way}")) / subject_of(target.name)
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                others = [f for f in files if subject_of(f.name) != subject_of(target.name)]
                build_atlas(others, BuildOptions(registration=config)).save(place)
            targets.append((target, place))
            progress(f"atlases of {folder.name}, {way}", (number + 1) / len(files))
    return targets
