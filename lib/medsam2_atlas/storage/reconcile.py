"""Updates the index from the files after a crash, and after other programs have changed the folder.

Each image and each label map is settled separately (see `settle`). The error of one is recorded and does not affect the others.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.base.files import text_of
from medsam2_atlas.base.json_text import stored_json
from medsam2_atlas.storage.folder import Listing, WorkFolder, list_files
from medsam2_atlas.storage.index import Index
from medsam2_atlas.storage.lineage import Lineage, Version
from medsam2_atlas.storage.links import Roots
from medsam2_atlas.storage.removal import finish_removals
from medsam2_atlas.storage.rows import ImageRow, Writer
from medsam2_atlas.storage.scan import Key, LabelScan, image_problems, readable, reason, resolve_twins, scan_labels
from medsam2_atlas.storage.settle import Settler, entry, outdated

log = logging.getLogger(__name__)

_STOCK_INDEX = "datastore_v2.json"
_BATCH = 100
_LEFTOVER_SECONDS = 3600.0
_SWEEP_SECONDS = 2.0
_SWEEP_REST = 40.0
"""The pause before the next sweep, as a multiple of the last sweep's duration, so that sweeps do not slow down answers."""
_RETRY_SECONDS = 30.0


class Reconciler:
    """Scans the folder after changes, and compares the stamps of all files.

    Args:
        path: the studies folder.
        work: its work folder.
        index: the index of the studies.
        roots: folders that links may lead to.
    """

    def __init__(self, path: Path, work: WorkFolder, index: Index, roots: Roots) -> None:
        self._path, self._work, self._index, self._roots = path, work, index, roots
        self._seen: dict[str, int] = {}
        self._changing: Counter[str] = Counter()
        self._guard = threading.Lock()
        self._sweeping = threading.Lock()
        self._pause = _SWEEP_SECONDS
        self._swept, self._retried = time.monotonic(), time.monotonic()

    @cached_property
    def settler(self) -> Settler:
        """The settler of single label maps."""
        return Settler(self._path, self._work, self._roots, self._stock)

    def lineage(self, study: str, tag: str) -> Lineage:
        """Returns the versions of a label map.

        Raises:
            StorageError: a link leads out of the studies folder.
        """
        return self.settler.lineage(study, tag)

    def if_changed(self) -> bool:
        """Scans the folder if files were added, renamed or removed since the last scan; else it costs a few system calls.

        Files that were overwritten in place are found by `sweep`.

        Returns:
            Whether the files were scanned.
        """
        self._index.ready()
        now = self._folders()
        with self._guard:
            same = all(self._seen.get(folder) == now.get(folder) for folder in {*now, *self._seen} - set(self._changing))
        if not same:
            self.run()
        return not same

    @property
    def sweep_is_due(self) -> bool:
        """Whether the last comparison of all stamps is older than two seconds, or than a multiple of its duration."""
        return time.monotonic() - self._swept > self._pause

    @contextmanager
    def own_change(self, folder: Path) -> Iterator[None]:
        """Prevents the block's own changes of a folder from causing another scan."""
        name = str(folder)
        with self._guard:
            known = name in self._changing or self._seen.get(name) == _changed(name)
            if known:
                self._changing[name] += 1
        try:
            yield
        finally:
            if known:
                with self._guard:
                    self._seen[name] = _changed(name) or 0
                    self._changing[name] -= 1
                    self._changing = +self._changing

    def run(self, thorough: bool = False) -> None:
        """Scans images and label maps, and updates the index.

        Args:
            thorough: whether to complete changes that a crash interrupted.

        Raises:
            OSError: the folder cannot be listed.
        """
        seen = self._folders()
        if thorough:
            finish_removals(self._path, self._work, self._index)
        self._look(thorough=thorough, retry=True)
        with self._guard:
            self._seen = {**seen, **{name: self._seen[name] for name in self._changing if name in self._seen}}

    def sweep(self) -> bool:
        """Compares the stamps of all files. Every half minute, it retries label maps that could not be settled.

        Returns:
            False, and nothing has happened, if another thread is comparing them.
        """
        if not self._sweeping.acquire(blocking=False):
            return False
        try:
            began = time.monotonic()
            self._look(thorough=False, retry=began - self._retried > _RETRY_SECONDS)
            self._pause = max(_SWEEP_SECONDS, _SWEEP_REST * (time.monotonic() - began))
        finally:
            self._sweeping.release()
        return True

    def settle(self, study: str, tag: str) -> None:
        """Records changes of one label map."""
        with self._index.writing() as rows:
            self.settler.settle(rows, study, tag)

    def take_images(self, rows: Writer) -> Listing:
        """Records added, removed and changed images in the index.

        Args:
            rows: the writer of the index.

        Returns:
            The image files of the folder.

        Raises:
            OSError: the folder cannot be listed.
        """
        listing = resolve_twins(list_files(self._path, self._roots), rows.twins())
        self._take_images(rows, listing, set())
        return listing

    def _look(self, *, thorough: bool, retry: bool) -> None:
        unsettled = self._index.unsettled()
        images = self._look_at_images(unsettled, thorough)
        keys = sorted(key for key in self._suspects(unsettled, thorough, retry) if key[0] in images)
        for start in range(0, len(keys), _BATCH):  # other processes can write between two batches
            with self._index.writing() as writer:
                for study, tag in keys[start : start + _BATCH]:
                    self.settler.settle(writer, study, tag)
        self._swept = time.monotonic()
        if retry:
            self._retried = self._swept

    def _look_at_images(self, unsettled: dict[Key, tuple[str, bool]], thorough: bool) -> set[str]:
        """Updates the images in the index; returns their studies."""
        listing, known = resolve_twins(list_files(self._path, self._roots), self._index.twins()), self._index.image_stamps()
        now = {study: (names[-1], listing.stamps[names[-1]]) for study, names in listing.files.items()}
        problems = {study: text for (study, tag), (text, _) in unsettled.items() if not tag}
        suspects = set(now) if thorough else {study for study in now if now[study] != known.get(study)} | set(problems)
        fresh = listing.twins != {study: files for study, (files, _) in self._index.twins().items()}
        if thorough or fresh or now != known or image_problems(listing, suspects) != problems:
            with self._index.writing() as writer:
                self._take_images(writer, listing, suspects)
        return set(now)

    def _take_images(self, rows: Writer, listing: Listing, suspects: set[str]) -> None:
        known = rows.images()
        suspects = suspects | (set(listing.files) - set(known))
        for study in set(known) - set(listing.files):
            rows.drop_image(study)
        for study, names in listing.files.items():
            name, row = names[-1], known.get(study)
            stamp = listing.stamps[name]
            if row is None:
                rows.put_image(ImageRow(study, name, self._image_info(study), stamp))
            elif (row.file, row.stamp) != (name, stamp):
                rows.put_image(replace(row, file=name, stamp=stamp))
                rows.check_again(study)
            elif study in suspects and row.info != self._image_info(study):
                rows.put_image(replace(row, info=self._image_info(study)))
        before = rows.twins()
        for study in set(before) - set(listing.twins):
            rows.drop_twins(study)
        for study, files in listing.twins.items():
            if before.get(study, ("",))[0] != files:
                rows.put_twins(study, files, None)
        rows.drop_image_problems()
        for study, problem in image_problems(listing, suspects).items():
            log.warning("%s %s", study, problem)
            rows.put_problem(study, "", problem, bad=problem != listing.notes.get(study))

    def _suspects(self, unsettled: dict[Key, tuple[str, bool]], thorough: bool, retry: bool) -> set[Key]:
        """Returns label maps whose files differ from the index; if `thorough`, also those whose versions differ."""
        rows = self._index.label_stamps()
        scan = self._scan(unsettled)
        keys = {
            key
            for key in {*scan.files, *rows}
            if key[1] not in scan.unreadable and scan.files.get(key) != ([rows[key]] if key in rows else None)
        }
        keys |= scan.left_out | {key for key in rows if key[1] in scan.unreadable}
        again = {
            key for key, (_, bad) in unsettled.items() if key[1] and "/" not in key[0] and (bad or not self._index.fallback)
        }
        keys = keys | again if retry else keys - again
        if thorough:
            keys |= {key for key, (file, _) in rows.items() if not readable(self._path / file)}
            keys |= self._unfinished({key: row.version for key, row in self._index.labels().items()})
        return keys

    def _scan(self, unsettled: dict[Key, tuple[str, bool]]) -> LabelScan:
        """Returns the label files; records tags that cannot be listed."""
        try:
            scan = scan_labels(self._path, self._roots)
        except (OSError, StorageError) as error:
            tags = {tag for _, tag in self._index.label_stamps()}
            scan = LabelScan(unreadable=dict.fromkeys(tags, reason(error)) or {"": reason(error)})
        problems = {(f"labels/{tag}", tag): text for tag, text in scan.unreadable.items()} | scan.unsupported
        if problems != {key: text for key, (text, _) in unsettled.items() if "/" in key[0]}:
            with self._index.writing() as writer:
                for key in unsettled:
                    if "/" in key[0]:
                        writer.drop_problem(*key)
                for key, text in problems.items():
                    log.error("%s %s", key[0], text)
                    writer.put_problem(*key, text)
        return scan

    def _unfinished(self, versions: dict[Key, Version]) -> set[Key]:
        """Returns label maps whose newest version is not the one in the index."""
        found = set()
        for folder in self._lineages():
            key = (folder.name, folder.parent.name)
            try:
                lineage = self.lineage(*key)
                lineage.tidy(_LEFTOVER_SECONDS)
                if outdated(lineage, versions.get(key)):
                    found.add(key)
            except (OSError, StorageError):
                found.add(key)  # settling the label map will record the error
        return found

    def _lineages(self) -> Iterator[Path]:
        for tag in _folders_in(self._work.path / "versions"):
            yield from _folders_in(tag)

    def _folders(self) -> dict[str, int]:
        """Returns the time of the last added, renamed or removed file by folder. Must be fast: every request calls it."""
        labels = str(self._path / "labels")
        known = {folder: changed for folder in (str(self._path), labels) if (changed := _changed(folder)) is not None}
        with suppress(OSError), os.scandir(labels) as entries:
            for entry in entries:
                with suppress(OSError):
                    if entry.is_dir():
                        known[entry.path] = entry.stat().st_mtime_ns
        return known

    def _image_info(self, study: str) -> dict[str, Any]:
        try:
            info: Any = stored_json(text_of(self._work.path / "images" / f"{study}.json"))
        except (OSError, ValueError):
            return entry(self._stock, study, "image", "info")
        return info if isinstance(info, dict) else {}

    @cached_property
    def _stock(self) -> dict[str, Any]:
        """The studies' entries in MONAI Label's own index."""
        file = self._path / _STOCK_INDEX
        try:
            objects: dict[str, Any] = stored_json(text_of(file))["objects"]
            return dict(objects)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("%s cannot be read (%s); images and labels are still found by their files", file, error)
            return {}


def _changed(folder: str) -> int | None:
    """Returns the time of the last added, renamed or removed file in a folder, in ns; None if there is no folder."""
    try:
        about = Path(folder).stat()
    except OSError:
        return None
    return about.st_mtime_ns if stat.S_ISDIR(about.st_mode) else None


def _folders_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        log.error("%s cannot be listed (%s)", folder, error.strerror)
        return []
