"""Stores the files of series fetched from a PACS, each series in a folder that is named by a hash of its UID."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, StorageError, UnavailableError
from medsam2_atlas.base.files import remove_folder, replacing
from medsam2_atlas.base.scratch import sweep_leftovers
from medsam2_atlas.base.upstream import CallPool
from medsam2_atlas.dicom.uids import uid_folder_name, valid_uid
from medsam2_atlas.dicom.web import DicomWeb
from tasks.known import unknown_study

log = logging.getLogger(__name__)

_THREADS = 4
_WAITING = 28
"""Max number of requests that wait for a fetch. The rest of the server's 40 threads serves series that are already fetched."""
_FETCH_SECONDS = 1500.0
"""Max time in seconds for fetching a series."""
_UNFIT_SECONDS = 600.0
"""Min time in seconds before an unusable series is fetched again."""
_AWAY_SECONDS = 10.0
"""Min time in seconds before a series that could not be fetched or stored is fetched again."""

Use = Callable[[Path], None]
"""Converts the files of a series, for example to a volume; raises an error if the series cannot be used."""


class FetchedSeries:
    """The folders of fetched series. Thread-safe.

    Four threads of this class fetch series. All callers for one series wait for the same thread; the number of waiting callers
    is limited. A series that could not be fetched or used is not tried again for a while.
    """

    def __init__(self, folder: Path, web: Callable[[], DicomWeb], check: Callable[[str], None] = lambda _: None) -> None:
        """Opens the folder and removes unfinished downloads.

        Args:
            folder: parent of the series' folders; created if needed.
            web: returns the client of the PACS.
            check: called with the UID of a series; raises a StorageError if the series was erased and must not be stored.
        """
        self._folder, self._web, self._check = folder, web, check
        self._calls = CallPool("PACS", threads=_THREADS, waiting=_WAITING)
        self._failed: dict[str, tuple[float, MedSAM2AtlasError]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        sweep_leftovers(folder)

    def folder(self, series: str) -> Path:
        """Returns the folder for the files of a series; it exists only if the series has been fetched.

        Raises:
            NotFoundError: the UID is invalid.
        """
        if not valid_uid(series):
            raise unknown_study(series, "series")
        folder = self._folder / uid_folder_name(series)
        old = self._folder / series  # program versions up to 0.9 named the folder by the UID
        if "." in series and not folder.exists() and old.is_dir() and not old.is_symlink():
            with contextlib.suppress(FileNotFoundError):  # another thread has just renamed it
                old.rename(folder)
        return folder

    def fetch(self, study: str, series: str, use: Use) -> Path:
        """Fetches a series and waits for the result.

        Args:
            study: Study Instance UID.
            series: Series Instance UID.
            use: called with the folder of the new files before they are stored.

        Returns:
            The folder with the files of the series.

        Raises:
            InputError: the series cannot be used.
            UnavailableError: the PACS does not answer, or too many callers wait for it.
            StorageError: the series cannot be fetched or stored.
        """
        until, error = self._failed.get(series, (float("-inf"), None))
        if error is not None and time.monotonic() < until:
            raise type(error)(error.subject, error.problem, error.remedy) from error
        breaker = self._web().breaker
        if not breaker.ready:
            raise UnavailableError(
                "PACS", f"does not answer ({breaker.problem}).", "Check that it is running; try again in a minute."
            )
        began = breaker.now()
        return self._calls.run(
            series,
            lambda: self._fetch(study, series, use),
            seconds=_FETCH_SECONDS,
            gives_up=lambda: breaker.failed_since(began),
        )

    def size(self, series: str) -> int:
        """Returns the size of a series' files in bytes; 0 if they are not stored."""
        with contextlib.suppress(OSError):
            return sum(file.stat().st_size for file in self.folder(series).iterdir())
        return 0

    def drop(self, series: str) -> None:
        """Deletes the files of a series, which can be fetched again.

        Raises:
            OSError: a file cannot be deleted.
        """
        folder = self.folder(series)
        if folder.is_dir():
            remove_folder(folder, self._folder)

    def problems(self) -> dict[str, str]:
        """Returns the reasons why fetched series cannot be used, by UID."""
        failed = {series: error for series, (_, error) in list(self._failed.items()) if isinstance(error, InputError)}
        return {series: error.problem for series, error in failed.items() if self._may_keep(series)}

    def _may_keep(self, series: str) -> bool:
        try:
            self._check(series)
        except StorageError:
            return False
        return True

    def _fetch(self, study: str, series: str, use: Use) -> Path:
        began, target = time.perf_counter(), self.folder(series)
        try:
            with self._errors(series), replacing(target) as part:
                self._check(series)
                part.mkdir()
                self._web().fetch_series(study, series, part)
                use(part)
            if not self._may_keep(series):  # the series was erased while it was fetched
                remove_folder(target, self._folder)
                self._check(series)
        except (InputError, StorageError) as error:
            seconds = _UNFIT_SECONDS if isinstance(error, InputError) else _AWAY_SECONDS
            self._failed[series] = (time.monotonic() + seconds, error)
            raise
        self._failed.pop(series, None)
        log.info("series %s fetched in %.1f s", series, time.perf_counter() - began)
        return target

    @contextmanager
    def _errors(self, series: str) -> Iterator[None]:
        """Converts errors of the block so that they name the series instead of its folder."""
        try:
            yield
        except InputError as error:
            raise InputError(series, error.problem, error.remedy) from error
        except OSError as error:
            raise StorageError(series, f"cannot be stored ({error}).", "Free some space on the server.") from error
