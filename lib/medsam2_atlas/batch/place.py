"""The folder of a batch's outputs: who may write to it, its parts, and how a result gets its final place.

| path | content |
| --- | --- |
| `labels/NAME.nii.gz`, `segmentations/NAME.dcm` | results |
| `reports/NAME.json` | the segmenter's report |
| `manifest.jsonl` | see `manifest` |
| `.batch/` | the lock, unfinished outputs, registrations of unfinished cases |

In a studies folder, everything but the label maps is in `.medsam2_atlas/batch/MODEL/`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.base.errors import ConflictError, StorageError
from medsam2_atlas.base.files import remove_folder
from medsam2_atlas.base.scratch import sweep_leftovers

BATCH_FOLDER = ".batch"
OUTPUT_FOLDERS = ("labels", "segmentations", "reports")


@dataclass(frozen=True)
class Place:
    """The folder of a batch.

    Attributes:
        folder: contains results, reports and manifest.
    """

    folder: Path

    @property
    def manifest(self) -> Path:
        """The file of the manifest."""
        return self.folder / "manifest.jsonl"

    @property
    def work(self) -> Path:
        """The folder for the lock and unfinished outputs."""
        return self.folder / BATCH_FOLDER

    @property
    def parts(self) -> Path:
        """The folder for unfinished outputs."""
        return self.work / "parts"

    def output(self, name: str, suffix: str) -> Path:
        """Returns the file of a result. `name` comes from `names.Names`, so it is one path component."""
        return self.folder / ("segmentations" if suffix == ".dcm" else "labels") / f"{name}{suffix}"

    def report(self, name: str) -> Path:
        """Returns the file of a report."""
        return self.folder / "reports" / f"{name}.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Creates the folders, locks them for this process, and removes unfinished outputs of killed runs.

        Raises:
            ConflictError: another batch writes to the folder.
            StorageError: the folder cannot be created, or is a link.
        """
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.work / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StorageError(self.folder, f"cannot be written ({error.strerror}).", "Name another folder.") from error
        try:
            with self._owned() if not self._locked(handle) else nullcontext():
                self._prepare()
                yield
                remove_folder(self.parts, self.work)
        finally:
            os.close(handle)

    def _locked(self, handle: int) -> bool:
        """Locks the lock's file for this process; returns False if the disk has no locks."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                self.folder, "is in use by another batch.", "Wait until it ends, or choose another folder."
            ) from None
        except OSError:
            return False
        return True

    @contextmanager
    def _owned(self) -> Iterator[None]:
        """Holds a file that only one process can create, on a disk without locks. A killed process leaves it behind."""
        owner = self.work / "owner"
        try:
            os.close(os.open(owner, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            problem = "exists, so another batch uses the folder, or was killed; the disk has no locks, so this is not known."
            raise ConflictError(owner, problem, "Wait until that batch ends. If there is none, remove the file.") from None
        try:
            yield
        finally:
            owner.unlink(missing_ok=True)

    def _prepare(self) -> None:
        """Empties the folder for unfinished outputs, and refuses links, through which outputs would leave the folder."""
        folders = [self.folder / name for name in OUTPUT_FOLDERS]
        for path in (self.work, self.parts, *folders, self.manifest):
            if path.is_symlink():
                raise StorageError(path, "is a link, through which outputs would leave the folder.", "Remove the link.")
        remove_folder(self.parts, self.work)
        self.parts.mkdir(mode=0o700)
        for file in self.folder.glob(".part-????????.jsonl"):  # a manifest that was just being replaced
            if file.is_file() or file.is_symlink():
                file.unlink(missing_ok=True)
        sweep_leftovers(self.folder / "reports", age_seconds=0)  # a report; no other program writes to this folder
