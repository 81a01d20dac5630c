"""Finds the annotated CTs of a folder for commands that process many cases, and prints the cases that were left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from medsam2_atlas.base.choices import FINAL
from medsam2_atlas.base.console import console
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.cli.folders import study_folder

if TYPE_CHECKING:
    from medsam2_atlas.atlas import ReferenceFiles
    from medsam2_atlas.storage import StudyFolder


def annotated_cases(folder: Path, skipped: dict[str, str] | None) -> list[ReferenceFiles]:
    """Returns the annotated CTs of a folder with `images/` and `labels/`, or of a studies folder.

    Args:
        folder: folder with CTs in `images/` and label maps of the same names in `labels/`, or a studies folder.
        skipped: filled with the names of the cases that are left out and the reasons; with None, the first such case raises
            an error.

    Raises:
        InputError: the folder has no annotated CT, or `skipped` is None and a case cannot be used.
    """
    from medsam2_atlas.atlas import find_references

    if (folder / "images").is_dir():
        return find_references(folder, skipped)
    found = training_cases(study_folder(folder), skipped)
    if not found:
        print_left_out(skipped)
        raise InputError(folder, "has no annotated CTs.", "Put CTs into images/ and label maps of the same names into labels/.")
    return found


def training_cases(folder: StudyFolder, skipped: dict[str, str] | None) -> list[ReferenceFiles]:
    """Returns the signed-off studies of a folder that models may be trained on; `skipped` is as in `annotated_cases`.

    Label maps with a problem are left out. If the review stage is on, so are label maps that no reviewer has accepted.

    Raises:
        InputError: `skipped` is None and a study cannot be used.
    """
    found = []
    listed = signed_off_cases(folder, skipped)
    labels = folder.store.labels()
    for files in listed:
        label = labels.get(files.name, {}).get(FINAL)
        problem = folder.store.held_back(label) if label is not None else "was removed meanwhile."
        if problem and skipped is None:
            raise InputError(files.label, problem)
        if problem and skipped is not None:
            skipped.setdefault(files.name, f"{files.label.name}: {problem}")
        else:
            found.append(files)
    return found


def signed_off_cases(folder: StudyFolder, skipped: dict[str, str] | None) -> list[ReferenceFiles]:
    """Returns the studies of a folder that have a signed-off label map; `skipped` is as in `annotated_cases`.

    A study is left out if its image was replaced after the label map was drawn, or if it has files of two different images.

    Raises:
        InputError: `skipped` is None and a study cannot be used.
    """
    from medsam2_atlas.atlas import ReferenceFiles

    store = folder.store
    store.audit()
    images, found = store.images(), []
    problems = {study: wrong["image"] for study, wrong in store.problems().items() if "image" in wrong}
    for name, tags in sorted(store.labels().items()):
        label = tags.get(FINAL)
        if label is not None and label.unsure:
            problems.setdefault(name, label.problem)
        elif label is not None and name not in problems:  # other problems are reported when the label map is read
            found.append(ReferenceFiles(name, images[name].file, label.file))
    for name, problem in folder.problems(FINAL).items():
        problems.setdefault(name, problem)
    for name in sorted({*folder.labels(FINAL)} - {*images}):
        problems.setdefault(name, f"the folder has no CT of that name; {folder.label_folder(FINAL)} has a label map of it.")
    if skipped is None and problems:
        name, problem = next(iter(problems.items()))
        raise InputError(folder.path / name, problem)
    if skipped is not None:
        skipped.update(problems)
    return found


def print_left_out(skipped: Mapping[str, str] | None) -> None:
    """Prints the cases that were left out, sorted by name, each with its reason."""
    if skipped:
        console.print(f"[yellow]{len(skipped)} left out:[/]")
    for name, reason in sorted((skipped or {}).items()):
        console.print(f"  [yellow]{escape(name)}:[/] {escape(reason)}", soft_wrap=True)
