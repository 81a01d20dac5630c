"""The atlas of a set of studies: a base, and every label that was signed off."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from medsam2_atlas.atlas import Atlas, AtlasStore, Growth, ReferenceFiles, grow_atlas
from medsam2_atlas.base.errors import AtlasError
from medsam2_atlas.base.files import write_json
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.imaging.hounsfield import CHECK, HuRule
from medsam2_atlas.registration import RegistrationCache
from medsam2_atlas.storage import WorkFolder


def atlas_store(work: WorkFolder) -> AtlasStore:
    """The versions of the grown atlas."""
    return AtlasStore(work.path / "atlas")


def grown_atlas(work: WorkFolder, base: Atlas | None) -> Atlas | None:
    """The current grown atlas, if it grew from this base."""
    folder = atlas_store(work).current
    if folder is None:
        return None
    atlas = Atlas.load(folder)
    return atlas if atlas.options.get("base", "") == (base.version if base else "") else None


def excluded_references(work: WorkFolder) -> set[str]:
    """Returns names that are kept out of the atlas.

    Raises:
        AtlasError: their file cannot be read; without it, excluded labels would be added again.
    """
    file = work.path / "atlas" / "excluded.json"
    try:
        return {str(name) for name in json.loads(file.read_text(encoding="utf-8"))}
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, TypeError) as error:
        raise AtlasError(file, f"cannot be read ({error}).", "Remove it, and name the excluded studies again.") from error


def grow_studies_atlas(
    work: WorkFolder,
    base: Atlas | None,
    finals: Sequence[ReferenceFiles],
    *,
    exclude: Collection[str] = (),
    include: Collection[str] = (),
    trust: Collection[str] = (),
    rebuild: bool = False,
    hu: HuRule = CHECK,
    skipped: Mapping[str, str] | None = None,
    strict: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Makes a new version of the studies' atlas and puts it in place of the old one; tells what became of each label.

    Args:
        work: of the studies.
        base: the atlas to start from; without one the studies' own labels make one.
        finals: the signed-off labels.
        exclude: names to keep out from now on. include: names to admit again.
        trust: names that are taken although they lie apart from the other references.
        rebuild: register everything again, with a new common space if there is no base.
        hu: how the values of the CTs become HU.
        skipped: labels that were left out before, by name, with the reason; for the report.
        strict: raise the error of the first label that cannot be used.
        progress: told stages and shares.

    Raises:
        AtlasError: nothing to make an atlas of.
        MedSAM2AtlasError: if `strict`, a label that cannot be used; the current version stays.
    """
    excluded = (excluded_references(work) | set(exclude)) - set(include)
    write_json(sorted(excluded), work.folder("atlas") / "excluded.json")
    before = None if rebuild else grown_atlas(work, base)
    start = before or base
    cache = RegistrationCache(work.folder("registrations"))
    growth: Growth = grow_atlas(
        start, finals, exclude=excluded, trust=trust, hu=hu, cache=cache, strict=strict, progress=progress
    )
    atlas = replace(growth.atlas, options=growth.atlas.options | {"base": base.version if base else ""})
    folder = atlas_store(work).publish(atlas)
    report = {
        "version": atlas.version,
        "template": atlas.template_version,
        "folder": str(folder),
        "references": len(atlas.references),
        "added": list(growth.added),
        "kept": list(growth.kept),
        "removed": list(growth.removed),
        "refused": {**(skipped or {}), **growth.refused},
        "excluded": sorted(excluded),
        "disagreeing": atlas.disagreeing,
        "hu": {"rule": str(hu), "offsets": atlas.options.get("hu_offsets", {})},
        "replaces": before.version if before else None,
    }
    write_json(report, work.folder("atlas") / "stats.json")
    return report
