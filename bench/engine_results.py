"""The results of `engine.py`, as they are stored in JSON, and the model of cases that are too long to measure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from medsam2_atlas.base.files import text_of, write_json

Cost = tuple[float, float]
"""The cost of a component's call without memories, and of each memory."""


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Calls(_Stored):
    """The calls of a component with the same number of memories.

    Attributes:
        memories: the number of memories; 0 except for the memory attention.
        calls: the number of calls.
        cpu: their CPU seconds; 0 in a count without measurement.
    """

    memories: int
    calls: int
    cpu: float = 0.0


class Run(_Stored):
    """A run of a loop in its own process.

    Attributes:
        loop: `published`, `exact` or `fast`.
        threads: the number of threads.
        passes: the number of passes.
        cpu: CPU seconds.
        wall: seconds.
        start_gib: the process's memory before the run, with libraries and weights.
        peak_gib: the process's highest memory.
        rates: GFLOP per CPU second of matrix products, by library, right before and after the run (the higher one).
        arithmetic: the library that the engine chose; empty for the published loop.
        components: the calls of each component.
        error: the mean and the largest difference of logits from the published loop's; None if not compared.
        dice: the mean and the lowest Dice of an organ to the exact mode's masks; None if not compared.
    """

    loop: str
    threads: int
    passes: int
    cpu: float
    wall: float
    start_gib: float
    peak_gib: float
    rates: dict[str, float]
    arithmetic: str
    components: dict[str, tuple[Calls, ...]]
    error: tuple[float, float] | None = None
    dice: tuple[float, float] | None = None

    @property
    def seconds(self) -> dict[str, float]:
        """CPU seconds by component, and of everything else."""
        found = {name: sum(part.cpu for part in parts) for name, parts in self.components.items()}
        return found | {"everything else": max(0.0, self.cpu - sum(found.values()))}

    def unit_costs(self) -> dict[str, Cost]:
        """Returns the mean CPU seconds of a component's call: a line over the number of memories for the memory attention."""
        costs: dict[str, Cost] = {}
        for name, parts in self.components.items():
            count = np.array([part.calls for part in parts], float)
            mean = np.array([part.cpu / part.calls for part in parts])
            memories = np.array([part.memories for part in parts], float)
            if len(parts) == 1:
                costs[name] = (float(mean[0]), 0.0)
            else:
                slope, start = np.polyfit(memories, mean, 1, w=np.sqrt(count))
                costs[name] = (float(start), float(slope))
        return costs


class CaseResult(_Stored):
    """The runs of a case.

    Attributes:
        slices: the slices of the CT.
        organs: the number of organs.
        lengths: the number of slices of each organ.
        rows: the rows and columns of the CT.
        runs: the measured runs.
        counts: the calls that two passes of a full-size case need, by loop and component; empty for measured cases.
    """

    slices: int
    organs: int
    lengths: tuple[int, ...]
    rows: tuple[int, int]
    runs: tuple[Run, ...] = ()
    counts: dict[str, dict[str, tuple[Calls, ...]]] = {}

    def run(self, loop: str, threads: int = 1) -> Run | None:
        """Returns the run of a loop; None if it was not measured."""
        return next((run for run in self.runs if (run.loop, run.threads) == (loop, threads)), None)


class Results(_Stored):
    """All results of a machine.

    Attributes:
        processor: the name of the processor.
        cores: the number of cores.
        torch: the version of PyTorch.
        operations: GFLOP per call of the official network's components, by loop.
        cases: the cases by name.
    """

    processor: str
    cores: int
    torch: str
    operations: dict[str, dict[str, Cost]]
    cases: dict[str, CaseResult] = {}

    @classmethod
    def read(cls, file: Path) -> Results:
        """Reads results that `write` has written."""
        return cls.model_validate_json(text_of(file))

    def write(self, file: Path) -> None:
        """Writes the results as JSON."""
        write_json(self.model_dump(mode="json"), file)

    def with_case(self, name: str, case: CaseResult) -> Results:
        """Returns the results with a new or another case. Runs of other loops and threads are kept if the case is the same."""
        old = self.cases.get(name)
        if old and (old.slices, old.lengths) == (case.slices, case.lengths):
            new = {(run.loop, run.threads) for run in case.runs}
            kept = tuple(run for run in old.runs if (run.loop, run.threads) not in new)
            case = case.model_copy(update={"runs": (*kept, *case.runs), "counts": case.counts or old.counts})
        return self.model_copy(update={"cases": {**self.cases, name: case}})


def modelled(counts: Mapping[str, tuple[Calls, ...]], costs: Mapping[str, Cost]) -> dict[str, float]:
    """Returns counts times costs by component."""
    return {
        name: sum(part.calls * (costs[name][0] + costs[name][1] * part.memories) for part in parts)
        for name, parts in counts.items()
        if name in costs
    }
