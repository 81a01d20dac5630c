"""Training cases, their split into training and validation, and the data loaders."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader, Dataset, PersistentDataset
from monai.data.utils import list_data_collate

from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, problem_of
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.imaging.hounsfield import CHECK, HuRule
from medsam2_atlas.unet.config import UNetConfig
from medsam2_atlas.unet.transforms import cached_transforms, random_transforms
from medsam2_atlas.unet.workers import PatchLoader

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingCase:
    """An annotated CT.

    Attributes:
        name: name of the case.
        image: CT file.
        label: label map file.
        annotated: numbers of the organs whose annotation is complete; if empty, the organs that the label map contains.
        hu: rule that converts the values of the CT to HU.
    """

    name: str
    image: Path
    label: Path
    annotated: tuple[int, ...] = ()
    hu: HuRule = CHECK

    def as_item(self) -> dict[str, Any]:
        """Returns the case as an item of MONAI's data sets.

        The item contains size and time of both files and the HU rule. If one of them changes, the item changes too, and the
        old cache entry is no longer used.
        """
        stamps = [(f.stat().st_size, f.stat().st_mtime_ns) for f in (self.image, self.label)]
        item = {"name": self.name, "image": str(self.image), "label": str(self.label), "stamps": stamps}
        return item | {"annotated": list(self.annotated), "hu": str(self.hu)}


def split_cases(cases: Sequence[TrainingCase], share: float) -> tuple[list[TrainingCase], list[TrainingCase]]:
    """Splits cases into training and validation.

    The split depends on a hash of each case's name. So a case stays in its group when cases are added, and a validation
    case is never used for training. With two cases or more, each group gets at least one, unless `share` is 0.

    Args:
        cases: the cases to split.
        share: share of validation cases, 0..1.

    Returns:
        Training cases and validation cases.

    Raises:
        InputError: if there are no cases.
    """
    if not cases:
        raise InputError("training", "has no cases.", "Sign off some labels as final first.")
    draw = {case.name: int(hashlib.sha256(case.name.encode()).hexdigest()[:8], 16) / 16**8 for case in cases}
    ranked = sorted(cases, key=lambda case: (draw[case.name], case.name))
    if share == 0 or len(ranked) == 1:
        return ranked, []
    count = sum(draw[case.name] < share for case in ranked)
    count = min(max(1, count), len(ranked) - 1)
    return ranked[count:], ranked[:count]


def usable_cases(
    cases: Sequence[TrainingCase], config: UNetConfig, cache: Path, progress: Progress = silent, *, strict: bool = False
) -> tuple[list[TrainingCase], dict[str, str], dict[str, float]]:
    """Reads every case once, so that unusable cases are found before training starts. The cache keeps the result.

    Args:
        cases: the cases to read.
        config: configuration whose grid the cases are resampled to.
        cache: folder of the preprocessed cases.
        progress: called with the fraction completed.
        strict: raise an error for the first unusable case instead of excluding it.

    Returns:
        The usable cases; the reason why each other case cannot be used, by name; and the number added to the CT's values to
        get HU, by name, unless it is 0.

    Raises:
        InputError: if `strict` and a case cannot be used.
    """
    usable, problems, offsets = [], {}, {}
    for number, case in enumerate(cases):
        try:
            item = _cached([case], config, cache)[0]
            usable.append(case)
            if item["hu_offset"]:
                offsets[case.name] = item["hu_offset"]
        except Exception as error:
            problems[case.name] = _reason(error)
            if strict:
                raise InputError(case.name, f"cannot be trained on: {problems[case.name]}") from error
            log.warning("%s is excluded from the training: %s", case.name, problems[case.name])
        progress("reading cases", (number + 1) / len(cases))
    return usable, problems, offsets


def train_loader(cases: Sequence[TrainingCase], config: UNetConfig, cache: Path, workers: int = 0) -> PatchLoader:
    """Returns a loader of random patches.

    Args:
        cases: the training cases.
        config: configuration of grid, patches and augmentation.
        cache: folder on disk for the deterministic part of the preprocessing.
        workers: number of processes that read patches; 0 reads them in this process.
    """
    data = Dataset(_cached(cases, config, cache), random_transforms(config))
    generator = torch.Generator()
    return PatchLoader(
        data,
        batch_size=config.training.cases_per_step,
        shuffle=True,
        num_workers=workers,
        collate_fn=list_data_collate,
        generator=generator,
    )


def validation_loader(cases: Sequence[TrainingCase], config: UNetConfig, cache: Path) -> DataLoader:
    """Returns a loader of whole cases, one at a time.

    Args:
        cases: the validation cases.
        config: configuration of the grid.
        cache: folder of the preprocessed cases.
    """
    return DataLoader(_cached(cases, config, cache), batch_size=1)


class _Cache(PersistentDataset):
    """MONAI's cache on disk. It rebuilds a cache file that cannot be read, for example after a crash."""

    def _cachecheck(self, item_transformed: Any) -> Any:
        try:
            return super()._cachecheck(item_transformed)
        except Exception as error:
            file = self.cache_dir / f"{self.hash_func(item_transformed).decode()}{self.transform_hash}.pt"
            if not file.is_file():
                raise  # the case itself cannot be read
            log.warning("%s cannot be read (%s) and is rebuilt", file, error)
            file.unlink()
            return super()._cachecheck(item_transformed)


def _cached(cases: Sequence[TrainingCase], config: UNetConfig, cache: Path) -> PersistentDataset:
    # Without `slice_pixels`, the name is the same as before this setting existed, so older caches are still used.
    grid = config.model_dump_json(include={"spacing", "slice_pixels", "window", "dimensions"}, exclude_none=True).encode()
    folder = cache / hashlib.sha256(grid).hexdigest()[:12]
    return _Cache([case.as_item() for case in cases], cached_transforms(config), folder)


def _reason(error: BaseException) -> str:
    """Returns the message of this project's error behind a MONAI error, or of the first cause if there is none."""
    while error.__cause__ is not None and not isinstance(error, MedSAM2AtlasError):
        error = error.__cause__
    return problem_of(error)
