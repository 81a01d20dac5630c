"""Picks the next case to annotate from what is known of the cases, at once: nothing is computed here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medsam2_atlas.active_learning.table import Row

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
    in_work: Callable[[str], bool] = lambda _: False,
    generator: np.random.Generator | None = None,
) -> Choice | None:
    """Returns the case of highest measure, or by chance or name.

    Cases not measured yet are passed over as long as there are measured ones; where none is, the first by name is taken,
    and the reason says so.

    Args:
        strategy: one of `STRATEGIES`.
        candidates: cases without a signed-off label.
        rows: what is known of them.
        versions: of atlas and models now; the reason says where a measure was taken with older ones.
        in_work: whether another annotator was given a case lately; it is taken only if no other is left. Asked of the best
            cases only: looking at thousands would take time.
        generator: for `random`.

    Raises:
        ValueError: an unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"{strategy} is not a strategy; choose from {', '.join(STRATEGIES)}")
    ranked = sorted(candidates)
    if not ranked:
        return None
    count = f"{len(ranked)} cases without a final label"
    if strategy == "random":
        order = (generator or np.random.default_rng()).permutation(len(ranked))
        return Choice(_free([ranked[n] for n in order], in_work), 1 / len(ranked), f"drawn from {count}")
    if strategy == "first":
        return Choice(_free(ranked, in_work), 1.0, f"the first by name of {count}")
    measured = [rows[study] for study in ranked if study in rows and strategy in rows[study].values]
    if not measured:
        problem = next((rows[study].problem for study in ranked if study in rows and rows[study].problem), "")
        reason = f"no case has been measured for {strategy} yet" + (f" ({problem})" if problem else "")
        return Choice(_free(ranked, in_work), 0.0, f"the first by name: {reason}")
    measured.sort(key=lambda row: -row.values[strategy])
    best = rows[_free([row.study for row in measured], in_work)]
    place = "highest" if best is measured[0] else "highest free"
    why = f"{place} {strategy} ({best.values[strategy]:.2f}) of {len(measured)} measured cases: {best.why.get(strategy, '')}"
    if len(measured) < len(ranked):
        why += f"; {len(ranked) - len(measured)} cases are not measured yet"
    if versions is not None and not best.current(versions):
        why += "; measured before the models last changed"
    return Choice(best.study, best.values[strategy], why)


def _free(ranked: Sequence[str], in_work: Callable[[str], bool]) -> str:
    return next((study for study in ranked if not in_work(study)), ranked[0])
