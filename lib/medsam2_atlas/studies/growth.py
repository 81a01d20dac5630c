"""The atlas of a set of studies: a base, and every label that was signed off."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medsam2_atlas.atlas import Atlas, AtlasStore, Growth, GrowthOptions, ReferenceFiles, grow_atlas
from medsam2_atlas.base.errors import AtlasError
from medsam2_atlas.base.files import write_json
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.registration import RegistrationCache
from medsam2_atlas.storage import WorkFolder


def atlas_store(work: WorkFolder) -> AtlasStore:
    """Returns the versions of the grown atlas."""
    return AtlasStore(work.path / "atlas")


def grown_atlas(work: WorkFolder, base: Atlas | None) -> Atlas | None:
    """Returns the current grown atlas, if it grew from this base."""
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


@dataclass(frozen=True)
class StudiesGrowthOptions(GrowthOptions):
    """How the atlas of studies grows; `exclude` names studies to keep out from now on, `cache` is that of the studies.

    Attributes:
        include: names to admit again.
        rebuild: register everything again, with a new common space if there is no base.
    """

    include: Collection[str] = ()
    rebuild: bool = False


def grow_studies_atlas(
    work: WorkFolder,
    base: Atlas | None,
    finals: Sequence[ReferenceFiles],
    options: StudiesGrowthOptions | None = None,
    *,
    skipped: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Makes a new version of the studies' atlas and puts it in place of the old one.

    Args:
        work: of the studies.
        base: the atlas to start from; without one the studies' own labels make one.
        finals: the signed-off labels.
        options: how it grows.
        skipped: labels that were left out before, by name, with the reason; for the report.
        progress: called with stage and fraction completed.

    Returns:
        The outcome for each label.

    Raises:
        AtlasError: nothing to make an atlas of.
        MedSAM2AtlasError: if `options.strict`, a label that cannot be used; the current version stays.
    """
    options = options or StudiesGrowthOptions()
    excluded = (excluded_references(work) | set(options.exclude)) - set(options.include)
    write_json(sorted(excluded), work.folder("atlas") / "excluded.json")
    before = None if options.rebuild else grown_atlas(work, base)
    start = before or base
    cache = RegistrationCache(work.folder("registrations"))
    growth = grow_atlas(start, finals, replace(options, exclude=excluded, cache=cache), progress)
    growth = replace(growth, atlas=_grown_from(base, growth.atlas), refused={**(skipped or {}), **growth.refused})
    folder = atlas_store(work).publish(growth.atlas)
    report = _report(growth, folder, before) | {"excluded": sorted(excluded)}
    report["hu"] = {"rule": str(options.hu), "offsets": growth.atlas.options.get("hu_offsets", {})}
    write_json(report, work.folder("atlas") / "stats.json")
    return report


def _grown_from(base: Atlas | None, atlas: Atlas) -> Atlas:
    return replace(atlas, options=atlas.options | {"base": base.version if base else ""})


def _report(growth: Growth, folder: Path, before: Atlas | None) -> dict[str, Any]:
    """Returns the outcome for each label, and the version in `folder` that replaces another one."""
    return {
        "version": growth.atlas.version,
        "template": growth.atlas.template_version,
        "folder": str(folder),
        "references": len(growth.atlas.references),
        "added": list(growth.added),
        "kept": list(growth.kept),
        "removed": list(growth.removed),
        "refused": growth.refused,
        "disagreeing": growth.atlas.disagreeing,
        "replaces": before.version if before else None,
    }
