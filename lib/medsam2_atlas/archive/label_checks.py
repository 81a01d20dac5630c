"""Checks label maps: versions against their records, current files against the newest version, images against both."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from medsam2_atlas.archive.findings import FROM_BACKUP, Finding
from medsam2_atlas.archive.listing import Listing, lineages
from medsam2_atlas.archive.place import Place
from medsam2_atlas.base.errors import MedSAM2AtlasError, StorageError
from medsam2_atlas.base.files import sha256
from medsam2_atlas.imaging.kinds import suffix_in
from medsam2_atlas.storage import Fingerprints, Lineage, Version, WorkFolder, label_files, same_image_as

_RECORD = re.compile(r"(\d{5,})\.json")
_SAVE = "Save it as a version: medsam2-atlas labels check STUDIES."


class LabelChecks:
    """Compares label maps with their records.

    Args:
        place: the place to verify.
        listing: its files.
        sums: the SHA-256 of files by path; files that could not be read are missing.
        images: whether every study with versions must have its image.
    """

    def __init__(self, place: Place, listing: Listing, sums: Mapping[str, str], images: bool) -> None:
        self._place, self._sums, self._must_have_images = place, sums, images
        self._items = listing.items
        self._unreadable = {path for path in listing.items if path not in sums}
        self._lineages = lineages(listing.items, place)
        self._labels = self._by_study("label", depth=2)
        self._images = self._by_study("image", depth=0)
        self._newest: dict[tuple[str, str], Version] = {}

    def findings(self) -> Iterator[Finding]:
        """Yields missing, damaged and inconsistent files."""
        for (tag, study), names in self._lineages.items():
            yield from self._versions(tag, study, names)
        for key in sorted({*self._labels, *self._newest}):
            yield from self._current(*key)
        yield from self._image_findings()

    def _versions(self, tag: str, study: str, names: list[str]) -> Iterator[Finding]:
        folder = self._place.versions / tag / study
        lineage, named, last = Lineage(folder), set[str](), 0
        for name in names:
            match = _RECORD.fullmatch(name)
            if not match:
                continue
            named.add(name)
            path = self._place.relative(folder / name)
            try:
                version = lineage.version(int(match[1]))
                if version.number != int(match[1]) or "/" in str(version.file):
                    raise StorageError(name, "belongs to another version.", FROM_BACKUP)
            except (MedSAM2AtlasError, ValueError):
                if (folder / name).exists():  # otherwise the study has just been removed
                    yield Finding(
                        path,
                        "is not a readable record.",
                        f"{FROM_BACKUP} Or move it away; its label file then becomes a new version.",
                    )
                continue
            if version.number != last + 1 and last:
                problem = f"follows version {last}: the versions between them were not kept, or are lost."
                yield Finding(path, problem, "Compare it with a backup.", lost=False)
            last = version.number
            self._newest[tag, study] = version
            named.add(version.file)
            yield from self._version(folder, version)
        for name in sorted({*names} - named):
            if (folder / name).exists():
                yield Finding(self._place.relative(folder / name), "has no record.", "The server removes it.", lost=False)

    def _version(self, folder: Path, version: Version) -> Iterator[Finding]:
        path = self._place.relative(folder / version.file)
        if version.removed or path in self._unreadable:
            return
        remedy = f"{FROM_BACKUP} Until then, use another version: `medsam2-atlas labels restore`."
        if path not in self._items:
            if folder.is_dir():
                yield Finding(path, f"is missing: the label map of version {version.number}.", remedy)
        elif self._sums[path] != version.sha256:
            yield Finding(path, "has changed since it was saved.", remedy)

    def _current(self, tag: str, study: str) -> Iterator[Finding]:
        if self._agrees(self._newest.get((tag, study)), self._labels.get((tag, study), [])):
            return
        with self._place.locked():  # a label map may have been saved since the listing
            files = self._current_files(tag, study)
            newest = next(iter(self._lineage(tag, study).readable()[::-1]), None)
            sums = {}
            for file in files:
                with suppress(OSError):  # the reading of all files has already reported the error
                    sums[self._place.relative(file)] = sha256(file)
        expected = "" if newest is None or newest.removed else newest.sha256
        missing = f"{self._place.relative(self._place.studies / 'labels')}/{tag}/{study}"
        if not files and expected:
            problem = f"is missing: the current label map, version {newest.number if newest else 0}."
            yield Finding(missing, problem, "Restore it: medsam2-atlas labels restore STUDIES STUDY VERSION.")
        for path, checksum in sums.items():
            if newest is None:
                yield Finding(path, "is not a version yet: another program put it there.", _SAVE, lost=False)
            elif checksum != expected:
                problem = f"is not version {newest.number}, the newest: another program changed it, or it is damaged."
                yield Finding(
                    path, problem, f"Restore that version: medsam2-atlas labels restore. If the file is correct: {_SAVE}"
                )

    def _agrees(self, newest: Version | None, paths: list[str]) -> bool:
        if any(path in self._unreadable for path in paths):
            return True  # the reading of all files has already reported the error
        if newest is None:
            return not paths
        return [self._sums[path] for path in paths] == ([] if newest.removed else [newest.sha256])

    def _current_files(self, tag: str, study: str) -> list[Path]:
        try:
            return label_files(self._place.studies, self._place.roots, study, tag)
        except (OSError, StorageError):  # the listing has already reported the error
            return []

    def _lineage(self, tag: str, study: str) -> Lineage:
        return Lineage(self._place.versions / tag / study)

    def _image_findings(self) -> Iterator[Finding]:
        drawn: dict[str, dict[str, Version]] = {}
        for (tag, study), version in self._newest.items():
            drawn.setdefault(study, {})[tag] = version
        for study, versions in sorted(drawn.items()):
            paths = self._images.get(("", study), [])
            if not paths and self._must_have_images and any((self._place.versions / tag / study).is_dir() for tag in versions):
                path = self._place.relative(self._place.studies / study)
                yield Finding(path, "is missing: the image of a study that has label maps.", FROM_BACKUP)
            known = {self._sums[path]: path for path in paths if path in self._sums}
            previous: dict[str, list[str]] = {}
            for tag, version in versions.items():
                if version.image_sha256 and not version.removed and version.image_sha256 not in known:
                    previous.setdefault(version.image_sha256, []).append(tag)
            for old, tags in previous.items() if known else ():
                if not any(self._same(path, checksum, old) for checksum, path in known.items()):
                    problem = f"is not the image that its label maps under {', '.join(sorted(tags))} were drawn on."
                    yield Finding(paths[0], problem, f"{FROM_BACKUP} Or, if it was replaced, confirm or redo the label maps.")

    def _same(self, path: str, checksum: str, previous: str) -> bool:
        """Returns whether an image has the same voxels and grid as a previous file, given by its SHA-256."""
        work = WorkFolder.of(self._place.studies)
        return same_image_as(self._place.root / path, checksum, previous, Fingerprints(work))

    def _by_study(self, kind: str, depth: int) -> dict[tuple[str, str], list[str]]:
        """Returns the paths of files of a kind by tag and study.

        Args:
            kind: `label` or `image`. The tag of images is empty.
            depth: the number of folders between the studies folder and a file.
        """
        found: dict[tuple[str, str], list[str]] = {}
        for path, item in self._items.items():
            if item.kind != kind:
                continue
            below = Path(self._place.root / path).relative_to(self._place.studies).parts if self._in_studies(path) else ()
            suffix = suffix_in(below[-1], labels=kind == "label") if len(below) == depth + 1 else ""
            if suffix:
                tag = below[1] if kind == "label" else ""
                found.setdefault((tag, below[-1][: -len(suffix)]), []).append(path)
        return found

    def _in_studies(self, path: str) -> bool:
        return self._place.studies in (self._place.root / path).parents
