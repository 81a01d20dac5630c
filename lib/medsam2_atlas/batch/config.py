"""How batches run; values in `configs/batch.yaml`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.resource import resource


class BatchConfig(Settings):
    """How batches run. Results do not depend on these settings."""

    attempts: int = Field(4, ge=1, description="max attempts at a case whose problem may pass, such as a PACS that is away")
    first_pause: float = Field(2, ge=0, description="seconds before the second attempt; doubled before each further one")
    max_pause: float = Field(300, ge=0, description="max seconds before an attempt")
    read_ahead: int = Field(
        2, ge=1, description="max CTs that wait, read and registered, for the network; each takes the memory of a CT"
    )
    window: int = Field(
        3,
        ge=1,
        description="max cases in the cluster for each thread of its workers, so that thousands do not wait in its memory",
    )
    lost_after: float = Field(600, ge=0, description="seconds without the cluster's scheduler after which a batch gives up")
    stalled_after: float = Field(
        86400, ge=0, description="seconds without any worker after which a batch gives up; a cluster's queue may be long"
    )
    max_table_mb: float = Field(100, gt=0, description="max MB of a table of inputs")
    max_items: int = Field(1_000_000, ge=1, description="max number of inputs")


@read_once
def batch_config(file: Path | None = None) -> BatchConfig:
    """Reads the settings from a file, by default `configs/batch.yaml`.

    Raises:
        InputError: the file does not contain valid settings.
    """
    return read_config(BatchConfig, file or resource("configs/batch.yaml"), "configuration of batches")
