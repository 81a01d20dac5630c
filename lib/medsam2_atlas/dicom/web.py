"""A client of a DICOMweb server (PACS): lists series (QIDO-RS), fetches a series (WADO-RS), stores an object (STOW-RS).

The server's answers are not trusted. They have a max size; objects are written to disk as they arrive, without parsing; UIDs
are checked before they enter a URL; every call has a time limit.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests import RequestException, Response, Session

from medsam2_atlas.base.errors import InputError, StorageError, UnavailableError
from medsam2_atlas.base.upstream import CircuitBreaker
from medsam2_atlas.dicom.multipart import MultipartFiles, MultipartLimits
from medsam2_atlas.dicom.one_part import KIND, OnePart
from medsam2_atlas.dicom.uids import cleaned_uid, valid_uid
from medsam2_atlas.dicom.web_answers import add_preamble, failures, first_value, short

log = logging.getLogger(__name__)

_CHUNK = 1 << 16
_CHECK_URL = "Check its URL."
_JSON = "application/dicom+json, application/json"
_INCLUDED = ("SeriesDescription", "StudyDescription", "StudyDate", "PatientID", "PatientName")
"""Attributes that a list of series has to contain besides those that the standard requires (PS3.18, table 10.6.3-5)."""
_OBJECTS = 'multipart/related; type="application/dicom"'
_ANY_SYNTAX = f"{_OBJECTS}; transfer-syntax=*"
_REFUSED = (400, 406, 415)
"""The statuses with which servers refuse `transfer-syntax=*`."""
_DUPLICATE = 0x0111
_SERIES_LIMITS = MultipartLimits(parts=20_000, part_bytes=2_000_000_000, total_bytes=4_000_000_000)
_SLICE_LIMITS = MultipartLimits(parts=2, part_bytes=40_000_000, total_bytes=40_000_000)
_INSTANCE, _NUMBER = "00080018", "00200013"
_UNANSWERED = (requests.ConnectionError, requests.Timeout)


@dataclass(frozen=True)
class DicomWebLimits:
    """Limits on the time and size of calls.

    Attributes:
        connect: max seconds to connect.
        silence: seconds without an answer after which the server is probed.
        probe: max seconds until the server answers the probe.
        pause: max seconds between two pieces of an answer, when listing or storing.
        series_pause: the same when fetching a series.
        list_seconds: max seconds for listing series.
        series_seconds: max seconds for fetching a series.
        slice_seconds: max seconds for finding and fetching one object for a picture.
        store_seconds: max seconds for storing an object.
        list_bytes: max bytes of a list.
        series: max size of a series.
        slice: max size of one object that is fetched for a picture.
    """

    connect: float = 3.0
    silence: float = 3.0
    probe: float = 5.0
    pause: float = 60.0
    series_pause: float = 120.0
    list_seconds: float = 120.0
    series_seconds: float = 1200.0
    slice_seconds: float = 20.0
    store_seconds: float = 120.0
    list_bytes: int = 100_000_000
    series: MultipartLimits = _SERIES_LIMITS
    slice: MultipartLimits = _SLICE_LIMITS


class DicomWeb:
    """A client of one DICOMweb server. Several threads may use it.

    Args:
        url: the server's URL.
        session: the HTTP session, with user name and password if required; a new session by default.
        prefixes: the path after the URL by service (`qido`, `wado`, `stow`); none by default.
        breaker: the circuit breaker, which refuses calls after one was not answered; a new one by default.
        limits: the limits on time and size; the defaults of `DicomWebLimits` if None.
    """

    def __init__(
        self,
        url: str,
        *,
        session: Session | None = None,
        prefixes: Mapping[str, str | None] | None = None,
        breaker: CircuitBreaker | None = None,
        limits: DicomWebLimits | None = None,
    ) -> None:
        self._url, self._session = url.strip().rstrip("/"), session or Session()
        self._prefixes = prefixes or {}
        self.breaker = breaker or CircuitBreaker("PACS")
        self._limits = limits or DicomWebLimits()
        self._probing = threading.Lock()
        self._any_syntax = True  # whether objects are requested in any transfer syntax

    def start_probe(self) -> None:
        """Starts a thread that probes the server with a minimal request. Call it if a request has no answer for a while.

        A server that is only slow with one request answers the probe and stays in use. If it does not answer, the circuit
        breaker refuses all further calls.
        """
        threading.Thread(target=self._probe, name="PACS probe", daemon=True).start()

    def _probe(self) -> None:
        if not self._probing.acquire(blocking=False):
            return
        try:
            began, timeout = self.breaker.now(), (self._limits.connect, self._limits.probe)
            url, query = self._address("qido", "studies"), {"limit": "1"}
            self._session.get(url, params=query, headers={"Accept": _JSON}, stream=True, timeout=timeout).close()
            self.breaker.answered()
        except _UNANSWERED as error:
            self.breaker.failed(began, short(error))
        except RequestException as error:
            log.warning("the PACS cannot be probed: %s", error)
        finally:
            self._probing.release()

    def _address(self, service: str, path: str) -> str:
        prefix = (self._prefixes.get(service) or "").strip("/")
        return "/".join(part for part in (self._url, prefix, path) if part)

    def list_series(self, filters: Mapping[str, Any]) -> list[Any]:
        """Returns the series that match the filters, as unchecked DICOM JSON.

        Args:
            filters: the query parameters of QIDO-RS.

        Raises:
            UnavailableError: the server does not answer in time.
            StorageError: the server refuses the request, or its answer is not a list.
            InputError: the answer exceeds the size limit.
        """
        query: dict[str, Any] = {**{key: str(value) for key, value in filters.items()}, "includefield": _INCLUDED}
        return self._listed("series", query, self._limits.list_seconds)

    def _listed(self, path: str, query: Mapping[str, Any], budget: float) -> list[Any]:
        """Returns the answer to a query as unchecked DICOM JSON; waits for it for at most `budget` seconds."""
        pause, headers = min(self._limits.pause, budget), {"Accept": _JSON}
        with self._asking("GET", "qido", path, budget, pause=pause, params=query, headers=headers) as answer:
            content = b"".join(self._pieces(answer, budget, self._limits.list_bytes))
        try:
            found = json.loads(content) if content else []
        except (ValueError, RecursionError) as error:
            raise StorageError("PACS", f"answers with something other than a list ({str(error)[:200]}).", _CHECK_URL) from error
        found = [found] if isinstance(found, dict) else found
        if not isinstance(found, list):
            raise StorageError("PACS", "answers with something other than a list.", _CHECK_URL)
        return found

    def fetch_series(self, study: str, series: str, folder: Path) -> list[Path]:
        """Writes the objects of a series to a folder while they arrive.

        The request accepts any transfer syntax, because a server with compressed objects may be unable to convert them; the
        reader of the series decodes them. If a server refuses this request, it is repeated without a transfer syntax.

        Args:
            study: the Study Instance UID.
            series: the Series Instance UID.
            folder: an existing, empty folder.

        Returns:
            The files that were written.

        Raises:
            InputError: a UID is not valid, or the answer exceeds a limit.
            UnavailableError: the server does not answer in time.
            StorageError: the server refuses the request, or the disk cannot be written.
        """
        if not (valid_uid(study) and valid_uid(series)):
            raise InputError(repr(series[:80]), "is not a UID.", "Correct the series in the PACS.")
        return self._objects(f"studies/{study}/series/{series}", folder, self._limits.series, self._limits.series_seconds)

    def fetch_middle(self, study: str, series: str, folder: Path) -> Path:
        """Writes the object in the middle of a series to a folder, for a picture; as `fetch_series`.

        The middle is that of the numbers that the scanner gave the objects.

        Args:
            study: the Study Instance UID.
            series: the Series Instance UID.
            folder: an existing, empty folder.

        Raises:
            InputError: a UID is not valid, the series has no objects, or the answer exceeds a limit.
            UnavailableError: the server does not answer in time.
            StorageError: the server refuses the request, or the disk cannot be written.
        """
        if not (valid_uid(study) and valid_uid(series)):
            raise InputError(repr(series[:80]), "is not a UID.", "Correct the series in the PACS.")
        path, deadline = f"studies/{study}/series/{series}/instances", time.monotonic() + self._limits.slice_seconds
        listed = self._listed(path, {}, self._limits.slice_seconds)
        numbers = {cleaned_uid(first_value(one, _INSTANCE)): first_value(one, _NUMBER) for one in listed}
        uids = sorted(filter(None, numbers), key=lambda uid: (int(n) if (n := numbers[uid]).isdecimal() else 0, uid))
        uid = uids[len(uids) // 2] if uids else ""
        left = max(1.0, deadline - time.monotonic())
        found = self._objects(f"{path}/{uid}", folder, self._limits.slice, left) if uid else []
        if not found:
            raise InputError(series, "has no objects in the PACS.", "Send it to the PACS again.")
        return found[0]

    def _objects(self, path: str, folder: Path, limits: MultipartLimits, budget: float) -> list[Path]:
        """Writes the objects of a path to a folder; returns the files."""
        files = self._fetch(path, folder, _ANY_SYNTAX, limits, budget, refusals=_REFUSED) if self._any_syntax else None
        if files is None:
            files = self._fetch(path, folder, _OBJECTS, limits, budget)
            if files is not None and self._any_syntax:
                log.warning("the PACS refuses requests that accept any transfer syntax; further requests name no syntax")
                self._any_syntax = False
        for file in files or []:
            add_preamble(file)
        return files or []

    def _fetch(
        self, path: str, folder: Path, accept: str, limits: MultipartLimits, budget: float, refusals: tuple[int, ...] = ()
    ) -> list[Path] | None:
        """Writes the objects of a path; returns None if the answer has one of the statuses in `refusals`."""
        pause, headers = min(self._limits.series_pause, budget), {"Accept": accept}
        with self._asking("GET", "wado", path, budget, pause=pause, headers=headers, accepted=refusals) as answer:
            if answer.status_code in refusals:
                return None
            kind = answer.headers.get("Content-Type", "")
            pieces = self._pieces(answer, budget, limits.total_bytes)
            if kind.lower().startswith("application/dicom"):  # one object, not in a multipart message
                file = folder / "00000.dcm"
                with file.open("xb") as stream:
                    for piece in pieces:
                        stream.write(piece)
                return [file]
            with MultipartFiles(folder, kind, limits) as message:
                for piece in pieces:
                    message.write(piece)
                return message.finish()

    def store(self, file: Path) -> None:
        """Stores a DICOM file. The server decides whether an instance that it already has stays or is replaced.

        Raises:
            UnavailableError: the server does not answer in time.
            StorageError: the server rejects the object.
            InputError: the answer exceeds the size limit.
            OSError: the file cannot be read.
        """
        budget, headers = self._limits.store_seconds, {"Content-Type": KIND, "Accept": _JSON}
        with file.open("rb") as stream:
            body = OnePart(stream)
            with self._asking("POST", "stow", "studies", budget, data=body, headers=headers, accepted=(409,)) as answer:
                content = b"".join(self._pieces(answer, budget, self._limits.list_bytes))
        reasons = failures(content)
        if [reason for reason in reasons if reason != _DUPLICATE] or (answer.status_code == 409 and not reasons):
            listed = ", ".join(f"{reason:04X}H" for reason in reasons) or f"status {answer.status_code}"
            raise StorageError("PACS", f"rejects the object ({listed}).", "See its log.")

    @contextmanager
    def _asking(
        self,
        method: str,
        service: str,
        path: str,
        budget: float,
        *,
        pause: float = 0,
        accepted: tuple[int, ...] = (),
        **options: Any,
    ) -> Iterator[Response]:
        """Yields an answer as soon as its headers have arrived; the caller reads the body.

        Args:
            method: the HTTP method.
            service: `qido`, `wado` or `stow`.
            path: the path after the URL and the prefix of the service.
            budget: max seconds for the whole answer.
            pause: max seconds between two pieces of the answer; the default limit if 0.
            accepted: statuses of errors that the caller handles itself.
            options: further arguments of `requests`.
        """
        url, timeout = self._address(service, path), (self._limits.connect, pause or self._limits.pause)
        began = self.breaker.begin()
        silence = _timer(self._limits.silence, self.start_probe)
        try:
            answer = self._session.request(method, url, stream=True, timeout=timeout, **options)
        except _UNANSWERED as error:
            self.breaker.failed(began, short(error))
            raise UnavailableError("PACS", f"cannot be reached ({short(error)}).", "Is it running?") from error
        except RequestException as error:
            self.breaker.given_up(began)
            raise StorageError("PACS", f"cannot be reached ({short(error)}).", _CHECK_URL) from error
        finally:
            silence.cancel()
        self.breaker.answered()
        watch = _timer(budget, lambda: _interrupt(answer))
        try:
            if not answer.ok and answer.status_code not in accepted:
                raise StorageError("PACS", f"answers {answer.status_code} {answer.reason} to {method} {path}.", "See its log.")
            yield answer
        except _UNANSWERED as error:
            self.breaker.failed(began, short(error))
            raise UnavailableError("PACS", f"stopped answering ({short(error)}).", "Is it running?") from error
        except RequestException as error:
            raise UnavailableError("PACS", f"ended its answer too early ({short(error)}).", "Try again.") from error
        finally:
            watch.cancel()
            answer.close()

    def _pieces(self, answer: Response, seconds: float, limit: int) -> Iterator[bytes]:
        """Yields the body as it arrives, up to a limit of bytes and seconds."""
        deadline, read = time.monotonic() + seconds, 0
        for piece in answer.iter_content(_CHUNK):
            read += len(piece)
            self.breaker.answered()
            if read > limit:
                raise InputError("answer of the PACS", f"is larger than {limit / 1e6:.0f} MB.", "Request less.")
            if time.monotonic() > deadline:
                raise UnavailableError("PACS", f"has not sent everything within {seconds:.0f} s.", "Try again later.")
            yield piece


def _timer(seconds: float, call: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
    return timer


def _interrupt(answer: Response) -> None:
    """Interrupts another thread that reads an answer. Closing the socket would not wake that thread."""
    with suppress(OSError, ValueError, RuntimeError):  # the thread may have finished in the meantime
        answer.raw.shutdown()
