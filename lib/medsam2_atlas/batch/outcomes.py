"""The ends of attempts at a case, as workers send them to the process that keeps the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam2_atlas.batch.items import Item
from medsam2_atlas.segmenters.base import Provenance


@dataclass(frozen=True)
class Done:
    """The result of an item, not yet at its final place.

    Attributes:
        part: the output file in the folder for parts.
        sha256: its SHA-256.
        input_sha256: SHA-256 of the CT; see `items.content_sha256`.
        report: the segmenter's report, as JSON values.
        provenance: provenance of the result, with device and precision.
        seconds: wall time of `prepare`, `segment` and `write`, in s.
        kept: whether it is a valid result of an earlier run, so that nothing was computed.
    """

    part: Path
    sha256: str
    input_sha256: str
    report: dict[str, Any]
    provenance: Provenance
    seconds: dict[str, float]
    kept: bool = False


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt at an item.

    Attributes:
        item: the item.
        done: the result; None if the attempt failed.
        reason: why it failed.
        passing: whether a later attempt may succeed.
        away: whether a PACS or a network drive does not answer, so that new cases should wait.
        fatal: whether all other items would fail, too, as on a full disk or if the models were replaced or removed.
        unusable: whether all items would fail with the models of this process; if not `fatal`, perhaps not on other workers.
        worker: who made the attempt; empty for this process.
        missing: checksums of what a worker lacks: model files, or the job; see `shipping`.
        prepared: name of the prepared CT in the folder for parts, if another worker continues; see `prepared`.
        prepared_by: who prepared it, if that was another worker.
    """

    item: Item
    done: Done | None = None
    reason: str = ""
    passing: bool = False
    away: bool = False
    fatal: bool = False
    unusable: bool = False
    worker: str = ""
    missing: tuple[str, ...] = ()
    prepared: str = ""
    prepared_by: str = ""
