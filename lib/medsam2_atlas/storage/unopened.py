"""Lists the studies of a folder without opening a store, for commands that must not write into it."""

from __future__ import annotations

import json
from pathlib import Path

from medsam2_atlas.base.choices import FINAL
from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.storage.compare import difference
from medsam2_atlas.storage.folder import Study, StudyFolder, list_files
from medsam2_atlas.storage.links import Roots
from medsam2_atlas.storage.scan import resolve_twins


def unopened_studies(folder: StudyFolder) -> tuple[list[Study], dict[str, str]]:
    """Returns the studies of a folder. Several files of one study are compared.

    Returns:
        The studies, sorted by name, and by study or file name the reasons why files are left out.

    Raises:
        OSError, StorageError: the folder cannot be listed.
    """
    roots = Roots(folder.path, folder.roots)
    listing = list_files(folder.path, roots)
    known = {
        study: (json.dumps([[name, listing.stamps[name]] for name in names]), _difference(folder.path, names))
        for study, names in listing.files.items()
        if len(names) > 1
    }
    images, labels = resolve_twins(listing, known), list_files(folder.label_folder(FINAL), roots, labels=True)
    problems = {**labels.left_out, **images.left_out}
    for study, names in labels.files.items():
        if len(names) > 1:
            problems.setdefault(study, f"has several label maps under {FINAL}: {', '.join(names)}. Remove all but one.")
    finals = {study: folder.label_folder(FINAL) / names[0] for study, names in labels.files.items() if study not in problems}
    studies = [Study(study, folder.path / names[-1], finals.get(study)) for study, names in sorted(images.files.items())]
    return studies, problems


def _difference(folder: Path, names: list[str]) -> str:
    try:
        return difference([folder / name for name in names])
    except (OSError, MedSAM2AtlasError) as error:
        return f"they cannot be compared ({error})."
