"""Decides which cases of a data set become references and which become targets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.datasets.finding import CaseFiles, Listing
from medsam2_atlas.datasets.layout import Layout

Role = Literal["reference", "target"]

_MAX_LISTED = 60


@dataclass(frozen=True)
class Choice:
    """The user's choice of cases.

    Attributes:
        references: names of the references; None for those of the published split, or none if there is no split.
        targets: names of the targets; None for those of the published split, or all other cases if there is no split.
        all_cases: whether all cases that are not named as references are targets; the published split is not used.
        partial: whether named cases that cannot be used are left out; otherwise they are an error.
    """

    references: tuple[str, ...] | None = None
    targets: tuple[str, ...] | None = None
    all_cases: bool = False
    partial: bool = False


@dataclass(frozen=True)
class Plan:
    """The cases to prepare.

    Attributes:
        cases: pairs of a role and the files of a case; references come first.
        left_out: why cases are left out, by name.
    """

    cases: tuple[tuple[Role, CaseFiles], ...]
    left_out: dict[str, str]


def plan_roles(layout: Layout, listing: Listing, choice: Choice, folder: Path) -> Plan:
    """Assigns a role to each case.

    Args:
        layout: the layout of the data set.
        listing: the cases of the download.
        choice: the user's choice.
        folder: the folder of the download, for messages.

    Raises:
        InputError: a case is both a reference and a target, a named case cannot be used and `choice.partial` is False, all
            cases and targets are both requested, or no case is left.
    """
    if choice.all_cases and choice.targets is not None:
        raise InputError("--all", "cannot be combined with --targets.", "Use one of them.")
    split = None if choice.all_cases else layout.split
    references = choice.references if choice.references is not None else split.references if split else ()
    targets = choice.targets if choice.targets is not None else split.targets if split else None
    if both := sorted({*references} & {*(targets or ())}):
        raise InputError(
            _listed(both),
            "would be a reference and a target at once.",
            "Keep the two apart: an atlas must not contain the patients that it is evaluated on.",
        )
    named = [*dict.fromkeys((*references, *(targets or ())))]
    missing = {name: _reason(name, layout, listing) for name in named if name not in listing.cases}
    if missing and not choice.partial:
        reasons = "; ".join(f"{name} {reason}" for name, reason in [*sorted(missing.items())][:_MAX_LISTED])
        more = f"; and {len(missing) - _MAX_LISTED} more" if len(missing) > _MAX_LISTED else ""
        raise InputError(
            folder,
            f"lacks {len(missing)} of {len(named)} cases: {reasons}{more}.",
            "Download them, or go on without them by --partial. Nothing was written.",
        )
    left_out = missing if targets is not None else listing.problems | missing
    if targets is None:
        targets = tuple(name for name in listing.cases if name not in references)
    chosen: list[tuple[Role, CaseFiles]] = [("reference", listing.cases[n]) for n in _usable(references, listing)]
    chosen += [("target", listing.cases[n]) for n in _usable(targets, listing)]
    if not chosen:
        reasons = "; ".join(f"{name} {reason}" for name, reason in [*sorted(left_out.items())][:_MAX_LISTED])
        raise InputError(
            folder, f"has no annotated CT that can be used. {reasons}".rstrip(), "Compare the folder with docs/datasets.md."
        )
    return Plan(tuple(chosen), left_out)


def _usable(names: tuple[str, ...], listing: Listing) -> list[str]:
    return sorted({*names} & {*listing.cases})


def _reason(name: str, layout: Layout, listing: Listing) -> str:
    """Returns why a case cannot be used, as the rest of a sentence that begins with its name."""
    if name in listing.excluded and layout.numbers is not None:
        return layout.numbers.others
    if name in listing.unlabelled:
        return "has no label map"
    return listing.problems.get(name, "is not in the folder").rstrip(".")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_MAX_LISTED]) + (f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else "")
