"""Makes records and results of experiments without running a segmenter, for tests of tables, plots and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medsam2_atlas.experiment import Cost, OrganResult, PromptScore, Record, Results, Variant
from medsam2_atlas.experiment.made_with import MadeWith

ORGANS = tuple(range(1, 16))


def organ(
    number: int, dice: float, *, truth_ml: float = 100.0, predicted_ml: float = 90.0, centre_mm: float | None = 5.0
) -> OrganResult:
    """Returns the scores of an organ; a mask with 0 ml is empty."""
    empty = truth_ml == 0 or predicted_ml == 0
    prompt = None
    if centre_mm is not None and truth_ml > 0:
        prompt = PromptScore(centre_mm=centre_mm, z_min_mm=-2.0, z_max_mm=3.0, box_iou=max(0.0, 1 - centre_mm / 40), cut=False)
    value = 0.0 if empty else dice
    return OrganResult(
        organ=number,
        truth_ml=truth_ml,
        predicted_ml=predicted_ml,
        dice=value,
        nsd=value,
        hd95_mm=None if empty else 20 * (1 - dice),
        prompt=prompt,
    )


def record(
    case: str, variant: Variant, organs: Sequence[OrganResult], *, diagonal_mm: float = 500.0, prompted: bool = True
) -> Record:
    """Returns a record with a made-up cost."""
    total = Cost(seconds=12.5, peak_mib=900.0, watt_hours=0.2, co2_grams=0.08)
    return Record(
        case=case,
        variant=variant,
        key={"code": "1"},
        organs=tuple(organs),
        counted=ORGANS,
        prompted=prompted,
        diagonal_mm=diagonal_mm,
        confusion=tuple((o.organ, o.organ, int(o.truth_ml * 10)) for o in organs) + ((10, 13, 40), (0, 6, 25), (6, 0, 30)),
        total=total,
        stages={"network": Cost(seconds=10.0, watt_hours=0.16, co2_grams=0.06)},
        energy_how="CodeCarbon, estimated",
        report={"segmenter": variant.segmenter, "device": "cpu"},
    )


def results(
    segmenters: Sequence[str] = ("unet_3d", "reference-3", "atlas", "B", "D"),
    cases: int = 6,
    *,
    seed: int = 1,
    extra: Sequence[Variant] = (),
    problems: Mapping[str, str] | None = None,
) -> Results:
    """Returns the results of an experiment with random Dice; the last segmenter misses organ 4 in the first case."""
    random = np.random.default_rng(seed)
    records = []
    for number, variant in enumerate([*(Variant(segmenter=name) for name in segmenters), *extra]):
        for n in range(cases):
            found = [
                organ(k, float(np.clip(random.normal(0.7 + 0.03 * number, 0.08), 0, 1)), centre_mm=float(random.uniform(0, 30)))
                for k in ORGANS
            ]
            if n == 0 and number == len(segmenters) - 1:
                found[3] = organ(4, 0, predicted_ml=0, centre_mm=None)
            records.append(record(f"case_{n:02d}", variant, found))
    return Results(tuple(records), ORGANS, problems or {})


def made_with() -> MadeWith:
    """Returns made-up versions and checksums."""
    return MadeWith(
        command=["medsam2-atlas", "evaluate"],
        version="1.0",
        python="3.11",
        packages={"torch": "2.13.0"},
        machine={"processor": "test", "cores": 2, "memory_gib": 24.0, "system": "Linux", "device": "cpu"},
        threads="2",
        jobs=1,
        atlas={"folder": "atlas", "version": "0123456789ab", "references": ["a", "b"]},
        weights={"D": {"file": "demo.pt", "sha256": "00", "mark": "demo weights"}},
        settings=[],
        mode="exact",
        as_published=False,
        data={f"case_{n:02d}": {"image": "aa", "label": "bb"} for n in range(6)},
        marks=["demo weights"],
    )
