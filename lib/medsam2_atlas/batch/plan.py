"""Decides which cases of a source are done in this run: compares the source with the manifest of earlier runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError
from medsam2_atlas.batch.items import Item, stamp_of
from medsam2_atlas.batch.job import Job
from medsam2_atlas.batch.manifest import Entry, Manifest, failure_entry
from medsam2_atlas.batch.names import Names
from medsam2_atlas.batch.problems import reason_of
from medsam2_atlas.batch.publish import Publisher
from medsam2_atlas.batch.sources import Found, named, wished_name


@dataclass(frozen=True)
class Plan:
    """The cases to do.

    Attributes:
        items: the items without a valid result, with names and stamps.
        kept: number of valid results.
        left_out: why other inputs cannot be used, by name.
        unusable: the entries of those that the manifest does not have yet, and that have no result of an earlier run.
        changed: ids of items whose CTs have changed since the manifest's entry.
    """

    items: Sequence[Item]
    kept: int
    left_out: Mapping[str, str]
    unusable: Sequence[Entry] = ()
    changed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, found: Found, manifest: Manifest, job: Job, publisher: Publisher, *, retry_failed: bool = False) -> Plan:
        """Compares a source with a manifest.

        A case is done again if its CT, what it is made with, or its result has changed. A case that failed for a reason that
        repeats is done again only if its CT or what it is made with has changed, or with `retry_failed`.

        Args:
            found: the items of the source.
            manifest: the manifest of earlier runs.
            job: the job, with its key.
            publisher: knows whether results are still there.
            retry_failed: whether all failed cases are done again.

        Raises:
            InputError: the manifest has results of other CTs with the same ids.
        """
        names, items, kept = Names(manifest.names()), list[Item](), 0
        left_out, unusable, changed = dict[str, str](), list[Entry](), set[str]()

        def leave_out(item: Item, reason: str) -> None:
            name = names.of(item.id, wished_name(item))
            left_out[name] = reason
            known = manifest.entry(item.id)
            if known is not None and known["status"] != "failed":  # its result is still there, as when a drive is not mounted
                return
            if known is None or known.get("reason") != reason or known["made_by"] != job.key:
                unusable.append(failure_entry(replace(item, name=name), job.key, reason, passing=True, attempts=0))

        for item in found.items:
            try:
                item = named(item, names.of(item.id, wished_name(item)), stamp_of(item))
            except (OSError, MedSAM2AtlasError) as error:
                leave_out(item, reason_of(error))
                continue
            entry = manifest.entry(item.id)
            before = {} if entry is None else entry.get("input", {})
            if job.results != "studies" and _is_another(before.get("path"), item):  # a studies folder refuses it itself
                problem = f"is another CT than {before['path']}, whose results the folder contains under the same name."
                raise InputError(item.path, problem, "Name another folder for the outputs.")
            if entry is not None and before.get("stamp") != item.stamp:
                changed.add(item.id)
            same = entry is not None and entry["made_by"] == job.key and before.get("stamp") == item.stamp
            if same and entry is not None:
                failed = entry["status"] == "failed"
                if failed and not retry_failed and not entry.get("passing"):
                    left_out[item.name] = str(entry.get("reason", ""))
                    continue
                if entry["status"] == "done" and publisher.is_there(entry):
                    kept += 1
                    continue
            items.append(item)
        for key, reason in found.left_out.items():
            leave_out(Item(key, "file", key), reason)
        return cls(items, kept, left_out, unusable, frozenset(changed))


def _is_another(path: object, item: Item) -> bool:
    """Returns whether a path of the manifest is another CT than the item: both exist, and they are different."""
    if item.kind == "dicomweb" or not isinstance(path, str) or path == item.path:
        return False
    try:
        return not Path(path).samefile(item.path)
    except (OSError, ValueError):  # the CTs were moved
        return False
