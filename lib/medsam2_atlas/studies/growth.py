"""Grows the atlas of a set of studies: a base atlas, and every signed-off label."""

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
    """Returns the store of the grown atlas' versions."""
    return AtlasStore(work.path / "atlas")


def grown_atlas(work: WorkFolder, base: Atlas | None) -> Atlas | None:
    """Returns the current grown atlas; None if there is none, or if it grew from a different base atlas."""
    folder = atlas_store(work).current
    if folder is None:
        return None
    atlas = Atlas.load(folder)
    return atlas if atlas.options.get("base", "") == (base.version if base else "") else None


def excluded_references(work: WorkFolder) -> set[str]:
    """Returns the names of the studies that are excluded from the atlas.

    Raises:
        AtlasError: if the list cannot be read; without it, excluded labels would be added again.
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
    """Options of the growth of a studies folder's atlas.

    The inherited `exclude` lists studies to exclude from now on. The inherited `cache` is replaced by the cache of the studies.

    Attributes:
        include: names of excluded studies to admit again.
        rebuild: register everything again; without a base atlas, this also builds a new common space.
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
    """Builds a new version of the studies' atlas and makes it the current one.

    Args:
        work: work folder of the studies.
        base: atlas to start from; None builds an atlas from the studies' labels alone.
        finals: the signed-off labels.
        options: options of the growth.
        skipped: reasons why labels were excluded earlier, by name; for the report.
        progress: called with stage and fraction completed.

    Returns:
        The report, which lists the outcome of each label.

    Raises:
        AtlasError: if there is nothing to build an atlas from.
        MedSAM2AtlasError: if `options.strict` and a label cannot be used; the current version stays.
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
    """Returns the outcome of each label, the new version in `folder`, and the version that it replaces."""
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
