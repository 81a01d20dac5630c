"""Brings the index in line with the files: after a crash, and after other programs have changed the folder."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from medsam2_atlas.files import sha256
from medsam2_atlas.storage.folder import by_name, suffix_in
from medsam2_atlas.storage.index import ImageRow, Index, LabelRow, Writer, stamp_of
from medsam2_atlas.storage.lineage import Lineage, Version, copy_safely
from medsam2_atlas.volume import SUFFIXES

log = logging.getLogger(__name__)

_STOCK_INDEX = "datastore_v2.json"
_BATCH = 100
_LEFTOVER_SECONDS = 3600.0

Key = tuple[str, str]
"""Study and tag."""


class Reconciler:
    """Looks from files to index, never the other way: an index that knows better has been overtaken."""

    def __init__(self, path: Path, work: Path, index: Index) -> None:
        """
        Args:
            path: of the studies folder.
            work: of its work folder.
            index: of the studies.
        """
        self._path, self._work, self._index = path, work, index
        self._seen: dict[str, int] = {}
        self._changing: Counter[str] = Counter()
        self._guard = threading.Lock()

    def lineage(self, study: str, tag: str) -> Lineage:
        """The versions of a label map."""
        return Lineage(self._work / "versions" / tag / study)

    def if_changed(self) -> None:
        """A look that costs a few calls where no file has been added, renamed or removed since the last one."""
        now = self._folders()
        with self._guard:
            same = all(self._seen.get(folder) == now.get(folder) for folder in {*now, *self._seen} - set(self._changing))
        if not same:
            self.run()

    @contextmanager
    def own_change(self, folder: Path) -> Iterator[None]:
        """What the block does to a folder is known already: it is no reason to look through it again."""
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
        """Takes in images and labels; where `thorough`, also looks through the versions for what a crash left undone."""
        seen = self._folders()
        images, rows = by_name(self._path), self._index.images()
        if {study: file.name for study, file in images.items()} != {study: row.file for study, row in rows.items()}:
            with self._index.writing() as writer:
                self.take_images(writer)
        keys = sorted(self._suspects(set(images), thorough))
        for start in range(0, len(keys), _BATCH):  # others may write in between
            with self._index.writing() as writer:
                for study, tag in keys[start : start + _BATCH]:
                    self.take_label(writer, study, tag)
        with self._guard:
            self._seen = {**seen, **{name: self._seen[name] for name in self._changing if name in self._seen}}

    def take_images(self, rows: Writer) -> None:
        """Images that came, went, or changed their type."""
        files, known = by_name(self._path), rows.images()
        for study in set(known) - set(files):
            rows.drop_image(study)
        for study, file in files.items():
            row = known.get(study)
            if row is None:
                rows.put_image(ImageRow(study, file.name, self._image_info(study)))
            elif row.file != file.name:
                rows.put_image(ImageRow(study, file.name, row.info))

    def take_label(self, rows: Writer, study: str, tag: str) -> None:
        """Settles what a study's label map under a tag is now."""
        row, lineage = rows.label(study, tag), self.lineage(study, tag)
        files = self._files(tag, study)
        as_known = row is not None and [(f.name, stamp_of(f)) for f in files] == [(row.file, row.stamp)]
        if row is not None and as_known and not self._overtaken(lineage, row):
            return
        versions = lineage.readable()
        latest = versions[-1] if versions else None
        finished = row is not None and latest is not None and row.version.number >= latest.number
        sums = {file: sha256(file) for file in files}
        known = {version.sha256 for version in versions}
        strange = [file for file in files if sums[file] not in known or (finished and latest and sums[file] != latest.sha256)]
        if strange:
            self._adopt(rows, study, tag, sorted(strange, key=lambda file: file.stat().st_mtime_ns), files)
        elif latest is None:
            rows.drop_label(study, tag)
        elif latest.removed or (finished and not files):
            if not latest.removed:
                log.warning("the label of %s under %s was taken away; its versions stay", study, tag)
                lineage.commit(None, "", Version(0, "", "", "removed", info={"how": "its file was taken away"}))
            for file in files:
                file.unlink()
            rows.drop_label(study, tag)
        else:
            self._finish(rows, study, tag, latest, files, sums)

    def _adopt(self, rows: Writer, study: str, tag: str, strange: list[Path], files: list[Path]) -> None:
        """Files that another program wrote become versions; the newest is the current one."""
        lineage, info = self.lineage(study, tag), self._stock.get(study, {}).get("labels", {}).get(tag, {}).get("info", {})
        for file in strange:
            with lineage.staged(file) as staged:
                checksum = sha256(staged)
                version = lineage.commit(staged, suffix_in(file.name), Version(0, "", checksum, "found", info=dict(info)))
        for file in files:
            if file != strange[-1]:
                file.unlink()
        rows.put_label(LabelRow(study, tag, strange[-1].name, stamp_of(strange[-1]), version))

    def _finish(self, rows: Writer, study: str, tag: str, latest: Version, files: list[Path], sums: dict[Path, str]) -> None:
        """The latest version becomes the current file, if it is not yet."""
        lineage = self.lineage(study, tag)
        current = self._path / "labels" / tag / f"{study}{suffix_in(latest.file)}"
        if sums.get(current) != latest.sha256:
            if not lineage.file(latest).is_file():
                log.error("%s is missing, though its record is there: copy it back from a backup", lineage.file(latest))
                rows.drop_label(study, tag)
                return
            log.warning("saving the label of %s under %s was interrupted; it is finished now", study, tag)
            copy_safely(lineage.file(latest), current)
        for file in files:
            if file != current:
                file.unlink()
        rows.put_label(LabelRow(study, tag, current.name, stamp_of(current), latest))

    def _suspects(self, images: set[str], thorough: bool) -> set[Key]:
        """Labels whose files differ from what the index says; where `thorough`, those with other versions too."""
        rows = self._index.labels()
        current: dict[Key, list[tuple[str, str]]] = {}
        for tag in self._tags():
            for file in _label_files(self._path / "labels" / tag):
                key = (file.name.removesuffix(suffix_in(file.name)), tag)
                current.setdefault(key, []).append((file.name, stamp_of(file)))
        keys = {
            key
            for key in {*current, *rows}
            if current.get(key) != ([(rows[key].file, rows[key].stamp)] if key in rows else None)
        }
        if thorough:
            for folder in self._lineages():
                key = (folder.name, folder.parent.name)
                lineage = Lineage(folder)
                lineage.tidy(_LEFTOVER_SECONDS)
                if key not in rows or self._overtaken(lineage, rows[key]):
                    keys.add(key)
        return {key for key in keys if key[0] in images}

    def _overtaken(self, lineage: Lineage, row: LabelRow) -> bool:
        numbers = lineage.numbers()
        return not numbers or numbers[-1] != row.version.number

    def _lineages(self) -> Iterable[Path]:
        versions = self._work / "versions"
        for tag in sorted(versions.iterdir()) if versions.is_dir() else []:
            yield from (folder for folder in tag.iterdir() if folder.is_dir())

    def _files(self, tag: str, study: str) -> list[Path]:
        folder = self._path / "labels" / tag
        return [file for suffix in SUFFIXES if (file := folder / f"{study}{suffix}").is_file()]

    def _tags(self) -> list[str]:
        folder = self._path / "labels"
        return sorted(f.name for f in folder.iterdir() if f.is_dir()) if folder.is_dir() else []

    def _folders(self) -> dict[str, int]:
        """When files were last added to, renamed in or removed from the folders. Asked at every request: kept cheap."""
        labels = str(self._path / "labels")
        known = {folder: changed for folder in (str(self._path), labels) if (changed := _changed(folder)) is not None}
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(labels) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.is_dir():
                        known[entry.path] = entry.stat().st_mtime_ns
        return known

    def _image_info(self, study: str) -> dict[str, Any]:
        try:
            info: dict[str, Any] = json.loads((self._work / "images" / f"{study}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            info = self._stock.get(study, {}).get("image", {}).get("info", {})
        return info

    @cached_property
    def _stock(self) -> dict[str, Any]:
        """What MONAI Label's own index knew of the studies."""
        file = self._path / _STOCK_INDEX
        try:
            objects: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["objects"]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s cannot be read (%s); images and labels are found by their files", file, error)
            return {}
        return {study: entry for study, entry in objects.items() if isinstance(entry, dict)}


def _changed(folder: str) -> int | None:
    """When files were last added to, renamed in or removed from a folder; None where there is none."""
    try:
        about = Path(folder).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return about.st_mtime_ns if stat.S_ISDIR(about.st_mode) else None


def _label_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if not f.name.startswith(".") and suffix_in(f.name) and f.is_file())
