"""The Python interface: segments one CT (`segment`), or many (`segment_many`)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medsam2_atlas.batch.job import Job, Results
from medsam2_atlas.batch.run import Batch, Ended, run_batch
from medsam2_atlas.batch.tally import Watch, unwatched
from medsam2_atlas.imaging.hounsfield import HuRule
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.base import Options, Segmentation
from medsam2_atlas.segmenters.registry import preferred
from medsam2_atlas.studies.models import Models
from medsam2_atlas.studies.runner import run

DEFAULT = preferred("prompted")
"""Name of the default segmenter."""


def segment(
    volume: Volume | str | os.PathLike[str],
    atlas: str | os.PathLike[str] | None = None,
    *,
    segmenter: str = DEFAULT,
    organs: Iterable[str | int] = (),
    hu: str = "check",
    device: str = "auto",
    models: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Segmentation:
    """Segments one CT.

    Args:
        volume: the CT: a volume (`[z, y, x]` in HU), a file, or the folder of a DICOM series.
        atlas: folder of the atlas; by default, the one that commands use.
        segmenter: name of the segmenter; see docs/method.md.
        organs: names or numbers of the organs; all by default.
        hu: conversion of a file's values to HU; see `HuRule`.
        device: device of the networks.
        models: further paths by key, such as `checkpoint` and `unet_3d`; see `studies.models.Models`.
        options: further fields of `segmenters.base.Options`, such as `{"mode": "fast"}`.

    Returns:
        The label map, `[z, y, x]` uint8 on the grid of the CT, and the report.

    Raises:
        MedSAM2AtlasError: something is missing, or the CT or an option cannot be used.

    Example:
        >>> import numpy as np
        >>> from medsam2_atlas import segment
        >>> from medsam2_atlas.imaging.volume import Geometry, Volume
        >>> grid = Geometry(size=(48, 48, 32), spacing=(3.0, 3.0, 3.0), origin=(0.0, 0.0, 0.0))
        >>> ct = Volume((np.arange(32 * 48 * 48).reshape(32, 48, 48) % 200).astype(np.int16), grid, grid)
        >>> segment(ct, segmenter="unet_3d", device="cpu").labels.array.shape
        (32, 48, 48)
    """
    job = _job(atlas, segmenter, organs, hu, device, models, options)
    resources = Models(job.conf, hu=HuRule.parse(hu))
    source = volume if isinstance(volume, Volume) else Path(volume)
    return run(resources.segmenter(segmenter), source, job.options, resources, "not measured").segmentation


def segment_many(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    atlas: str | os.PathLike[str] | None = None,
    *,
    segmenter: str = DEFAULT,
    results: Results = "nifti",
    cluster: str = "",
    workers: int = 0,
    threads: int = 0,
    organs: Iterable[str | int] = (),
    hu: str = "check",
    device: str = "auto",
    models: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    watch: Watch = unwatched,
) -> Ended:
    """Segments all CTs of a folder, a table or a PACS, as `medsam2-atlas batch` does. It continues what an earlier call began.

    A case that fails does not raise an error; `Ended.tally.failed` and the manifest give the reason. On a cluster `local`, call
    it below `if __name__ == "__main__":`, as workers import the main module.

    Args:
        source: a folder, a CSV file with a column `image`, or the DICOMweb URL of a PACS.
        out: folder of the outputs.
        atlas: folder of the atlas; by default, the one that commands use.
        segmenter: name of the segmenter; see docs/method.md.
        results: form of the results; see `job.Results`.
        cluster: `local`, the address of a Dask scheduler, or a YAML file; empty: this process alone.
        workers: number of workers of `local`; 0 chooses it.
        threads: threads of PyTorch in each process; 0: PyTorch's own number, 1 on a cluster.
        organs: names or numbers of the organs; all by default.
        hu: conversion of files' values to HU; see `HuRule`.
        device: device of the networks.
        models: further paths by key; see `segment`.
        options: further fields of `segmenters.base.Options`.
        watch: is called with the state (`tally.Tally`) whenever it has changed; may raise an exception to stop.

    Raises:
        MedSAM2AtlasError: the source, an option or the cluster cannot be used, or another batch writes to the folder.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from medsam2_atlas import segment_many
        >>> from medsam2_atlas.imaging.volume import Geometry, Volume, write_volume
        >>> grid = Geometry(size=(48, 48, 32), spacing=(3.0, 3.0, 3.0), origin=(0.0, 0.0, 0.0))
        >>> ct = Volume((np.arange(32 * 48 * 48).reshape(32, 48, 48) % 200).astype(np.int16), grid, grid)
        >>> with tempfile.TemporaryDirectory() as cts, tempfile.TemporaryDirectory() as out:
        ...     write_volume(ct, f"{cts}/first.nii.gz")
        ...     write_volume(ct, f"{cts}/second.nii.gz")
        ...     ended = segment_many(cts, out, segmenter="unet_3d", hu="as-is", device="cpu")
        ...     print(ended.tally.done, sorted(file.name for file in (ended.manifest.parent / "labels").iterdir()))
        2 ['first.nii.gz', 'second.nii.gz']
    """
    job = _job(atlas, segmenter, organs, hu, device, models, options, results=results, threads=threads, parts=Path(out))
    return run_batch(Batch(os.fspath(source), Path(out), job, cluster, workers), watch)


def _job(
    atlas: str | os.PathLike[str] | None,
    segmenter: str,
    organs: Iterable[str | int],
    hu: str,
    device: str,
    models: Mapping[str, str] | None,
    options: Mapping[str, Any] | None,
    **further: Any,
) -> Job:
    conf = dict(models or {}) | {"device": device} | ({} if atlas is None else {"atlas": os.fspath(atlas)})
    chosen = tuple(organ_table().select(str(organ) for organ in organs))
    found = Options(organs=chosen, **(options or {}))
    return Job(segmenter, conf=conf, options=found, hu=str(HuRule.parse(hu)), **({"parts": Path()} | further))
