"""A folder with all versions of an atlas, one of which is current.

Each `versions/VERSION/` is an atlas folder; the file `current` contains the name of the version in use. A new version is
complete before `current` is replaced in one step, so a reader finds either the old or the new atlas. Old versions stay: other
processes may still read them, and a user may return to them.
"""

from __future__ import annotations

from pathlib import Path

from medsam2_atlas.atlas.atlas import Atlas
from medsam2_atlas.base.errors import AtlasError
from medsam2_atlas.base.files import replacing


class AtlasStore:
    """The versions of an atlas in a folder.

    Args:
        folder: the folder; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def versions(self) -> list[str]:
        """The names of all versions, the oldest first."""
        files = (self.folder / "versions").glob("*/atlas.json")
        return [file.parent.name for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]

    @property
    def current(self) -> Path | None:
        """The folder of the version in use; None if there is none."""
        try:
            name = (self.folder / "current").read_text(encoding="utf-8").strip()
        except (FileNotFoundError, NotADirectoryError):  # the latter: a user named a file
            return None
        return self.folder / "versions" / name

    def publish(self, atlas: Atlas) -> Path:
        """Stores an atlas, makes it the current version, and returns its folder."""
        (self.folder / "versions").mkdir(parents=True, exist_ok=True)
        target = self.folder / "versions" / atlas.version
        if not (target / "atlas.json").is_file() or Atlas.load(target).options != atlas.options:
            atlas.save(target)
        self.activate(atlas.version)
        return target

    def activate(self, version: str) -> None:
        """Makes a stored version the current version.

        Raises:
            AtlasError: the version does not exist.
        """
        if version not in self.versions:
            raise AtlasError(
                version, "is not a version of this atlas.", f"Choose from: {', '.join(self.versions) or 'none yet'}."
            )
        with replacing(self.folder / "current") as part:
            part.write_text(version + "\n", encoding="utf-8")


def resolve_atlas(folder: Path) -> Path:
    """Returns the folder of the current version if `folder` is a store of versions, else `folder` itself."""
    return AtlasStore(folder).current or folder
