"""The setting of an experiment: its variants, models, options and results folder.

A setting is a plain value, so that worker processes can receive it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from medsam2_atlas.base.choices import DEFAULT_THRESHOLDS, Loop, Mode, RegistrationMethod, ThresholdRule
from medsam2_atlas.base.errors import StorageError
from medsam2_atlas.experiment.variant import Variant
from medsam2_atlas.imaging.hounsfield import HuRule
from medsam2_atlas.segmenters.base import Options
from medsam2_atlas.studies.as_published import published_options
from medsam2_atlas.studies.models import Models


@dataclass(frozen=True)
class Setting:
    """The setting of an experiment.

    Attributes:
        out: folder of the results.
        variants: what is run on each case, in the order of the tables.
        organs: numbers of the organs that the ground truth annotates completely.
        conf: paths and device of the models; see `studies.models.Models`.
        atlases: atlas folder by number of references, for variants with fewer references.
        hu: text of the rule that converts CT values to HU.
        prompts: source of the first boxes; see `Options.prompts`.
        loop: propagation loop; see `Options.loop`.
        mode: mode of MedSAM2; see `Options.mode`.
        thresholds: threshold rule; see `Options.thresholds`.
        fill_holes: see `Options.fill_holes`.
        as_published: whether the published method is switched on.
        registration: the chosen registration; None: as configured.
        energy: whether the energy of each case is measured; only one process may measure at a time.
        threads: threads of PyTorch in each process.
    """

    out: Path
    variants: tuple[Variant, ...]
    organs: tuple[int, ...]
    conf: Mapping[str, str] = field(default_factory=dict)
    atlases: Mapping[int, Path] = field(default_factory=dict)
    hu: str = "check"
    prompts: str = "atlas"
    loop: Loop = "symmetric"
    mode: Mode = "exact"
    thresholds: ThresholdRule = DEFAULT_THRESHOLDS
    fill_holes: bool = False
    as_published: bool = False
    registration: RegistrationMethod | None = None
    energy: bool = True
    threads: int = 1

    def models(self, references: int | None = None) -> Models:
        """Returns the models of the experiment; loads nothing.

        Args:
            references: number of references; None: all of the atlas.
        """
        conf = dict(self.conf) | ({} if references is None else {"atlas": str(self.atlases[references])})
        return Models(conf, hu=HuRule.parse(self.hu))

    @property
    def options(self) -> Options:
        """The options of all variants, without ground truth."""
        options = Options(
            prompts=self.prompts,
            loop=self.loop,
            mode=self.mode,
            thresholds=self.thresholds,
            fill_holes=self.fill_holes,
        )
        return published_options(options) if self.as_published else options

    def record_file(self, case: str, variant: Variant) -> Path:
        """Returns the file of the record of a variant on a case."""
        return self.out / "records" / variant.folder / f"{case}.json"

    def label_file(self, case: str, variant: Variant) -> Path:
        """Returns the file of the label map of a variant on a case."""
        return self.out / "labels" / variant.folder / f"{case}.nii.gz"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Creates the results folder, and holds it for one command at a time.

    Raises:
        StorageError: if another command writes to it.
    """
    out.mkdir(parents=True, exist_ok=True)
    handle = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(
                out, "is in use by another evaluation.", "Wait until it ends, or choose another folder."
            ) from None
        except OSError:  # some network drives do not support locks
            pass
        yield
    finally:
        os.close(handle)
