"""Changes single label maps: each change is made completely or not at all, and the answer states which.

Everything that needs disk space is staged and flushed first. Renaming a version's record makes the change. Then the current
file and the index are updated. If that fails, the change still counts: the error is logged, and the next scan of the folder
repeats the update before the next answer.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medsam2_atlas.base.errors import NotFoundError, StorageError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.imaging.kinds import suffix_in
from medsam2_atlas.storage.entries import check_expected
from medsam2_atlas.storage.folder import encodable
from medsam2_atlas.storage.lineage import Version
from medsam2_atlas.storage.names import LISTED
from medsam2_atlas.storage.open_folder import OpenFolder
from medsam2_atlas.storage.outcome import Outcome
from medsam2_atlas.storage.rows import LabelRow, Writer, stamp_of
from medsam2_atlas.storage.safely import flush, staged_copy
from medsam2_atlas.storage.scan import MAX_NAME_BYTES, besides, label_files, label_names, readable

log = logging.getLogger(__name__)


Accept = Callable[[LabelRow | None, bool], None]
"""Called with the current label map and whether settling it failed; raises an error if a new version must not replace it."""


Change = Callable[[LabelRow, list[Version]], Version]
"""Called with the row of a current label map and all its versions; returns its new record."""


@dataclass(frozen=True)
class Made:
    """A label map after a change.

    Attributes:
        row: the label map.
        before: the version that it replaced; None if there was none, or if the change made no new version.
    """

    row: LabelRow
    before: Version | None = None


class LabelChanges:
    """Changes label maps of a studies folder.

    Args:
        folder: the open studies folder.
    """

    def __init__(self, folder: OpenFolder) -> None:
        self._path, self._work, self._index = folder.path, folder.work, folder.index
        self._roots, self._reconciler = folder.roots, folder.reconciler

    def save(self, study: str, tag: str, file: Path, new: Version, expected: int | None, accept: Accept) -> Made:
        """Makes a file the next version and the current label map.

        Args:
            study: the name of the study.
            tag: the tag of the label map.
            file: the file to copy.
            new: its version; this method sets number, file and time.
            expected: the number of the version that the change is based on; None accepts any.
            accept: called under the lock, so it must be quick and must not query the index.

        Raises:
            NotFoundError: the study was removed meanwhile.
            ConflictError: the current version is not the expected one.
            OSError, StorageError: the label map cannot be written; nothing has changed.
        """
        suffix = suffix_in(file.name, labels=True)
        if suffix_in(f"{study}{suffix}", labels=True) != suffix:  # the file of `x.seg` + `.nrrd` would belong to study `x`
            raise StorageError(study, f"ends in .seg, so its label map cannot end in {suffix}.", "Save it as .nii.gz.")
        if len(os.fsencode(f"{study}{suffix}")) > MAX_NAME_BYTES:
            raise StorageError(study[:80], f"is too long a name for a label map of type {suffix}.", "Shorten the image's name.")
        try:
            return self._index.again(lambda: self._save(study, tag, file, new, expected, accept))
        except NotFoundError:
            with suppress(OSError):  # removes the folder of the staged copy if it is empty
                self._reconciler.lineage(study, tag).folder.rmdir()
            raise

    def remove(self, study: str, tag: str, author: str, author_id: str = "") -> None:
        """Removes the current label map, and records the removal as a version.

        Args:
            study: the name of the study.
            tag: the tag of the label map.
            author: the name of the person who removes it; empty if unknown.
            author_id: the id of that person; empty if unknown.

        Raises:
            NotFoundError: the study has no label map under the tag.
            OSError, StorageError: the removal cannot be written; nothing has changed.
        """
        self._index.again(lambda: self._remove(study, tag, author, author_id))

    def describe(self, study: str, tag: str, info: Mapping[str, Any], accept: Callable[[Version], None] | None = None) -> None:
        """Adds information to the current version.

        Args:
            study: the name of the study.
            tag: the tag of the label map.
            info: the information to add.
            accept: called under the lock with the resulting version; raises to refuse it.

        Raises:
            NotFoundError: the study has no label map under the tag.
            OSError, StorageError: the record cannot be written; nothing has changed.
        """

        def change(row: LabelRow, _: list[Version]) -> Version:
            version = replace(row.version, info={**row.version.info, **info})
            if accept is not None:
                accept(version)
            return version

        self.rewrite(study, tag, change)

    def rewrite(self, study: str, tag: str, change: Change) -> Made:
        """Replaces the record of the current version; its label map stays.

        Args:
            study: the name of the study.
            tag: the tag of the label map.
            change: called under the lock; returns the new record from the current label map and all versions, or raises to
                refuse the change.

        Raises:
            NotFoundError: the study has no label map under the tag.
            OSError, StorageError: the record cannot be written; nothing has changed.
        """
        return self._index.again(lambda: self._rewrite(study, tag, change))

    def _save(self, study: str, tag: str, file: Path, new: Version, expected: int | None, accept: Accept) -> Made:
        folder, suffix = self._tag_folder(tag), suffix_in(file.name, labels=True)
        current, lineage = folder / f"{study}{suffix}", self._reconciler.lineage(study, tag)
        made = Outcome[Made](f"{study} under {tag}")
        with (
            made.guarded(self._index),
            self._reconciler.own_change(folder),
            lineage.staged(file) as staged,
            staged_copy(staged, folder) as visible,
            self._index.writing() as rows,
        ):
            if sha256(staged) != new.sha256:
                raise StorageError(study, "has a label map that changed while it was copied.", "Send it again.")
            row = self._current(rows, study, tag)
            if rows.image(study) is None:
                raise NotFoundError(repr(study[:80]), "is not a study of this folder any more.", LISTED)
            check_expected(study, tag, row.version if row else None, new, expected)
            if row and _sent_twice(row.version, new):
                return Made(row)
            accept(row, rows.failed(study, tag))
            version = lineage.commit(staged, suffix, new)
            kept = str(lineage.file(version).relative_to(self._path))
            made.value = Made(LabelRow(study, tag, kept, "", version, ""), row.version if row else None)
            self._clear_way(study, tag)
            os.replace(visible, current)
            flush(folder)
            for other in besides(label_files(self._path, self._roots, study, tag), current):
                other.unlink(missing_ok=True)
            now = LabelRow(study, tag, str(current.relative_to(self._path)), stamp_of(current), version, "")
            rows.put_label(now)
            rows.drop_problem(study, tag)
            made.value = replace(made.value, row=now)
        return made.get()

    def _remove(self, study: str, tag: str, author: str, author_id: str) -> Made:
        made = Outcome[Made](f"{study} under {tag}")
        with made.guarded(self._index), self._index.writing() as rows:
            row = self._existing(rows, study, tag)
            version = self._reconciler.lineage(study, tag).commit(
                None, "", Version(0, "", "", "removed", author, author_id=author_id)
            )
            made.value = Made(replace(row, version=version))
            rows.drop_label(study, tag)
            rows.drop_problem(study, tag)
            self._clear_way(study, tag)
            for file in label_files(self._path, self._roots, study, tag):
                file.unlink(missing_ok=True)
        return made.get()

    def _rewrite(self, study: str, tag: str, change: Change) -> Made:
        made = Outcome[Made](f"{study} under {tag}")
        with made.guarded(self._index), self._index.writing() as rows:
            row = self._existing(rows, study, tag)
            lineage = self._reconciler.lineage(study, tag)
            if row.version.number not in lineage.numbers():
                raise StorageError(study, f"has a label under {tag} that is not stored as a version yet.", "Try again later.")
            version = change(row, lineage.readable())
            lineage.write(version)
            made.value = Made(replace(row, version=version))
            rows.put_label(made.value.row)
        return made.get()

    def _existing(self, rows: Writer, study: str, tag: str) -> LabelRow:
        # Only names in the index become paths.
        row = self._current(rows, study, tag) if rows.label(study, tag) is not None else None
        if row is None:
            raise NotFoundError(repr(study[:80]), f"has no label under {tag[:80]!r}.", LISTED)
        return row

    def _current(self, rows: Writer, study: str, tag: str) -> LabelRow | None:
        """Returns the current label map, after recording changes that other programs have made to its file."""
        if rows.image(study) is None or not (encodable(study) and encodable(tag)):
            return None
        self._reconciler.settler.settle(rows, study, tag)
        return rows.label(study, tag)

    def _clear_way(self, study: str, tag: str) -> None:
        """Moves unreadable files to another folder, so that they are not overwritten."""
        for name in label_names(study):
            file = self._tag_folder(tag) / name
            link = file.is_symlink() and not (self._roots.contain(file) and file.exists())
            if link or (file.is_file() and not readable(file)):
                # Each study has its own folder, so that erasing the study removes the file too.
                aside = self._work.folder(f"unreadable/{study}") / f"{os.urandom(4).hex()}{suffix_in(name, labels=True)}"
                os.replace(file, aside)
                log.warning("%s could not be read; it was moved to %s", file, aside)

    def _tag_folder(self, tag: str) -> Path:
        return self._roots.check(self._path / "labels" / tag)


def _sent_twice(now: Version, new: Version) -> bool:
    same = (now.sha256, now.author, now.origin) == (new.sha256, new.author, new.origin)
    return same and now.author_id in ("", new.author_id) and now.image_sha256 in ("", new.image_sha256)
