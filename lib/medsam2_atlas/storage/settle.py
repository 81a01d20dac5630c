"""Settles one study's label map under one tag: brings its files, its versions and the index into agreement."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.imaging.kinds import suffix_in
from medsam2_atlas.storage.folder import WorkFolder
from medsam2_atlas.storage.lineage import Lineage, Version
from medsam2_atlas.storage.links import Roots
from medsam2_atlas.storage.rows import LabelRow, Writer, stamp_of
from medsam2_atlas.storage.safely import copy_safely
from medsam2_atlas.storage.scan import besides, label_files, quick_look, readable, reason

log = logging.getLogger(__name__)


class Settler:
    """Updates the index from the files, never the reverse: if they differ, the index is out of date.

    Args:
        path: the studies folder.
        work: its work folder.
        roots: folders that links may lead to.
        stock: the content of MONAI Label's own index, by study.
    """

    def __init__(self, path: Path, work: WorkFolder, roots: Roots, stock: Mapping[str, Any]) -> None:
        self._path, self._work, self._roots, self._stock = path, work, roots, stock

    def lineage(self, study: str, tag: str) -> Lineage:
        """Returns the versions of a label map.

        Raises:
            StorageError: a link leads out of the studies folder.
        """
        return Lineage(self._roots.check(self._work.path / "versions" / tag / study))

    def settle(self, rows: Writer, study: str, tag: str) -> None:
        """Settles a label map; records any error as its problem.

        Args:
            rows: the writer of the index.
            study: the name of the study.
            tag: the tag of the label map.
        """
        try:
            with rows.savepoint():
                note = self.take(rows, study, tag)
        except sqlite3.Error:
            raise  # the error concerns the index, not this label map
        except Exception as error:  # noqa: BLE001 - an error of one label map must not affect the others
            self._failed(rows, study, tag, error)
            return
        if note:
            rows.put_problem(study, tag, note, bad=False)
        else:
            rows.drop_problem(study, tag)

    def take(self, rows: Writer, study: str, tag: str) -> str:
        """Settles a label map. `settle` documents the arguments.

        Returns:
            A note on a step that could not be completed yet, although the label map can be used; empty if there is none.

        Raises:
            OSError, StorageError: the label map cannot be settled.
        """
        row, lineage = rows.label(study, tag), self.lineage(study, tag)
        files = label_files(self._path, self._roots, study, tag)
        stamps = {file: stamp_of(file) for file in files}
        if row is not None and [(self._place(f), stamps[f]) for f in files] == [(row.file, row.stamp)]:
            if not readable(files[0]):
                raise PermissionError(13, "Permission denied")
            if not outdated(lineage, row.version):
                return ""
        versions = lineage.readable()
        latest = versions[-1] if versions else None
        finished = row is not None and latest is not None and row.version.number >= latest.number
        sums = {file: sha256(file) for file in files}
        known = {version.sha256 for version in versions}
        strange = [file for file in files if sums[file] not in known]
        if row is not None and latest is not None and finished:
            left = self._left_over(row, latest, files, sums)
            strange = [file for file in files if file not in left and (file in strange or sums[file] != latest.sha256)]
            if left and not strange and stamps.get(self._path / row.file) == row.stamp and row.version == latest:
                return _cleared(left)
        if strange:
            strange.sort(key=lambda file: file.stat().st_mtime_ns)
            return self._adopt(rows, study, tag, strange, files, stamps, sums)
        if latest is None:
            rows.drop_label(study, tag)
            return ""
        if latest.removed or (finished and not files):
            if not latest.removed:
                log.warning("the file of the label of %s under %s was removed; its versions stay", study, tag)
                lineage.commit(None, "", Version(0, "", "", "removed", info={"how": "its file was taken away"}))
            rows.drop_label(study, tag)
            return _cleared(files)
        return self._finish(rows, study, tag, latest, files, sums)

    def _left_over(self, row: LabelRow, latest: Version, files: list[Path], sums: Mapping[Path, str]) -> list[Path]:
        """Returns files of earlier versions that could not be replaced or removed when the latest version was saved.

        They do not include a newer file with the content of an earlier version, which a person has put back.
        """
        current = self._path / row.file
        if current.is_relative_to(self._work.path):  # the latest version could not be copied to `labels/`
            return [file for file in files if sums[file] != latest.sha256]
        if sums.get(current) != latest.sha256:
            return []
        newest = current.stat().st_ctime_ns
        return [file for file in besides(files, current) if file.stat().st_ctime_ns <= newest]

    def _adopt(
        self,
        rows: Writer,
        study: str,
        tag: str,
        strange: list[Path],
        files: list[Path],
        stamps: Mapping[Path, str],
        sums: Mapping[Path, str],
    ) -> str:
        """Saves files of other programs as versions, the newest as the current one; returns a note as `take` does."""
        lineage, newest = self.lineage(study, tag), strange[-1]
        info = entry(self._stock, study, "labels", tag, "info")
        doubled = tuple(file.name for file in strange[:-1] if sums[file] != sums[newest])
        note = ""
        try:
            for file in strange:
                with lineage.staged(file) as staged:
                    beside = doubled if file == newest else ()
                    found = Version(0, "", sha256(staged), "found", info=info, doubled=beside)
                    version = lineage.commit(staged, suffix_in(file.name, labels=True), found)
        except OSError as error:  # the file is used without a copy on a full or read-only disk
            number, suffix = lineage.next_number(), suffix_in(newest.name, labels=True)
            made = datetime.fromtimestamp(newest.stat().st_mtime, timezone.utc).isoformat(timespec="milliseconds")
            version = Version(number, f"{number:05d}{suffix}", sums[newest], "found", made=made, info=info, doubled=doubled)
            note = f"could not be stored as a version yet ({error.strerror}). It is stored when the disk can be written."
        else:
            note = _cleared(besides(files, newest))
        checked = quick_look(newest) or None
        rows.put_label(LabelRow(study, tag, self._place(newest), stamps[newest], version, checked))
        return note

    def _finish(self, rows: Writer, study: str, tag: str, latest: Version, files: list[Path], sums: Mapping[Path, str]) -> str:
        """Makes the latest version the current file; returns a note as `take` does."""
        lineage, note = self.lineage(study, tag), ""
        current = self._path / "labels" / tag / f"{study}{suffix_in(latest.file, labels=True)}"
        used = current
        if sums.get(current) != latest.sha256:
            if not lineage.intact(latest):
                raise StorageError(
                    study,
                    f"has no usable label map: version {latest.number} under {tag} is missing or damaged on the disk.",
                    "Restore it from a backup, or save the label map again.",
                )
            try:
                copy_safely(lineage.file(latest), current)
                log.warning("saving the label of %s under %s was interrupted; it is complete now", study, tag)
            except OSError as error:
                used, files = lineage.file(latest), []
                note = f"is saved, but labels/{tag} could not be updated ({error.strerror}). This is repeated automatically."
        note = note or _cleared(besides(files, current))
        checked = "" if latest.organs is not None else quick_look(used) or None
        rows.put_label(LabelRow(study, tag, self._place(used), stamp_of(used), latest, checked))
        return note

    def _failed(self, rows: Writer, study: str, tag: str, error: Exception) -> None:
        """Records a problem. Until it is solved, the newest version is used from the folder of versions."""
        text = reason(error)
        log.error("the label of %s under %s %s", study, tag, text)
        rows.put_problem(study, tag, text)
        rows.drop_label(study, tag)
        with suppress(OSError, StorageError):
            lineage = self.lineage(study, tag)
            latest = next((version for version in reversed(lineage.readable()) if lineage.intact(version)), None)
            if latest is not None and latest.number == lineage.numbers()[-1]:
                file = lineage.file(latest)
                rows.put_label(LabelRow(study, tag, self._place(file), stamp_of(file), latest, ""))

    def _place(self, file: Path) -> str:
        return str(file.relative_to(self._path))


def entry(content: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Returns a nested object of JSON that another program wrote; empty if it is missing or not an object.

    >>> entry({"a": {"info": {"k": 1}}, "b": 2}, "a", "info"), entry({"b": 2}, "b")
    ({'k': 1}, {})
    """
    found: Any = content
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def outdated(lineage: Lineage, known: Version | None) -> bool:
    """Returns whether the newest version, or its record, differs from the one in the index."""
    numbers = lineage.numbers()
    if known is None or not numbers or numbers[-1] != known.number:
        return True
    try:
        return lineage.version(known.number) != known
    except StorageError:
        return True


def _cleared(files: list[Path]) -> str:
    """Removes files that are no longer current; returns a note if one cannot be removed."""
    for file in files:
        try:
            file.unlink()  # removes a link, not its target
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"has a superseded file beside it that cannot be removed ({error.strerror})."
    return ""
