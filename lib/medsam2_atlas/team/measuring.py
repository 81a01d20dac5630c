"""Computes the figures of each `final` version once, in the background: what was edited, Dice, agreement of people.

Two label maps are compared with one pass over their voxels (`evaluation.label_overlap`). At most two are in memory at a time.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping
from typing import Any

from medsam2_atlas.base.choices import FINAL
from medsam2_atlas.base.errors import MedSAM2AtlasError, NotFoundError
from medsam2_atlas.evaluation.label_overlap import Overlap
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume, read_labels
from medsam2_atlas.storage import StudyStore, Version
from medsam2_atlas.team.record import Pair, Record
from medsam2_atlas.team.sources import (
    Source,
    first_source,
    independent_of,
    own_versions,
    source_of,
    sources_of,
    unseen_prediction,
)
from medsam2_atlas.team.table import FigureTable

log = logging.getLogger(__name__)


def measure_next(store: StudyStore, table: FigureTable) -> bool:
    """Computes the missing figures of one study, and removes those of studies that no longer exist.

    Args:
        store: the studies.
        table: the table of the figures.

    Returns:
        Whether there was a study to measure. Any error of one study is logged; it is measured again after its next version.

    Raises:
        StorageError: the studies cannot be read.
        sqlite3.Error: the table cannot be read or written.
    """
    measured, images = table.measured(), store.images()
    table.drop([study for study in measured if study not in images])
    for study, tags in store.labels().items():
        final = tags.get(FINAL)
        if final is None or measured.get(study) == mark_of(final.version):
            continue
        _measure(store, table, study, mark_of(final.version))
        try:
            store.image(study)
        except NotFoundError:  # it was erased or removed meanwhile
            table.drop([study])
        return True
    return False


def mark_of(version: Version) -> str:
    """Returns a text that identifies the content of a version."""
    return f"{version.number}-{version.made}-{version.sha256}"


def _measure(store: StudyStore, table: FigureTable, study: str, newest: str) -> None:
    """Computes the missing records of a study. The study is marked after any error too, so that the others get their turn."""
    known, kept, new = table.known(study), list[int](), list[tuple[str, Record]]()
    try:
        versions = _Versions(store, study)
        own = own_versions(versions.finals)
        kept = [version.number for version in own if known.get(version.number) == mark_of(version)]
        new = [(mark_of(version), _record_or_less(versions, version)) for version in own if version.number not in kept]
    except sqlite3.Error:
        raise
    except MedSAM2AtlasError as error:
        log.warning("the team's figures of a study cannot be computed: %s", error)
    except Exception:
        log.exception("the team's figures of a study cannot be computed")
    table.put(study, newest, new, kept)


class _Versions:
    """All versions of a study, read once; label maps are read when they are compared."""

    def __init__(self, store: StudyStore, study: str) -> None:
        self.study, self._store = study, store
        self.image = store.image(study).file
        self.by_tag = {tag: store.versions(study, tag) for tag in store.tags(study)}

    @property
    def finals(self) -> list[Version]:
        """All final versions in ascending order."""
        return self.by_tag.get(FINAL, [])

    def find(self, tag: str, number: int) -> Version | None:
        return next((version for version in self.by_tag.get(tag, ()) if version.number == number), None)

    def labels(self, tag: str, number: int) -> Volume:
        """Returns the label map `[z, y, x]` of a version on the grid of the present image."""
        return read_labels(self._store.version_file(self.study, tag, number), image=self.image)


def _record_or_less(versions: _Versions, version: Version) -> Record:
    """Returns the record of a version; only its author and time if anything else fails, such as the disk."""
    try:
        return _record(versions, version)
    except sqlite3.Error:
        raise
    except Exception:
        log.exception("the team's figures of a version cannot be computed")
        return Record(versions.study, version.number, version.author, version.author_id, version.made)


def _record(versions: _Versions, version: Version) -> Record:
    """Returns the record of a version. Comparisons whose label maps cannot be read are left out."""
    about = Record(versions.study, version.number, version.author, version.author_id, version.made, *_time(version))
    compared: dict[str, Any] = {}
    try:
        labels = versions.labels(FINAL, version.number)
    except MedSAM2AtlasError as error:
        log.warning("the team's figures of a version cannot be computed: %s", error)
        return about
    source = source_of(version)
    if source is not None and (overlap := _overlap(versions, source, labels)) is not None:
        compared |= {"start": source.tag, **_edits(overlap)}
    first = first_source(version, versions.find)
    compared |= {"dice": {}, "predicted": {}, "first_start": None if first is None else first.tag}
    for tag, predictions in versions.by_tag.items():
        found = unseen_prediction(predictions, versions.finals) if tag != FINAL else None
        if found is not None and (overlap := _overlap(versions, Source(tag, found.number), labels)) is not None:
            compared["dice"][tag] = _dice(overlap)
            compared["predicted"][tag] = tuple(sorted(overlap.first_organs & {*organ_table().indices}))
    pairs, untold = _pairs(versions, version, labels)
    return Record(**{**vars(about), **compared, "pairs": tuple(pairs), "untold": tuple(untold)})


def _pairs(versions: _Versions, version: Version, labels: Volume) -> tuple[list[Pair], list[str]]:
    """Returns the agreement with the newest earlier version of each other author, and those for whom it cannot be told."""
    earlier = {}
    for other in own_versions(versions.finals):
        if other.number < version.number and _person(other) and _person(other) != _person(version):
            earlier[_person(other)] = other
    pairs, untold = list[Pair](), list[str]()
    for other in earlier.values() if _person(version) else ():
        free = independent_of(version, other, versions.finals[0], versions.find)
        untold += [_person(other)] if free is None else []
        overlap = _overlap(versions, Source(FINAL, other.number), labels) if free else None
        if overlap is not None:
            common = set(sources_of(version, versions.find)) & set(sources_of(other, versions.find)) - {Source()}
            same_start = bool(common)
            pairs.append(Pair(other.author, other.author_id, other.number, same_start, _dice(overlap)))
    return pairs, untold


def _overlap(versions: _Versions, source: Source, labels: Volume) -> Overlap | None:
    """Returns the overlap of a version with a label map; None if the version cannot be read or has another grid."""
    try:
        before = versions.labels(source.tag, source.number) if source.tag else None
        return Overlap.of(None if before is None else before.array, labels.array, labels.geometry.voxel_ml)
    except (MedSAM2AtlasError, ValueError) as error:
        log.warning("two versions cannot be compared for the team's figures: %s", error)
        return None


def _edits(overlap: Overlap) -> dict[str, dict[int, Any]]:
    voxels = {organ: count for organ, count in overlap.edited_voxels().items() if organ in organ_table().indices}
    return {"edited_voxels": voxels, "edited_ml": {organ: round(n * overlap.voxel_ml, 3) for organ, n in voxels.items()}}


def _dice(overlap: Overlap) -> dict[int, float]:
    known = organ_table().indices
    return {organ: found["dice"] for organ, found in overlap.differences(0).items() if organ in known}


def _time(version: Version) -> tuple[float | None, dict[int, float]]:
    """Returns the active seconds of a version's author, and by organ number; None and empty if unknown."""
    work = version.info.get("work")
    if not isinstance(work, Mapping):
        return None, {}
    seconds, organs = work.get("seconds"), work.get("organs")
    by_organ = organs.items() if isinstance(organs, Mapping) else ()
    return (
        float(seconds) if isinstance(seconds, (int, float)) and seconds > 0 else None,
        {int(k): float(v) for k, v in by_organ if str(k).isdecimal() and isinstance(v, (int, float))},
    )


def _person(version: Version) -> str:
    return version.author_id or version.author
