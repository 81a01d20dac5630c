"""The energy of a U-Net's training: added up while it runs, kept in `stats.json`, and read for trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from medsam2_atlas.base.energy import Meter, Spent, rounded
from medsam2_atlas.base.files import sha256, text_of
from medsam2_atlas.base.json_text import from_json

STATS_FILE = "stats.json"


class TrainingEnergy(BaseModel):
    """The energy of a training.

    Attributes:
        watt_hours: energy, Wh; None if no part of the training was measured.
        co2_grams: CO2e, g; None if unknown.
        how: what was measured and what estimated; or why a part was not measured.
        complete: whether the values contain all work. If not, they are lower bounds.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    watt_hours: float | None = Field(None, ge=0)
    co2_grams: float | None = Field(None, ge=0)
    how: str = ""
    complete: bool = False


class _Stats(BaseModel):
    """The fields of `stats.json` that concern energy."""

    state: Literal["running", "stopped", "finished"] = "running"
    energy: TrainingEnergy | None = None
    best_sha256: str = ""
    started_from: dict[str, Any] | None = None


_UNKNOWN = TrainingEnergy(watt_hours=None, co2_grams=None, how="not measured: an earlier part of the training")


class RunEnergy:
    """Adds up the energy of a training run, over all its parts if it was interrupted.

    The sum is complete if each part was measured from its start to its end. The work of a part that was killed, since its last
    checkpoint, is unknown.
    """

    def __init__(self) -> None:
        self._spent, self._hows = Spent(), list[str]()
        self._measured, self._complete, self._ended = False, True, True
        self._meter: Meter | None = None
        self._counted: tuple[float, float | None] = (0.0, 0.0)

    def start(self) -> None:
        """Begins to measure."""
        self._meter, self._counted, self._ended = Meter(), (0.0, 0.0), False
        self._meter.start()

    def lap(self) -> None:
        """Adds the work until now, and continues to measure. Does nothing if nothing is being measured."""
        if self._meter is not None:
            self._meter.lap()
            self._count(self._meter)

    def stop(self) -> None:
        """Adds the work until now, and ends the measurement. Does nothing if nothing is being measured."""
        meter, self._meter, self._ended = self._meter, None, True
        if meter is not None:
            meter.stop()
            self._count(meter)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Adds the energy of the block."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    def resume(self, folder: Path, kept: Any) -> None:
        """Adds the energy of the earlier parts of an interrupted run.

        Args:
            folder: the run's folder; its statistics contain the parts until the last checkpoint, or until an error ended them.
            kept: the energy in the checkpoint, used if the statistics cannot be read.
        """
        stats = _read(folder / STATS_FILE)
        if stats is None or stats.energy is None or stats.state == "finished":  # finished: statistics of the run before this
            stats = _checked({"energy": kept}) or _Stats()
        before = stats.energy or _UNKNOWN
        self._complete = self._complete and before.complete and stats.state == "stopped"
        self._hows = [before.how, *(how for how in self._hows if how not in before.how)]
        if before.watt_hours is not None:
            self._measured = True
            self._spent.add(before.watt_hours, before.co2_grams)

    def to_json(self) -> dict[str, Any]:
        """Returns the sum as JSON values, with the fields of `TrainingEnergy`. It is not complete while the run goes on."""
        return {
            "watt_hours": rounded(self._spent.watt_hours) if self._measured else None,
            "co2_grams": rounded(self._spent.co2_grams) if self._measured else None,
            "how": "; then ".join(self._hows),
            "complete": self._measured and self._complete and self._ended,
        }

    def _count(self, meter: Meter) -> None:
        found = meter.reading()
        if found.how not in "; then ".join(self._hows):
            self._hows.append(found.how)
        if found.watt_hours is None:
            self._complete = False
            return
        energy, emitted = self._counted
        known = found.co2_grams is not None and emitted is not None
        self._spent.add(found.watt_hours - energy, found.co2_grams - emitted if known else None)  # type: ignore[operator]
        self._measured, self._counted = True, (found.watt_hours, found.co2_grams)


def training_energy(weights: Path) -> TrainingEnergy | None:
    """Returns the energy of the training that made weights.

    It is read from `stats.json` in the folder of the weights. The training of weights that the run started from is not
    contained, so the energy is not complete then.

    Args:
        weights: the file `best.pt` of a run.

    Returns:
        The energy; None if it is unknown, because the file is not the best one of the run in its folder, or an earlier release
        trained it.
    """
    stats = _read(weights.with_name(STATS_FILE))
    try:
        if stats is None or stats.energy is None or stats.best_sha256 != sha256(weights):
            return None
    except OSError:
        return None
    return stats.energy.model_copy(update={"complete": stats.energy.complete and stats.started_from is None})


def _read(file: Path) -> _Stats | None:
    try:
        return _checked(from_json(text_of(file)))
    except (OSError, ValueError):
        return None


def _checked(content: Any) -> _Stats | None:
    try:
        return _Stats.model_validate(content)
    except ValueError:
        return None
