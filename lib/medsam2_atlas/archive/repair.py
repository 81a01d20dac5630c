"""Makes the label maps and versions of a snapshot consistent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from medsam2_atlas.archive.listing import lineages
from medsam2_atlas.archive.manifest import Entry
from medsam2_atlas.archive.place import Place
from medsam2_atlas.archive.vault import Vault
from medsam2_atlas.base.files import text_of
from medsam2_atlas.imaging.kinds import suffix_in
from medsam2_atlas.storage import Version

_RECORD = re.compile(r"\d{5,}\.json")


@dataclass
class SnapshotRepair:
    """Repairs the list of a new snapshot.

    Attributes:
        place: the place that was copied.
        vault: the backup, which contains all contents.
        entries: the files by path; the methods change it.
        problems: problems of files by path; the methods fill it.
    """

    place: Place
    vault: Vault
    entries: dict[str, Entry]
    problems: dict[str, str]

    def __post_init__(self) -> None:
        self._lineages = lineages(self.entries, self.place)

    def versions(self, sound: Mapping[str, Entry]) -> None:
        """Compares versions with their records. Replaces a damaged version with the intact one of an earlier backup, if any.

        Args:
            sound: the files of a previous snapshot without problems, by path; unchanged files are not checked again.
        """
        for (tag, study), names in self._lineages.items():
            folder = f"{self.place.relative(self.place.versions)}/{tag}/{study}"
            for name in (name for name in names if _RECORD.fullmatch(name)):
                if self._unchanged(folder, name, names, sound):
                    continue
                version = self._version(self.entries[f"{folder}/{name}"])
                if version is None:
                    remedy = "Move it away: its label file becomes a new version."
                    self.problems[f"{folder}/{name}"] = f"is not a readable record. {remedy}"
                elif not version.removed:
                    self._repair_version(f"{folder}/{version.file}", version)

    def _unchanged(self, folder: str, record: str, names: list[str], sound: Mapping[str, Entry]) -> bool:
        """Returns whether a record and its label file are the same as in the previous snapshot without problems."""
        pair = [f"{folder}/{name}" for name in names if name.startswith(record[:-4])]
        return len(pair) == 2 and all(self.entries[path] == sound.get(path) for path in pair)

    def _repair_version(self, path: str, version: Version) -> None:
        found = self.entries.get(path)
        if found is not None and found.sha256 == version.sha256:
            return
        problem = "is missing" if found is None else "has changed since it was saved"
        if self.vault.intact(version.sha256):
            size = self.vault.content(version.sha256).stat().st_size
            self.entries[path] = Entry(path, size, version.sha256, 0o600 if found is None else found.mode)
            self.problems[path] = f"{problem}; the snapshot contains the saved file, from an earlier backup."
        else:
            self.problems[path] = f"{problem}. Restore it from another backup."

    def label(self, path: str) -> None:
        """Gives a label map that changed during the backup the content that it had when it was listed.

        Args:
            path: the path of the label map relative to the place's root.
        """
        tag, _, name = path.removeprefix(f"{self.place.relative(self.place.studies / 'labels')}/").partition("/")
        study = name[: -len(suffix_in(name, labels=True) or " ")]
        folder = f"{self.place.relative(self.place.versions)}/{tag}/{study}"
        records = [record for record in self._lineages.get((tag, study), []) if _RECORD.fullmatch(record)]
        newest = (
            self._version(self.entries[f"{folder}/{max(records, key=lambda record: int(record[:-5]))}"]) if records else None
        )
        if newest is None:
            return
        self.entries.pop(path, None)
        kept = self.entries.get(f"{folder}/{newest.file}")
        if kept is not None and not newest.removed:
            current = path[: -len(name)] + study + suffix_in(newest.file, labels=True)
            self.entries[current] = replace(kept, path=current, stamp="")

    def _version(self, record: Entry) -> Version | None:
        """Returns a version from its copied record; None if the record cannot be read."""
        try:
            version = Version.from_json(text_of(self.vault.content(record.sha256)))
            return version if "/" not in str(version.file) else None
        except (OSError, ValueError, TypeError):
            return None
