"""Checks that a CT's values are Hounsfield units, and corrects a constant offset where the user asks for it.

Registration, prompts and networks rely on HU: air is near −1000, fat near −100, soft tissue between 0 and 150. Tools also
write CTs without the rescale intercept (+1024), shifted by 1000, with the intercept applied twice (−1024), or scaled to 8 or
12 bit; none of them yields a usable label map. `read_ct` is the only place where the rule is applied: everything that works
on a CT's values reads it there. `read_volume` stays for what only needs the grid or the voxels as they are.

The check looks at up to 200,000 voxels, spread evenly, so that its time does not depend on the size of the CT. Its limits are
settings (`hu_config`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.hu_config import hu_check_config
from medsam2_atlas.imaging.volume import Volume, read_volume

OFFSETS = (1024, 1000, -1024, -1000)
"""Known distances of a file's values from HU: no rescale intercept, air moved to 0, and either of them subtracted twice."""

_MAX_SAMPLE = 200_000
"""Voxels that are looked at; a share of 0.5 % is then known to within 0.02 %."""
_AIR = (-1100.0, -850.0)
"""HU of air outside the body, in bowel and airways, with the noise of a low-dose CT; lung is denser."""
_SOFT = (-150.0, 150.0)
"""HU of fat, muscle, organs and blood, without dense contrast and bone."""
_FAT = (-140.0, -50.0)
_BELOW_AIR = -1150.0
"""HU below air, even with noise: padding outside the field of view (−2000, −3024), and dark streaks of metal."""
_DENSE = 850.0
"""HU that cortical bone, metal and excreted contrast exceed: 0.06 to 0.3 % of the voxels in three patients' CTs."""
_BEYOND_BONE = 3200.0
"""Value that a body's HU, 1024 too high, hardly exceed: the densest bone has some 2000 HU."""
_AIR_PEAK = -998.0
"""Most frequent HU of the air around patients: −995 to −1003 in two patients' CTs and in the phantoms."""
_FAT_PEAK = -100.0


@dataclass(frozen=True)
class HuRule:
    """How a file's values become HU.

    Attributes:
        name: `check`: the values are HU, refuse them if that is implausible. `auto`: as `check`, but correct an offset of
            `OFFSETS`. `as-is`: use the values unchecked. `offset`: add `offset`, then check.
        offset: number that `offset` adds.
    """

    name: str = "check"
    offset: float = 0.0

    @classmethod
    def parse(cls, text: str) -> HuRule:
        """Returns the rule of a setting: `check`, `auto`, `as-is`, or a number to add.

        Raises:
            InputError: none of them.
        """
        text = text.strip()
        if text in {"check", "auto", "as-is"}:
            return cls(text)
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not abs(number) <= 100_000:
            raise InputError(
                repr(text[:40]), "is no rule for HU.", "Choose check, auto, as-is, or a number to add, such as -1024."
            )
        return cls("offset", number)

    def __str__(self) -> str:
        return f"{self.offset:.10g}" if self.name == "offset" else self.name


CHECK = HuRule()


@dataclass(frozen=True)
class HuFinding:
    """What a CT's values look like.

    Attributes:
        problem: why they cannot be HU; empty if they are plausible.
        shift: their known distance from HU, one of `OFFSETS`; 0 if they are plausible or the distance is not known.
        air: share of voxels with the HU of air, padding left out.
        soft_tissue: share of voxels with the HU of soft tissue, padding left out.
    """

    problem: str
    shift: int
    air: float
    soft_tissue: float


def examine(values: np.ndarray, added: float = 0.0) -> HuFinding:
    """Returns whether values are plausible HU of a CT, and their offset if it is a known one.

    A CT needs soft tissue, and air or fat: a crop inside the body may lack air. Padding is left out: values below air that
    are exactly the lowest one.

    Args:
        values: `[z, y, x]`, any number type.
        added: number to add to them first.
    """
    sample = _sampled(values) + np.float32(added)
    lowest = float(sample.min())
    flat = sample == lowest
    padding = flat if lowest < _BELOW_AIR and flat.mean() > hu_check_config().min_padding else np.zeros(len(sample), bool)
    inside = sample[~padding]
    if not len(inside):  # hardly possible: two values, one of them rare
        inside = sample
    air, soft = _share(inside, _AIR), _share(inside, _SOFT)
    shifts = _known_shift(sample, flat)
    if shifts:
        distance = " or ".join(str(abs(shift)) for shift in shifts)
        how = f"its values are {distance} too {'high' if shifts[0] > 0 else 'low'} for HU"
        if len(shifts) > 1:
            return HuFinding(f"{how}: there is too little air to tell which.", 0, air, soft)
        return HuFinding(f"{how}: air is near {shifts[0] - 1000}, soft tissue near {shifts[0] + 40}.", shifts[0], air, soft)
    return HuFinding(_problem(inside, air, soft), 0, air, soft)


def to_hu(image: Volume, rule: HuRule = CHECK) -> Volume:
    """Returns a CT in HU by a rule; its `hu` tells what was found and done.

    Raises:
        InputError: the values are no plausible HU, and the rule neither corrects nor accepts them.
    """
    added = rule.offset
    finding = examine(image.array, added)
    if rule.name == "auto" and finding.shift:
        added = float(-finding.shift)
    elif finding.problem and rule.name != "as-is":
        raise InputError(image.source, _refusal(finding, rule), _remedy(finding, rule))
    told: dict[str, Any] = {
        "rule": str(rule),
        "offset": added,
        "found": finding.problem or "plausible",
        "air": round(finding.air, 4),
        "soft_tissue": round(finding.soft_tissue, 4),
    }
    if not added:
        return replace(image, hu=told)
    return replace(image, array=image.array + np.float32(added), hu=told)


def read_ct(path: str | Path, rule: HuRule = CHECK) -> Volume:
    """Reads a CT to work on: as `read_volume`, in HU by a rule.

    Raises:
        InputError: not readable, or values that are no HU; see `to_hu`.
    """
    return to_hu(read_volume(path), rule)


def _sampled(values: np.ndarray) -> np.ndarray:
    """Returns every n-th voxel as float32, with n prime to the size of a slice, so that all rows and columns are met."""
    flat = values.reshape(-1)
    step = max(1, len(flat) // _MAX_SAMPLE)
    plane = int(np.prod(values.shape[1:])) or 1
    while step > 1 and math.gcd(step, plane) > 1:
        step += 1
    sampled: np.ndarray = flat[::step].astype(np.float32)
    return sampled


def _share(values: np.ndarray, span: tuple[float, float], shift: float = 0.0) -> float:
    return float(((values >= span[0] + shift) & (values <= span[1] + shift)).mean()) if len(values) else 0.0


def _known_shift(sample: np.ndarray, flat: np.ndarray) -> tuple[int, ...]:
    """Returns the distance of values from HU: none, a known one, or two if the values do not tell which of them.

    Values that are exactly the lowest one are left out if they are many: they are padding, or air clipped at some value.
    """
    rest = sample[~flat] if flat.mean() > hu_check_config().min_padding else sample
    if not len(rest):
        return ()
    sign = 1 if _too_high(rest) else -1 if _too_low(rest) else 0
    if not sign:
        return ()
    found = _by_air(sample, flat, rest, sign)
    return (sign * 1024, sign * 1000) if found is None else (found,)


def _too_high(rest: np.ndarray) -> bool:
    """Returns whether soft tissue lies at 1000 to 1024, and nothing lies where HU have lung and air.

    Dense bone and contrast have 850 to 1200 HU too, but then less dense bone and contrast are more frequent.
    """
    config = hu_check_config()
    darker, beyond = float((rest < _SOFT[0] - 10).mean()), float((rest > _BEYOND_BONE).mean())
    if darker > config.max_darker or beyond > config.max_beyond_bone:
        return False
    found, trough = _share(rest, _SOFT, 1012), _share(rest, (424.0, 774.0))
    if found < max(config.min_shifted, config.min_trough_ratio * trough):
        return False
    return found >= config.min_surely_shifted or _share(rest, _FAT) < config.min_shifted


def _too_low(rest: np.ndarray) -> bool:
    """Returns whether soft tissue lies where HU have air, and air or fat lies below."""
    config = hu_check_config()
    if _share(rest, (_SOFT[0] + 50, _SOFT[1])) > config.max_unshifted or _share(rest, _SOFT, -1012) < config.min_shifted:
        return False
    return float((rest < -1500).mean()) > config.min_padding


def _by_air(sample: np.ndarray, flat: np.ndarray, rest: np.ndarray, sign: int) -> int | None:
    """Returns the one of two offsets that puts air at its HU; None if there is too little air to tell.

    Gas in the body does not count: with partial volumes it is up to 40 HU denser than the air around the patient.
    """
    config = hu_check_config()
    floor = float(sample.min()) if flat.mean() > config.min_clipped else None
    for shift in (1024 * sign, 1000 * sign):
        around = (shift - 1090.0, shift - 880.0)
        air = _without_fill(rest[(rest >= around[0]) & (rest <= around[1])])
        outside = len(air) > config.min_outer_air * len(rest)
        if outside and abs(_peak(air, *around) - shift - _AIR_PEAK) <= config.peak_tolerance:
            return shift
    for shift in (1024 * sign, 1000 * sign):  # air that is one value is −1000, or −1024 where fat says so
        fat = (shift - 160.0, shift - 40.0)
        known = floor == shift - 1024 and _share(rest, fat) > config.min_fat_peak
        if floor == shift - 1000 or (known and abs(_peak(rest, *fat) - shift - _FAT_PEAK) <= config.peak_tolerance):
            return shift
    return None


def _without_fill(air: np.ndarray) -> np.ndarray:
    """Returns air without a value that much of it has exactly: filled in outside the field of view, not measured."""
    if not len(air):
        return air
    values, counts = np.unique(air, return_counts=True)
    return air[air != values[counts.argmax()]] if counts.max() > hu_check_config().max_filled * len(air) else air


def _peak(values: np.ndarray, low: float, high: float) -> float:
    """Returns the most frequent value between two bounds, in a window of 12."""
    counts, edges = np.histogram(values, np.arange(low, high + 2, 2))
    return float(edges[int(np.convolve(counts, np.ones(6), "same").argmax())] + 1)


def _problem(inside: np.ndarray, air: float, soft: float) -> str:
    """Returns why values without a known shift cannot be HU; empty if they can."""
    config = hu_check_config()
    low, high = (float(v) for v in np.percentile(inside, (1, 99)))
    span = f"98 % of them lie between {low:.4g} and {high:.4g}"
    if soft < config.min_soft_tissue and air > config.max_empty:
        return f"shows no body: {100 * air:.0f} % of its voxels are air (−1000)."
    if soft < config.min_soft_tissue:
        return f"its values are no HU of a patient: {100 * soft:.1f} % of the voxels are soft tissue (−150 to 150); {span}."
    dark, dense = float((inside < _AIR[0]).mean()), float((inside > _DENSE).mean())
    if dense > config.max_dense or (dark > config.max_dark and soft < config.max_dark):
        what = f"denser than bone ({_DENSE:.0f})" if dense > config.max_dense else "darker than air (−1000)"
        return f"its values are no HU: {100 * max(dense, dark):.0f} % of the voxels are {what}; {span}."
    if air >= config.min_air:
        return ""
    lung = _share(inside, (_AIR[1], -500.0))
    organ = soft > config.min_organ and high - low > config.min_organ_span and float((inside < 0).mean()) > config.min_fat
    if _share(inside, _FAT) < config.min_fat and lung < config.min_fat and not organ:
        guess = "Scaled to 8 or 12 bit, a label map, or no CT?"
        return f"its values are no HU: they show neither air (−1000) nor fat (−100); {span}. {guess}"
    lowest = float(inside.min())
    if lowest > -500 and float((inside == lowest).mean()) > config.min_clipped:
        return f"its values are clipped at {lowest:.4g}, or masked with it: they show no air (−1000)."
    counts = np.unique(inside, return_counts=True)
    if counts[1].max() > config.min_masked * len(inside):
        return f"its values are masked with {counts[0][counts[1].argmax()]:.4g}: they show no air (−1000)."
    return ""


def _refusal(finding: HuFinding, rule: HuRule) -> str:
    return finding.problem if rule.name != "offset" else f"after adding {rule.offset:g}, {finding.problem}"


def _remedy(finding: HuFinding, rule: HuRule) -> str:
    if rule.name == "offset":
        return "Give another number, or as-is to use the file's values unchecked (--hu, server_hu)."
    if finding.shift:
        return f"Correct that with --hu auto or --hu {-finding.shift} (server: server_hu), or export the CT again in HU."
    return (
        "Export the CT again in HU. If only a number has to be added, name it with --hu (server: server_hu); as-is uses the "
        "values unchecked."
    )
