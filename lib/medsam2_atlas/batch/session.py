"""The models of a process that works on a batch, loaded once."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.overlay import choose_settings
from medsam2_atlas.base.progress import current
from medsam2_atlas.batch.job import Job
from medsam2_atlas.imaging.hounsfield import HuRule
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.registration import RegistrationCache, registration_config
from medsam2_atlas.registration.transform import Transform
from medsam2_atlas.scoremaps import STEPS, Target, fusion_config
from medsam2_atlas.segmenters.base import Provenance, Segmenter
from medsam2_atlas.segmenters.registry import family_of
from medsam2_atlas.studies.models import Models

log = logging.getLogger(__name__)

REGISTRATIONS = "registrations"


@dataclass(frozen=True)
class PassingRegistrations(RegistrationCache):
    """Registrations that are kept on disk until their case is done, so that one worker registers and another one segments."""

    used: list[Path] = field(default_factory=list, compare=False)
    """Files of the registrations that were used since the list was emptied."""

    def get(self, key: str, make: Callable[[], Transform]) -> Transform:
        """Returns the transform of a key; computes and stores it if it is missing."""
        found = super().get(key, make)
        self.used.append(self.folder / f"{key}.npz")
        return found


class BatchModels(Models):
    """Models of a batch: CTs are not kept open, and registrations only until their case is done."""

    def __init__(self, job: Job, kept_scores: int) -> None:
        """Checks the names of folders; loads nothing.

        Args:
            job: the job.
            kept_scores: number of CTs whose score maps are kept, at least those between registration and network.
        """
        super().__init__(job.conf, hu=HuRule.parse(job.hu), kept_scores=kept_scores)
        self.passing = PassingRegistrations(job.parts / REGISTRATIONS)

    @property
    def registrations(self) -> RegistrationCache | None:
        """The registrations of unfinished cases."""
        return self.passing

    def scores(self, volume: Volume) -> None:
        """Registers a CT (`[z, y, x]` in HU) and makes its score maps, which are kept for the network's step."""
        self.score_maps(volume, self.atlas())

    def align(self, volume: Volume) -> None:
        """Registers a CT (`[z, y, x]` in HU), for a process that makes its score maps from the stored registration."""
        target = Target(volume, self.atlas(), registration_config(), self.registrations)
        STEPS[0](target, fusion_config(), current())


class ChangedModelsError(InputError):
    """Atlas or weights were replaced while a batch ran."""


class Session:
    """A job and its loaded models."""

    def __init__(self, job: Job, *, kept_scores: int = 1) -> None:
        """Sets the threads and the method of this process; loads nothing else.

        Args:
            job: the job.
            kept_scores: see `BatchModels`.

        Raises:
            InputError: the job's segmenter, HU rule or folders are unknown.
        """
        self.job = job
        if job.as_published:
            from medsam2_atlas.studies.as_published import use_published_method

            use_published_method()
        if job.registration is not None:
            choose_settings("registration.yaml", {"method": job.registration})
        if job.threads:
            limit_threads(job.threads)
        self.models = BatchModels(job, kept_scores)

    @cached_property
    def segmenter(self) -> Segmenter:
        """The segmenter."""
        if not self.job.source:
            return self.models.segmenter(self.job.segmenter)
        module, _, name = self.job.source.partition(":")
        made: Segmenter = getattr(importlib.import_module(module), name)(self.job.segmenter, self.models)
        return made

    @property
    def registers(self) -> bool:
        """Whether a case begins with a registration, which needs no network."""
        prompted = not self.job.source and family_of(self.job.segmenter).role == "prompted"
        return prompted and self.job.options.prompts in ("atlas", "both")

    def keyed(self) -> Job:
        """Returns the job with the key of what this process would compute.

        Raises:
            MedSAM2AtlasError: the segmenter lacks something, or an option cannot be used.
        """
        return self.job.keyed(self.keyed_provenance())

    def keyed_provenance(self) -> Provenance:
        """Returns the segmenter's provenance on the CPU, from which keys are made, as other machines may have GPUs.

        Raises:
            MedSAM2AtlasError: the segmenter lacks something, or an option cannot be used.
        """
        return self.segmenter.provenance(replace(self.job.options, memory="cpu"))

    def check_unchanged(self) -> None:
        """Checks after a case that the models are still those of the job's key, as they are loaded again if files change.

        Raises:
            ChangedModelsError: an atlas, weights or settings were replaced.
        """
        if self.job.key and self.keyed().key != self.job.key:
            problem = "changed while the batch ran, so its results would not be what the manifest says."
            raise ChangedModelsError("atlas or weights", problem, "Run the same command again, and leave them alone meanwhile.")

    def check(self) -> None:
        """Loads what the segmenter needs, and checks that it is what the job's key was made of.

        Raises:
            MedSAM2AtlasError: something is missing, or this process would compute something else.
        """
        self.segmenter.check()
        if self.job.key and self.keyed().key != self.job.key:
            raise InputError(
                "worker",
                "would compute other results than the batch asks for: its version, settings or files differ.",
                "Install the same version of medsam2_atlas with the same configs/ on all machines.",
            )


def limit_threads(threads: int) -> None:
    """Sets the number of threads of PyTorch and ITK. Results on the CPU depend on it in the last digits."""
    import SimpleITK as sitk
    import torch

    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(min(threads, _itk_threads()))


@cache
def _itk_threads() -> int:
    """Returns ITK's own number of threads, before this process has changed it."""
    import SimpleITK as sitk

    return sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
