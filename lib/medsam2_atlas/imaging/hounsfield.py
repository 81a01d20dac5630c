"""Checks that a CT's values are Hounsfield units (HU), and corrects a constant offset on request.

Registration, prompts and networks rely on HU: air is near −1000, fat near −100, soft tissue between 0 and 150. Some tools write
CTs without the rescale intercept (+1024), shifted by 1000, with the intercept applied twice (−1024), or scaled to 8 or 12 bit;
none of these gives a usable label map. `read_ct` checks and corrects the values by a rule (`HuRule`), so all code that
uses a CT's values reads the CT with `read_ct`. Code that needs only the grid or the unchanged voxels uses `read_volume`.

The check samples up to 200,000 evenly spread voxels, so that its time does not depend on the size of the CT. Its limits are
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
"""Known offsets of a file's values from HU: 1024 without an intercept, 1000 if air is 0; negative if subtracted twice."""

_MAX_SAMPLE = 200_000
"""Max number of sampled voxels; a fraction of 0.5 % is then accurate to 0.02 %."""
_AIR = (-1100.0, -850.0)
"""HU of air outside the body and in bowel and airways, including the noise of a low-dose CT; lung is denser."""
_SOFT = (-150.0, 150.0)
"""HU of fat, muscle, organs and blood, without dense contrast medium and bone."""
_FAT = (-140.0, -50.0)
_BELOW_AIR = -1150.0
"""Lower values than those of noisy air: padding outside the field of view (−2000, −3024), or dark streaks of metal."""
_DENSE = 850.0
"""HU that only cortical bone, metal and excreted contrast medium exceed: 0.06 to 0.3 % of the voxels in three patients' CTs."""
_BEYOND_BONE = 3200.0
"""Value that HU of a body rarely exceed even if they are 1024 too high: the densest bone has about 2000 HU."""
_AIR_PEAK = -998.0
"""Most frequent HU of air around patients: −995 to −1003 in two patients' CTs and in the phantoms."""
_FAT_PEAK = -100.0


@dataclass(frozen=True)
class HuRule:
    """The rule that turns a file's values into HU.

    Attributes:
        name: `check`: the values are HU; refuse them if they are implausible. `auto`: as `check`, but correct a known offset
            (`OFFSETS`). `as-is`: use the values unchecked. `offset`: add `offset`, then check.
        offset: the number that the rule `offset` adds, in HU.
    """

    name: str = "check"
    offset: float = 0.0

    @classmethod
    def parse(cls, text: str) -> HuRule:
        """Returns the rule of a setting: `check`, `auto`, `as-is`, or a number to add.

        Raises:
            InputError: the text is none of these.

        >>> HuRule.parse("-1024").offset
        -1024.0
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
                repr(text[:40]), "is not a rule for HU.", "Choose check, auto, as-is, or a number to add, such as -1024."
            )
        return cls("offset", number)

    def __str__(self) -> str:
        return f"{self.offset:.10g}" if self.name == "offset" else self.name


CHECK = HuRule()


@dataclass(frozen=True)
class HuFinding:
    """The result of checking a CT's values.

    Attributes:
        problem: the reason why the values cannot be HU; empty if they are plausible.
        shift: their known offset from HU, one of `OFFSETS`; 0 if they are plausible or the offset is unknown.
        air: fraction of voxels with the HU of air, 0..1, without padding.
        soft_tissue: fraction of voxels with the HU of soft tissue, 0..1, without padding.
    """

    problem: str
    shift: int
    air: float
    soft_tissue: float


def examine(values: np.ndarray, added: float = 0.0) -> HuFinding:
    """Returns whether values are plausible HU of a CT, and their offset from HU if it is a known one.

    A CT needs soft tissue, and air or fat: a crop inside the body may lack air. Padding is excluded: it is the exact lowest
    value, if that is below air and frequent.

    Args:
        values: values of the CT, `[z, y, x]`, any number type.
        added: number to add to the values before the check.
    """
    sample = _sampled(values) + np.float32(added)
    lowest = float(sample.min())
    flat = sample == lowest
    padding = flat if lowest < _BELOW_AIR and flat.mean() > hu_check_config().min_padding else np.zeros(len(sample), bool)
    inside = sample[~padding]
    if not len(inside):  # all sampled voxels have the same value
        inside = sample
    air, soft = _share(inside, _AIR), _share(inside, _SOFT)
    shifts = _known_shift(sample, flat)
    if shifts:
        distance = " or ".join(str(abs(shift)) for shift in shifts)
        how = f"its values are {distance} too {'high' if shifts[0] > 0 else 'low'} for HU"
        if len(shifts) > 1:
            return HuFinding(f"{how}: there is too little air to decide which.", 0, air, soft)
        return HuFinding(f"{how}: air is near {shifts[0] - 1000}, soft tissue near {shifts[0] + 40}.", shifts[0], air, soft)
    return HuFinding(_problem(inside, air, soft), 0, air, soft)


def to_hu(image: Volume, rule: HuRule = CHECK) -> Volume:
    """Returns a CT in HU; its `hu` records the rule, the added offset and the result of the check.

    Args:
        image: the CT; its array is `[z, y, x]`.
        rule: how values become HU.

    Raises:
        InputError: the values are not plausible HU, and the rule neither corrects nor accepts them.
    """
    added = rule.offset
    finding = examine(image.array, added)
    if rule.name == "auto" and finding.shift:
        added = float(-finding.shift)
    elif finding.problem and rule.name != "as-is":
        raise InputError(image.source, _refusal(finding, rule), _remedy(finding, rule))
    record: dict[str, Any] = {
        "rule": str(rule),
        "offset": added,
        "found": finding.problem or "plausible",
        "air": round(finding.air, 4),
        "soft_tissue": round(finding.soft_tissue, 4),
    }
    if not added:
        return replace(image, hu=record)
    return replace(image, array=image.array + np.float32(added), hu=record)


def read_ct(path: str | Path, rule: HuRule = CHECK) -> Volume:
    """Returns a CT in HU: reads it as `read_volume` does, then applies a rule.

    Args:
        path: file or folder of the CT.
        rule: how values become HU.

    Raises:
        InputError: the CT cannot be read, or its values are not HU; see `to_hu`.
    """
    return to_hu(read_volume(path), rule)


def _sampled(values: np.ndarray) -> np.ndarray:
    """Returns every n-th voxel as float32. n is coprime to a slice's number of voxels, so that all rows and columns are hit."""
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
    """Returns the known offsets from HU that fit the values: none, one, or two if the values do not decide between them.

    Voxels with exactly the lowest value are excluded if they are many: they are padding, or air that was clipped.
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
    """Returns whether soft tissue has values near 1012, and hardly any voxel has the HU of lung or air.

    Dense bone and contrast medium have 850 to 1200 HU too, but then less dense bone and contrast medium are more frequent.
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
    """Returns whether soft tissue has values near −1012, hardly any voxel has its real HU, and some values are below −1500."""
    config = hu_check_config()
    if _share(rest, (_SOFT[0] + 50, _SOFT[1])) > config.max_unshifted or _share(rest, _SOFT, -1012) < config.min_shifted:
        return False
    return float((rest < -1500).mean()) > config.min_padding


def _by_air(sample: np.ndarray, flat: np.ndarray, rest: np.ndarray, sign: int) -> int | None:
    """Returns the known offset of the given sign that fits the HU of air; None if there is too little air to decide.

    Gas in the body is not used: with partial volumes it is up to 40 HU denser than the air around the patient.
    """
    config = hu_check_config()
    floor = float(sample.min()) if flat.mean() > config.min_clipped else None
    for shift in (1024 * sign, 1000 * sign):
        around = (shift - 1090.0, shift - 880.0)
        air = _without_fill(rest[(rest >= around[0]) & (rest <= around[1])])
        outside = len(air) > config.min_outer_air * len(rest)
        if outside and abs(_peak(air, *around) - shift - _AIR_PEAK) <= config.peak_tolerance:
            return shift
    for shift in (1024 * sign, 1000 * sign):  # air with a single value is −1000, or −1024 if the peak of fat agrees
        fat = (shift - 160.0, shift - 40.0)
        known = floor == shift - 1024 and _share(rest, fat) > config.min_fat_peak
        if floor == shift - 1000 or (known and abs(_peak(rest, *fat) - shift - _FAT_PEAK) <= config.peak_tolerance):
            return shift
    return None


def _without_fill(air: np.ndarray) -> np.ndarray:
    """Returns air voxels without the most frequent value, if so many have it that it fills the outside of the field of view."""
    if not len(air):
        return air
    values, counts = np.unique(air, return_counts=True)
    return air[air != values[counts.argmax()]] if counts.max() > hu_check_config().max_filled * len(air) else air


def _peak(values: np.ndarray, low: float, high: float) -> float:
    """Returns the most frequent value between two bounds; counts are summed over a sliding window of 12 HU."""
    counts, edges = np.histogram(values, np.arange(low, high + 2, 2))
    return float(edges[int(np.convolve(counts, np.ones(6), "same").argmax())] + 1)


def _problem(inside: np.ndarray, air: float, soft: float) -> str:
    """Returns the reason why values without a known offset cannot be HU; empty if they can be HU."""
    config = hu_check_config()
    low, high = (float(v) for v in np.percentile(inside, (1, 99)))
    span = f"98 % of them lie between {low:.4g} and {high:.4g}"
    if soft < config.min_soft_tissue and air > config.max_empty:
        return f"shows no body: {100 * air:.0f} % of its voxels are air (−1000)."
    if soft < config.min_soft_tissue:
        return f"its values are not HU of a patient: {100 * soft:.1f} % of the voxels are soft tissue (−150 to 150); {span}."
    dark, dense = float((inside < _AIR[0]).mean()), float((inside > _DENSE).mean())
    if dense > config.max_dense or (dark > config.max_dark and soft < config.max_dark):
        what = f"denser than bone ({_DENSE:.0f})" if dense > config.max_dense else "darker than air (−1000)"
        return f"its values are not HU: {100 * max(dense, dark):.0f} % of the voxels are {what}; {span}."
    if air >= config.min_air:
        return ""
    lung = _share(inside, (_AIR[1], -500.0))
    organ = soft > config.min_organ and high - low > config.min_organ_span and float((inside < 0).mean()) > config.min_fat
    if _share(inside, _FAT) < config.min_fat and lung < config.min_fat and not organ:
        guess = "Is it scaled to 8 or 12 bit, a label map, or not a CT?"
        return f"its values are not HU: they contain neither air (−1000) nor fat (−100); {span}. {guess}"
    lowest = float(inside.min())
    if lowest > -500 and float((inside == lowest).mean()) > config.min_clipped:
        return f"its values are clipped at {lowest:.4g}, or masked with it: they contain no air (−1000)."
    counts = np.unique(inside, return_counts=True)
    if counts[1].max() > config.min_masked * len(inside):
        return f"its values are masked with {counts[0][counts[1].argmax()]:.4g}: they contain no air (−1000)."
    return ""


def _refusal(finding: HuFinding, rule: HuRule) -> str:
    return finding.problem if rule.name != "offset" else f"after adding {rule.offset:g}, {finding.problem}"


def _remedy(finding: HuFinding, rule: HuRule) -> str:
    if rule.name == "offset":
        return "Give another number, or as-is to use the file's values unchecked (--hu, server_hu)."
    if finding.shift:
        return f"Correct that with --hu auto or --hu {-finding.shift} (server: server_hu), or export the CT again in HU."
    return (
        "Export the CT again in HU. If a number must be added to its values, give it with --hu (server: server_hu); as-is uses "
        "the values unchecked."
    )
