"""Batches: segments many CTs, on one machine or on a Dask cluster. What is done is never lost and never done twice.

`segment` and `segment_many` are the Python interface. Names are imported at first use, because PyTorch takes seconds to import.
"""

from typing import TYPE_CHECKING

from medsam2_atlas.base.lazy import lazy_exports

if TYPE_CHECKING:
    from medsam2_atlas.batch.api import segment, segment_many
    from medsam2_atlas.batch.config import BatchConfig, batch_config
    from medsam2_atlas.batch.job import Job
    from medsam2_atlas.batch.manifest import Manifest
    from medsam2_atlas.batch.run import Batch, Ended, run_batch
    from medsam2_atlas.batch.tally import Tally

__getattr__ = lazy_exports(
    __name__,
    {
        "Batch": "run",
        "BatchConfig": "config",
        "Ended": "run",
        "Job": "job",
        "Manifest": "manifest",
        "Tally": "tally",
        "batch_config": "config",
        "run_batch": "run",
        "segment": "api",
        "segment_many": "api",
    },
)

__all__ = [
    "Batch",
    "BatchConfig",
    "Ended",
    "Job",
    "Manifest",
    "Tally",
    "batch_config",
    "run_batch",
    "segment",
    "segment_many",
]
