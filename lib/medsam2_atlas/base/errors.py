"""The project's errors; each names what is concerned, what is wrong and how to mend it."""

from __future__ import annotations

from pathlib import Path


class MedSAM2AtlasError(Exception):
    """Something a user can mend. `subject` is mostly a file."""

    def __init__(self, subject: str | Path, problem: str, remedy: str = "") -> None:
        self.subject, self.problem, self.remedy = str(subject), problem, remedy
        super().__init__(f"{subject}: {problem}" + (f" {remedy}" if remedy else ""))


def problem_of(error: BaseException) -> str:
    """Returns an error in words for a report; errors from other libraries include their type."""
    return str(error) if isinstance(error, MedSAM2AtlasError) else f"{type(error).__name__}: {error}"


class InputError(MedSAM2AtlasError):
    """An image, a label map, prompts or options that cannot be used."""


class AtlasError(MedSAM2AtlasError):
    """An atlas that cannot be built, read or applied."""


class WeightsError(MedSAM2AtlasError):
    """A checkpoint that is missing or does not fit the network."""


class StorageError(MedSAM2AtlasError):
    """A result that cannot be stored."""


class UnavailableError(StorageError):
    """Another server, such as the PACS, does not answer at the moment."""


class NotFoundError(MedSAM2AtlasError):
    """A study, label or version that does not exist."""


class ConflictError(StorageError):
    """A change that rests on an older state than what is stored."""


class ConfirmError(ConflictError):
    """A signed-off label map would lose organs, and its author has not confirmed that.

    Attributes:
        organs: names of the organs that the version before holds and the new label map lacks; empty if the new label map
            is empty and there was no version before.
        digest: of the new label map's voxels and grid, so that the same label map is recognised when it is sent again.
    """

    def __init__(self, subject: str | Path, problem: str, organs: tuple[str, ...], digest: str) -> None:
        self.organs, self.digest = organs, digest
        remedy = "If that is intended, send the same label map again within ten minutes, or with confirm=true."
        super().__init__(subject, problem, remedy)


class AccessError(MedSAM2AtlasError):
    """Somebody may not do this with what belongs to another person."""


class LimitError(MedSAM2AtlasError):
    """Somebody has as much as one person, or all together, may have. retry_after: seconds after which there may be room."""

    def __init__(self, subject: str | Path, problem: str, remedy: str, retry_after: int = 30) -> None:
        self.retry_after = retry_after
        super().__init__(subject, problem, remedy)
