"""What a batch does with each of its items. A plain value, so that worker processes on other machines can receive it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from medsam2_atlas.base.choices import RegistrationMethod
from medsam2_atlas.segmenters.base import Options, Provenance

Results = Literal["nifti", "seg", "studies", "pacs"]
"""`nifti`: label maps as NIfTI. `seg`: DICOM segmentations. `studies`: versions in a studies folder under the model's tag.
`pacs`: DICOM segmentations, also stored in the PACS."""

_SENT = ("organs", "prompts", "weights", "loop", "mode", "thresholds", "fill_holes", "augment")
"""The options that a batch may set; the others belong to one CT."""


@dataclass(frozen=True)
class ModelFile:
    """A file of a model, as the client of a cluster has it.

    Attributes:
        key: key of the path in `Job.conf` that it belongs to.
        name: its path below that folder; empty if the path is the file itself.
        path: its path on the client's machine.
        sha256: its SHA-256.
        bytes: its size.
    """

    key: str
    name: str
    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Job:
    """What is done with each item.

    Attributes:
        segmenter: name of the segmenter.
        parts: folder for unfinished outputs, on the disk of the outputs.
        conf: paths and device of the models; see `studies.models.Models`.
        options: options of the segmenter.
        hu: text of the rule that converts CT values to HU.
        results: form of the results.
        registration: the chosen registration; None: as configured.
        as_published: whether the published method is used.
        threads: threads of PyTorch in each process; 0 leaves PyTorch's own number.
        pacs: URL of the PACS that gets the results, for `pacs`.
        source: `module:class` of a segmenter that is not in the registry, for measuring the machinery and for tests.
        files: the files of the models, for workers on other machines.
        key: digest of all that results depend on, see `keyed`; workers refuse to compute anything else.
    """

    segmenter: str
    parts: Path
    conf: Mapping[str, str] = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    hu: str = "check"
    results: Results = "nifti"
    registration: RegistrationMethod | None = None
    as_published: bool = False
    threads: int = 0
    pacs: str = ""
    source: str = ""
    files: tuple[ModelFile, ...] = ()
    key: str = ""

    @property
    def suffix(self) -> str:
        """The suffix of the outputs."""
        return ".dcm" if self.results in ("seg", "pacs") else ".nii.gz"

    def about(self, provenance: Provenance) -> dict[str, Any]:
        """Returns what results depend on besides the image, for the manifest, as JSON values.

        Args:
            provenance: the segmenter's provenance on the CPU, because the client of a cluster may have no GPU.
        """
        defaults = Options()
        chosen = {name: getattr(self.options, name) for name in _SENT}
        about = {
            "segmenter": self.segmenter,
            "results": self.results,
            "options": {name: value for name, value in chosen.items() if value != getattr(defaults, name)},
            "provenance": {name: value for name, value in provenance.items() if name not in ("device", "precision")},
        }
        plain: dict[str, Any] = json.loads(json.dumps(about))
        return plain

    def keyed(self, provenance: Provenance) -> Job:
        """Returns the job with the digest of `about`. PyTorch's number of threads is no part of it.

        Raises:
            ValueError: an option belongs to one CT, such as marks.
        """
        defaults = Options()
        for option in fields(Options):
            if option.name not in (*_SENT, "memory") and getattr(self.options, option.name) != getattr(defaults, option.name):
                raise ValueError(f"the option {option.name} belongs to one CT and cannot be used in a batch")
        text = json.dumps(self.about(provenance), sort_keys=True)
        return replace(self, key=hashlib.sha256(text.encode()).hexdigest()[:20])
