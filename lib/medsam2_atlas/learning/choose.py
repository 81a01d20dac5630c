"""Picks the next case to annotate from what is known of the cases, at once: nothing is computed here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medsam2_atlas.learning.table import Row

MEASURED = ("disagreement", "uncertainty", "novelty")
STRATEGIES = ("random", "first", *MEASURED)


@dataclass(frozen=True)
class Choice:
    """The next case. weight: its measure, or its chance. why: for the annotator."""

    study: str
    weight: float
    why: str


def choose(
    strategy: str,
    candidates: Sequence[str],
    rows: Mapping[str, Row],
    *,
    versions: Mapping[str, str] | None = None,
    in_work: Collection[str] = (),
    generator: np.random.Generator | None = None,
) -> Choice | None:
    """The case of highest measure, or by chance or name.

    Cases not measured yet are passed over as long as there are measured ones; where none is, the first by name is taken,
    and the reason says so.

    Args:
        strategy: one of `STRATEGIES`.
        candidates: cases without a signed-off label.
        rows: what is known of them.
        versions: of atlas and models now; the reason says where a measure was taken with older ones.
        in_work: cases that another annotator was given lately; taken only if no other is left.
        generator: for `random`.

    Raises:
        ValueError: an unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"{strategy} is not a strategy; choose from {', '.join(STRATEGIES)}")
    free = sorted(set(candidates) - set(in_work)) or sorted(candidates)
    if not free:
        return None
    if strategy == "first":
        return Choice(free[0], 1.0, f"the first by name of {len(free)} cases without a final label")
    if strategy == "random":
        pick = (generator or np.random.default_rng()).choice(len(free))
        return Choice(free[int(pick)], 1 / len(free), f"drawn from {len(free)} cases without a final label")
    measured = {study: rows[study] for study in free if study in rows and strategy in rows[study].values}
    if not measured:
        problem = next((rows[study].problem for study in free if study in rows and rows[study].problem), "")
        reason = f"no case has been measured for {strategy} yet" + (f" ({problem})" if problem else "")
        return Choice(free[0], 0.0, f"the first by name: {reason}")
    best = max(measured.values(), key=lambda row: (row.values[strategy], row.study))
    why = f"highest {strategy} ({best.values[strategy]:.2f}) of {len(measured)} measured cases: {best.why.get(strategy, '')}"
    if len(measured) < len(free):
        why += f"; {len(free) - len(measured)} cases are not measured yet"
    if versions is not None and best.versions != dict(versions):
        why += "; measured before the models last changed"
    return Choice(best.study, best.values[strategy], why)
