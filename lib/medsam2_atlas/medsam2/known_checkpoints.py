"""Compares checkpoints with the known sizes and checksums in `configs/known_checkpoints.yaml`.

The result is a note for the user and never a reason to refuse a file: the figures do not come from the authors of MedSAM2, and
a user may have weights of their own.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, RootModel

from medsam2_atlas.base.configuration import read_config
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource


class KnownCheckpoint(BaseModel):
    """Size and checksum of a checkpoint, and the origin of these figures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(gt=0, description="size of the file")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the file, as lower-case hexadecimal digits")
    source: str = Field(min_length=1, description="origin of both figures")


class KnownCheckpoints(RootModel[dict[str, KnownCheckpoint]]):
    """The known checkpoints, by file name."""

    model_config = ConfigDict(frozen=True)

    def note(self, name: str, size: int, sha256: str) -> str:
        """Returns whether a checkpoint's size and checksum are the known ones, as a text for the user.

        Args:
            name: published name of the checkpoint, such as `MedSAM2_latest.pt`.
            size: size of the file in bytes.
            sha256: checksum of the file, as lower-case hexadecimal digits.
        """
        same = next((known for known, figures in self.root.items() if figures.sha256 == sha256), None)
        if same is not None:
            return f"size and SHA-256 are as expected for {same} (according to {self.root[same].source})"
        if name not in self.root:
            return f"size and SHA-256 of {name} are not known, so they were not compared"
        expected = self.root[name]
        differences = [f"its SHA-256 is not {expected.sha256}"]
        if size != expected.bytes:
            differences.insert(0, f"its size is {size} bytes, not {expected.bytes}")
        return f"differs from the known {name}: {', '.join(differences)} (according to {expected.source})"


@read_once
def known_checkpoints(file: Path | None = None) -> KnownCheckpoints:
    """Returns the table in `configs/known_checkpoints.yaml`, or in another file.

    Raises:
        InputError: the file does not contain such a table.
    """
    return read_config(
        KnownCheckpoints,
        file or resource("configs/known_checkpoints.yaml"),
        "table of known checkpoints",
        "Restore configs/known_checkpoints.yaml from the project.",
    )
