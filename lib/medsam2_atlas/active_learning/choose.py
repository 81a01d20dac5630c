"""Chooses the next case to annotate from stored measures; it computes nothing, so it is fast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medsam2_atlas.active_learning.table import Row

MEASURED = ("disagreement", "uncertainty", "novelty")
STRATEGIES = ("random", "first", *MEASURED)


@dataclass(frozen=True)
class Choice:
    """The next case.

    Attributes:
        study: name of the study.
        weight: its measure, or its probability for `random`.
        why: the reason, for the annotator.
    """

    study: str
    weight: float
    why: str


def choose(
    strategy: str,
    candidates: Sequence[str],
    rows: Mapping[str, Row],
    *,
    versions: Mapping[str, str] | None = None,
    assigned: Callable[[str], bool] = lambda _: False,
    generator: np.random.Generator | None = None,
) -> Choice | None:
    """Returns the case of the highest measure, a random case, or the first by name; None without candidates.

    Cases that are not measured yet are skipped as long as there are free measured ones; then the first of them by name is
    returned, and the reason states this. Cases that cannot be measured are skipped as long as there are others.

    Args:
        strategy: one of `STRATEGIES`.
        candidates: names of the cases without a signed-off label.
        rows: measures by case.
        versions: current versions of atlas and models; the reason states if the measure was made with older ones.
        assigned: returns whether another annotator recently got a case; such a case is chosen only if no other is left. The
            function is called for the best cases only, because calling it for thousands would take time.
        generator: random generator for `random`; by default a new one.

    Raises:
        ValueError: if the strategy is unknown.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"{strategy} is not a strategy; choose from {', '.join(STRATEGIES)}")
    ranked = sorted(candidates)
    if not ranked:
        return None
    count = f"{len(ranked)} cases without a final label map"
    if strategy == "random":
        order = (generator or np.random.default_rng()).permutation(len(ranked))
        return Choice(_free([ranked[n] for n in order], assigned), 1 / len(ranked), f"drawn at random from {count}")
    if strategy == "first":
        return Choice(_free(ranked, assigned), 1.0, f"the first by name of {count}")
    measured = [rows[study] for study in ranked if study in rows and strategy in rows[study].values]
    if not measured:
        problem = next((rows[study].problem for study in ranked if study in rows and rows[study].problem), "")
        reason = f"no case has been measured for {strategy} yet" + (f" ({problem})" if problem else "")
        usable = [study for study in ranked if study not in rows or not rows[study].problem]
        return Choice(_free(usable or ranked, assigned), 0.0, f"the first by name: {reason}")
    measured.sort(key=lambda row: -row.values[strategy])
    unmeasured = [study for study in ranked if study not in rows or not (rows[study].problem or strategy in rows[study].values)]
    best = rows[_free([row.study for row in measured], assigned)]
    if unmeasured and assigned(best.study) and not assigned(free := _free(unmeasured, assigned)):
        return Choice(
            free, 0.0, "the first by name of the cases that are not measured yet; other people have the measured ones"
        )
    rank = "highest" if best is measured[0] else "highest free"
    why = f"{strategy} ({best.values[strategy]:.2f})"
    if len(ranked) > 1:
        why = f"{rank} {why} of {len(measured)} measured case{'s' if len(measured) > 1 else ''}"
    why += f": {best.why.get(strategy, '')}"
    if left := len(unmeasured):
        why += f"; {left} case{'s are' if left > 1 else ' is'} not measured yet"
    if versions is not None and not best.current(versions):
        why += "; measured before the last change of the models"
    return Choice(best.study, best.values[strategy], why)


def _free(ranked: Sequence[str], assigned: Callable[[str], bool]) -> str:
    return next((study for study in ranked if not assigned(study)), ranked[0])
