"""Finds the annotated CTs of an experiment, and leaves out references and duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medsam2_atlas.atlas import Atlas, find_pairs
from medsam2_atlas.base.errors import InputError, problem_of
from medsam2_atlas.base.files import sha256
from medsam2_atlas.base.printable import printable
from medsam2_atlas.base.progress import Progress, silent


@dataclass(frozen=True)
class EvaluationCase:
    """An annotated CT that segmenters are scored on.

    Attributes:
        name: name of the case.
        image: file of the CT.
        label: file of the ground truth.
        image_sha256: checksum of the image file.
        label_sha256: checksum of the label file.
    """

    name: str
    image: Path
    label: Path
    image_sha256: str
    label_sha256: str

    def check(self) -> None:
        """Checks that both files are still those that were hashed.

        Raises:
            InputError: if a file has changed since the experiment began.
            OSError: if a file cannot be read.
        """
        for file, expected in ((self.image, self.image_sha256), (self.label, self.label_sha256)):
            if sha256(file) != expected:
                raise InputError(file, "changed while the evaluation ran.", "Run the command again.")


def find_cases(
    images: Path, labels: Path, skipped: dict[str, str] | None = None, progress: Progress = silent
) -> list[EvaluationCase]:
    """Finds and hashes the annotated CTs of two folders.

    Args:
        images: folder of the CTs.
        labels: folder of the label maps, under the names of their CTs.
        skipped: receives the reason by name for each case that is left out; None: such a case raises an error.
        progress: called with the fraction of hashed cases.

    Returns:
        The cases, sorted by name.

    Raises:
        InputError: if the folders have no annotated CT; if `skipped` is None, also if a case cannot be used.
    """
    found = []
    pairs = find_pairs(images, labels, skipped)
    for number, pair in enumerate(pairs):
        if not _is_text(pair.name):
            if skipped is None:
                raise InputError(pair.image, _NO_TEXT, "Rename image and label map.")
            skipped[printable(pair.name)] = f"{_NO_TEXT} Rename image and label map."
            continue
        try:
            hashes = sha256(pair.image), sha256(pair.label)
        except OSError as error:
            if skipped is None:
                raise InputError(pair.image, f"cannot be read ({error}).", "Check its permissions.") from error
            skipped[pair.name] = problem_of(error)
            continue
        found.append(EvaluationCase(pair.name, pair.image, pair.label, *hashes))
        progress("reading cases", (number + 1) / len(pairs))
    return _distinct(found, skipped)


_NO_TEXT = "has a name that is not UTF-8, which tables cannot contain."


def _is_text(name: str) -> bool:
    """Returns whether all bytes of a file's name could be decoded; Python represents the others by lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _distinct(cases: Sequence[EvaluationCase], skipped: dict[str, str] | None) -> list[EvaluationCase]:
    """Leaves out images that occur a second time under another name, because they would count twice."""
    first: dict[str, str] = {}
    kept = []
    for case in cases:
        other = first.setdefault(case.image_sha256, case.name)
        if other == case.name:
            kept.append(case)
        elif skipped is None:
            raise InputError(case.image, f"is the same image as {other}.", "Remove one of them; it would count twice.")
        else:
            skipped[case.name] = f"is the same image as {other}, which would count twice."
    return kept


def independent_cases(
    cases: Iterable[EvaluationCase], atlas: Atlas, skipped: dict[str, str] | None = None
) -> list[EvaluationCase]:
    """Returns the cases that are not references of an atlas, by the checksums of image and label map.

    Args:
        cases: the cases.
        atlas: the atlas whose references are left out.
        skipped: receives the reason for each case that is left out; None: such a case raises an error.

    Raises:
        InputError: if `skipped` is None and a case is a reference.
    """
    labels = {reference.sha256: reference.name for reference in atlas.references}
    images = {reference.image_sha256: reference.name for reference in atlas.references if reference.image_sha256}
    kept = []
    for case in cases:
        reference = images.get(case.image_sha256) or labels.get(case.label_sha256)
        if reference is None:
            kept.append(case)
        elif skipped is None:
            raise InputError(
                case.image,
                f"is the reference {reference} of the atlas.",
                "Remove it from the folder, or build an atlas without it.",
            )
        else:
            skipped[case.name] = (
                f"is the reference {reference} of the atlas, so its result would say nothing about new patients."
            )
    return kept


def same_names(cases: Iterable[EvaluationCase], names: Iterable[str], what: str) -> list[str]:
    """Returns a warning for each case whose name occurs in `names`; a name alone does not prove that it is the same patient.

    Args:
        cases: the cases.
        names: names of references or training cases.
        what: describes the names, such as "a reference of the atlas".
    """
    known = set(names)
    return [
        f"{case.name} has the name of {what}: check that they are not the same patient." for case in cases if case.name in known
    ]
