"""The project's errors. Each names its subject (mostly a file), the problem and the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MAX_LISTED = 2000
"""Max characters of a list of problems."""


class MedSAM2AtlasError(Exception):
    """An error that a user can fix.

    Attributes:
        subject: what the error is about, mostly a file.
        problem: what is wrong, as the rest of a sentence that begins with the subject.
        remedy: how to fix it, in full sentences; empty if there is nothing to add.
    """

    def __init__(self, subject: str | Path, problem: str, remedy: str = "") -> None:
        self.subject, self.problem, self.remedy = str(subject), problem, remedy
        super().__init__(f"{subject}: {problem}" + (f" {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the error with its attributes, so that a worker process can raise it in the process that started it."""
        return _unpickled, (type(self), self.args), self.__dict__


def _unpickled(kind: type[MedSAM2AtlasError], args: tuple[Any, ...]) -> MedSAM2AtlasError:
    """Returns an error without calling its `__init__`, whose arguments are not those of `Exception`."""
    error = kind.__new__(kind)
    error.args = args
    return error


def problem_of(error: BaseException) -> str:
    """Returns the text of an error for a report; for errors from other libraries, it begins with their type."""
    return str(error) if isinstance(error, MedSAM2AtlasError) else f"{type(error).__name__}: {error}"


def listed(problems: Mapping[str, str]) -> str:
    """Returns problems by name as one sentence, sorted and shortened.

    >>> listed({"b": "is empty.", "a": "is missing."})
    'a: is missing; b: is empty.'
    """
    text = "; ".join(f"{name}: {problem.rstrip('.')}" for name, problem in sorted(problems.items()))
    return f"{text[:_MAX_LISTED]}." if text else ""


class InputError(MedSAM2AtlasError):
    """An image, a label map, prompts or options that cannot be used."""


class MalformedError(InputError):
    """The body of a request that does not have the format that its route expects."""


class AtlasError(MedSAM2AtlasError):
    """An atlas that cannot be built, read or applied."""


class WeightsError(MedSAM2AtlasError):
    """A checkpoint that is missing, cannot be used, or does not match the network."""


class ResultsError(WeightsError):
    """A network whose results on one image cannot be used. It may work on others."""


class StorageError(MedSAM2AtlasError):
    """A result that cannot be stored."""


class UnavailableError(StorageError):
    """Another server, such as the PACS, that does not answer at the moment."""


class NotFoundError(MedSAM2AtlasError):
    """A study, label or version that does not exist."""


class ConflictError(StorageError):
    """A change that is based on an older state than the stored one."""


class ConfirmError(ConflictError):
    """A signed-off label map that lacks organs of the previous version; its author has not confirmed the loss.

    Attributes:
        organs: names of the organs that the previous version contains and the new label map lacks; empty if the new label map
            is empty and there is no previous version.
        digest: hash of the new label map's voxels and grid. It identifies the same label map when it is sent again.
    """

    def __init__(self, subject: str | Path, problem: str, organs: tuple[str, ...], digest: str) -> None:
        self.organs, self.digest = organs, digest
        remedy = "If that is intended, send the same label map again within ten minutes, or with confirm=true."
        super().__init__(subject, problem, remedy)


class ClaimedError(ConflictError):
    """A case on which another person works.

    Attributes:
        claimed: the name of that person (`person`), and since when (`since`, ISO 8601, UTC).
    """

    def __init__(self, subject: str | Path, problem: str, remedy: str, claimed: dict[str, str]) -> None:
        self.claimed = claimed
        super().__init__(subject, problem, remedy)


class AccessError(MedSAM2AtlasError):
    """An action on another person's data that is not allowed."""


class LimitError(MedSAM2AtlasError):
    """A request that exceeds a limit per person, or a limit for all people together.

    Attributes:
        retry_after: time in seconds after which the request may succeed.
    """

    def __init__(self, subject: str | Path, problem: str, remedy: str, retry_after: int = 30) -> None:
        self.retry_after = retry_after
        super().__init__(subject, problem, remedy)
