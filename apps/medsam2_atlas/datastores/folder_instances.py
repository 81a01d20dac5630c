"""The CTs of a studies folder as DICOM instances (`medsam2_atlas.dicom.instances`), decoded when a viewer opens them.

Concurrency contract. Callers may be in any thread. A CT is decoded by one thread; others that need the same CT wait for it. Up
to `_OPENING` CTs are decoded at once. The lock of the names is held only to read or change them; no lock is held while another
one is requested, except that a thread which decodes a CT uses the cache.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datastores.byte_cache import ByteCache
from medsam2_atlas.base.background import Background
from medsam2_atlas.base.errors import InputError, NotFoundError, StorageError, UnavailableError
from medsam2_atlas.base.study_hash import study_key
from medsam2_atlas.dicom.instances import FolderUids, InstanceSeries, OpenSeries, StudyAbout, decode_ct
from medsam2_atlas.imaging.decoding import UnreadableFileError
from medsam2_atlas.imaging.volume import Geometry, read_grid
from medsam2_atlas.storage import StudyStore

log = logging.getLogger(__name__)

_TRIES = 3
_OPENING = 2
"""Max number of CTs that are decoded at once, as many as there are reader processes by default."""
_AGAIN_SECONDS, _MAX_AGAIN_SECONDS = 60.0, 3600.0
"""Pause before a file that could not be read is tried again, doubled after each try. A network drive may be back by then."""
Stamp = tuple[int, int, int]
_Tried = Literal["header", "voxels", "picture"]


@dataclass(frozen=True)
class _Open:
    """A decoded CT, and the state of its file."""

    stamp: Stamp
    series: OpenSeries


@dataclass(frozen=True)
class _Header:
    """What is known of a file without its voxels: its grid in LPS orientation, or why it cannot be used.

    Attributes:
        stamp: the state of the file.
        grid: the grid; None if the file cannot be used.
        problem, remedy: why it cannot be used.
        tried: what could not be read.
        pause, due: the pause before the next try, in s, and its time.
    """

    stamp: Stamp
    grid: Geometry | None
    problem: str = ""
    remedy: str = ""
    tried: _Tried = "header"
    pause: float = 0.0
    due: float = 0.0

    @property
    def is_due(self) -> bool:
        """Whether a file that could not be read shall be tried again."""
        return self.grid is None and time.monotonic() >= self.due


class FolderInstances:
    """The instances of a studies folder."""

    def __init__(self, store: StudyStore, max_bytes: int) -> None:
        """Reads the folder's key, which all UIDs depend on.

        Args:
            store: the studies.
            max_bytes: max bytes of decoded CTs to keep; the CT that was opened last is always kept.
        """
        self._store = store
        self._uids = FolderUids(study_key(store.work.path))
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}
        self._headers: dict[str, _Header] = {}
        self._opening: dict[str, threading.Lock] = {}
        self._forgotten = 0
        self._retries = Background("unreadable CTs", self._try_again)
        self._slots = threading.BoundedSemaphore(_OPENING)
        self._open: ByteCache[_Open] = ByteCache(max_bytes, lambda entry: entry.series.bytes_in_memory)

    def uids(self, study: str) -> tuple[str, str]:
        """Returns the UIDs of study and series for a study's name, whether or not the study exists."""
        return self._uids.study(study), self._uids.series(study)

    def study_of(self, uid: str) -> str:
        """Returns the name of the study with a Study or Series Instance UID; empty if there is none."""
        found = self._known(uid)
        if not found:
            names = self._store.images()
            added = {made: name for name in names for made in self.uids(name)}
            with self._lock:
                self._names = added
            found = added.get(uid, "")
        return found

    def abouts(self) -> Iterator[StudyAbout]:
        """Yields the usable studies, sorted by name. Reads the headers of files that are new, one after the other."""
        problems = self._store.problems()
        for name in sorted(self._store.images()):
            if "image" in problems.get(name, {}):
                continue
            found = self.usable(name)
            if found is not None:
                yield found

    def usable(self, study: str) -> StudyAbout | None:
        """Returns what `about` does; None if the study does not exist or cannot be used, which was logged.

        Raises:
            UnavailableError: all reader processes are busy.
        """
        try:
            return self.about(study)
        except UnavailableError:
            raise
        except (InputError, NotFoundError, StorageError):
            return None

    def about(self, study: str) -> StudyAbout:
        """Returns the attributes of a study that need no voxels.

        Raises:
            NotFoundError: the study does not exist.
            InputError: the header of its file cannot be used, or its voxels could not be decoded before.
            UnavailableError: all reader processes are busy.
        """
        return StudyAbout.of(study, self._uids, self._grid(study).size)

    def series(self, study: str) -> InstanceSeries:
        """Returns the instances without their voxels; slope and intercept are those of the file only if the CT is open.

        Raises:
            NotFoundError, InputError, UnavailableError: as for `about`.
            StorageError: the file cannot be read.
        """
        held = self.held(study)
        if held is not None:
            return held.series
        grid = self._grid(study)
        about = StudyAbout.of(study, self._uids, grid.size)
        return InstanceSeries(about, self._uids.volume(study, self._store.checksum(study)), grid)

    def held(self, study: str) -> OpenSeries | None:
        """Returns a CT if it is open and its file has not changed since.

        Raises:
            NotFoundError: the study does not exist.
        """
        stamp = _stamp(self._store.image(study).file)
        found = self._open.get(study)
        return found.series if found is not None and found.stamp == stamp else None

    def open(self, study: str) -> OpenSeries:
        """Returns a CT; decodes it if it is not open.

        Raises:
            NotFoundError, InputError, UnavailableError: as for `about`.
            StorageError: the file cannot be read, or keeps changing.
        """
        with self._lock:
            turn = self._opening.setdefault(study, threading.Lock())
        with turn:
            held = self.held(study)
            if held is not None:
                return held
            cleared = self._open.cleared
            with self._slots:
                found = self._decoded(study)
            self._open.put(study, found, cleared)  # not if it was erased while it was decoded
            return found.series

    def stamp(self, study: str) -> Stamp | None:
        """Returns numbers that change with the file of a study's image; None if there is none."""
        try:
            return _stamp(self._store.image(study).file)
        except NotFoundError:  # it was just removed
            return None

    def note_picture(self, study: str, stamp: Stamp, error: InputError | None) -> None:
        """Records whether a picture of a study's image could be drawn. If not, the image counts as unusable.

        Args:
            study: name of the study.
            stamp: state of the file before it was drawn, see `stamp`; the error says nothing about a later state.
            error: why it could not be drawn; None if it was.
        """
        with self._lock:
            known, forgotten = self._headers.get(study), self._forgotten
        if error is not None:
            self._keep(study, self._unusable(study, stamp, error, "picture"), forgotten)
        elif known is not None and known.grid is None and known.tried == "picture":
            self._keep(study, None, forgotten)

    def problems(self) -> dict[str, str]:
        """Returns why images cannot be read, by study, as far as somebody has tried and their files have not changed since.

        It starts another try of those whose pause is over, and does not wait for it.
        """
        with self._lock:
            broken = {study: known for study, known in self._headers.items() if known.grid is None}
        images, found = self._store.images() if broken else {}, {}
        for study, known in broken.items():
            with suppress(NotFoundError):
                if study in images and _stamp(images[study].file) == known.stamp:
                    found[study] = f"{known.problem} {known.remedy}".strip()
        if any(study in found and broken[study].is_due and broken[study].tried != "picture" for study in broken):
            self._retries.start()
        return found

    def forget(self) -> None:
        """Closes all CTs, for example after an erasure, also those that are being decoded."""
        self._open.clear()
        with self._lock:
            self._forgotten += 1
            self._headers.clear()
            self._names = {}
            self._opening = {name: turn for name, turn in self._opening.items() if turn.locked()}

    def _known(self, uid: str) -> str:
        with self._lock:
            return self._names.get(uid, "")

    def _grid(self, study: str) -> Geometry:
        """Returns the grid of a study's CT in LPS orientation; reads the header of its file if it is new."""
        file = self._store.image(study).file
        stamp = _stamp(file)
        with self._lock:
            known, forgotten = self._headers.get(study), self._forgotten
        if known is None or known.stamp != stamp or (known.is_due and known.tried != "voxels"):
            try:
                known = _Header(stamp, read_grid(file))
            except UnavailableError:
                raise
            except (InputError, OSError) as error:
                known = self._unusable(study, stamp, error)
            self._keep(study, known, forgotten)
        if known.grid is None:
            raise InputError(study, known.problem, "See /datastore and `medsam2-atlas check`; then replace the file.")
        return known.grid

    def _keep(self, study: str, header: _Header | None, forgotten: int) -> None:
        """Keeps what is known of a study, or drops it (None), unless it was erased (`forget`) meanwhile."""
        with self._lock:
            if forgotten != self._forgotten:
                return
            if header is None:
                self._headers.pop(study, None)
            else:
                self._headers[study] = header

    def _try_again(self) -> None:
        """Reads the files again that could not be read, and whose pause is over."""
        with self._lock:
            due = {study: known.tried for study, known in self._headers.items() if known.is_due}
        for study, tried in due.items():
            with suppress(InputError, NotFoundError, StorageError):  # they are recorded or temporary
                if tried == "voxels":
                    self.open(study)
                elif tried == "header":
                    self._grid(study)

    def _unusable(self, study: str, stamp: Stamp, error: Exception, tried: _Tried = "header") -> _Header:
        problem = error.problem if isinstance(error, InputError) else f"cannot be read ({error})."
        log.warning("%s is not offered to viewers: it %s", study, problem)
        # Reader processes remember such files themselves, and decide when to try them again.
        lasting = not isinstance(error, (UnreadableFileError, OSError))
        remedy = error.remedy if isinstance(error, InputError) else ""
        with self._lock:
            known = self._headers.get(study)
        same = known is not None and known.grid is None and known.stamp == stamp
        pause = min(2 * known.pause, _MAX_AGAIN_SECONDS) if known is not None and same else _AGAIN_SECONDS
        due = time.monotonic() + pause
        return _Header(stamp if lasting else (0, 0, 0), None, problem, remedy, tried, pause, due)

    def _decoded(self, study: str) -> _Open:
        for _ in range(_TRIES):
            file = self._store.image(study).file
            stamp = _stamp(file)
            with self._lock:
                known, forgotten = self._headers.get(study), self._forgotten
            with ThreadPoolExecutor(1) as beside:  # the checksum of a new file is computed while the file is decoded
                checksum = beside.submit(self._store.checksum, study)
                try:
                    ct = decode_ct(file)
                except InputError as error:
                    self._keep(study, self._unusable(study, stamp, error, "voxels"), forgotten)
                    raise InputError(study, error.problem, error.remedy) from error
                except OSError as error:
                    raise StorageError(study, f"cannot be read ({error}).", "Check the file and its disk.") from error
                digest = checksum.result()
            if _stamp(file) == stamp:
                if known is not None and known.grid is None:
                    self._keep(study, None, forgotten)
                return _Open(stamp, OpenSeries.of(study, self._uids, digest, ct))
        raise StorageError(study, "has an image that keeps changing.", "Wait until it is copied, then open it again.")


def _stamp(file: Path) -> Stamp:
    """Returns numbers that change with a file."""
    try:
        state = file.stat()
    except OSError as error:
        raise NotFoundError(
            file.name, f"cannot be read ({error.strerror}).", "Was it removed? List the studies again."
        ) from error
    return state.st_mtime_ns, state.st_size, state.st_ino
