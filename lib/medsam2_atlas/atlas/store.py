"""A folder with all versions of an atlas, of which one is current.

`versions/VERSION/` are atlas folders; `current` holds the version in use. A new version is complete before `current` is
replaced, in one step: a reader finds the old atlas or the new one. Old versions stay, for those who are still reading
them and to go back to.
"""

from __future__ import annotations

from pathlib import Path

from medsam2_atlas.atlas.atlas import Atlas
from medsam2_atlas.base.errors import AtlasError
from medsam2_atlas.base.files import replacing


class AtlasStore:
    """Versions of an atlas."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def versions(self) -> list[str]:
        """All versions, the oldest first."""
        files = (self.folder / "versions").glob("*/atlas.json")
        return [file.parent.name for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]

    @property
    def current(self) -> Path | None:
        """Folder of the version in use."""
        try:
            name = (self.folder / "current").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        return self.folder / "versions" / name

    def publish(self, atlas: Atlas) -> Path:
        """Stores an atlas and makes it the current one."""
        (self.folder / "versions").mkdir(parents=True, exist_ok=True)
        target = self.folder / "versions" / atlas.version
        if not (target / "atlas.json").is_file() or Atlas.load(target).options != atlas.options:
            atlas.save(target)
        self.activate(atlas.version)
        return target

    def activate(self, version: str) -> None:
        """Makes a stored version the current one.

        Raises:
            AtlasError: there is no such version.
        """
        if version not in self.versions:
            raise AtlasError(version, "is no version of this atlas.", f"Choose from: {', '.join(self.versions) or 'none yet'}.")
        with replacing(self.folder / "current") as part:
            part.write_text(version + "\n", encoding="utf-8")


def resolve_atlas(folder: Path) -> Path:
    """Returns the atlas folder itself, or the current version if `folder` is a store of versions."""
    return AtlasStore(folder).current or folder
