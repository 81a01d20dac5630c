"""Runs a MONAI bundle as a segmenter: any folder that the operator configures, with its own transforms, network and inferer.

`bundle_folder` loads the bundle, and `bundle_config` reads its configuration. The bundle's own reading and writing of files is
skipped: it gets the CT from memory, and its label map is taken from memory.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import monai
import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import EnsureChannelFirst, SpatialResample

from medsam2_atlas.base import stages
from medsam2_atlas.base.choices import Memory
from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError
from medsam2_atlas.base.gpu_errors import is_gpu_failure, is_out_of_memory
from medsam2_atlas.base.memory import ran_on
from medsam2_atlas.base.progress import current
from medsam2_atlas.imaging.volume import Geometry, Volume
from medsam2_atlas.segmenters.base import DEFAULTS, Options, Provenance, Segmentation, Segmenter, base_report, only
from medsam2_atlas.segmenters.bundle_config import CPU, REMEDY, reason_of
from medsam2_atlas.segmenters.bundle_folder import BundleModel, deciding_files, load_bundle

_SAME_GRID_MM = 0.01


class _StoppedError(BaseException):
    """Carries an error of the progress callback past the bundle's code, which may catch any `Exception`."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Bundle(Segmenter):
    """The segmenter `bundle:NAME`. It loads the folder again if one of its files has changed."""

    def check(self) -> None:
        """Loads configuration, scripts and weights."""
        self._model()

    def provenance(self, options: Options) -> Provenance:
        """Returns checksums of all files that affect the result, versions of packages, organs, and the device."""
        model = self._model()
        where = ran_on(self._resources.ladder.device_of(options.memory), medsam2=False, unet=model.amp)
        packages = {"monai": monai.__version__, "torch": torch.__version__}
        return self._basis(options) | {"weights": model.sha256, "files": model.digest, "packages": packages} | where

    def segment(self, volume: Volume, options: Options = DEFAULTS) -> Segmentation:
        """Segments a CT with the bundle's own preprocessing, inferer and postprocessing."""
        began = time.perf_counter()
        device = self._resources.ladder.device_of(options.memory)
        model: BundleModel = self._resources.on_device(self.name, self._model(), device)
        organs = model.organs.requested(options.labels, self.name)
        labels = only(bundle_labels(volume, model, options.memory, self.name), organs)
        report = base_report(self.name, volume, labels, organs).with_fields(
            strategy=self.name,
            seconds={"total": round(time.perf_counter() - began, 3)},
            **ran_on(device, medsam2=False, unet=model.amp) | {"device": str(device)},
            weights=model.describe(),
            uses_truth=False,
        )
        return Segmentation(volume.with_array(labels), report)

    def describe(self) -> dict[str, Any]:
        """Returns versions, the organs that the bundle segments, and its labels that are not organs of the table."""
        model = self._model()
        return {
            "weights": model.version,
            "bundle_version": model.bundle_version,
            "known_organs": model.organs.known_names(),
            "left_out": list(model.organs.left_out),
        }

    def used_weights(self) -> dict[str, Any]:
        """Returns file and checksum of the weights, and the organs that the bundle segments."""
        return self._model().describe()

    def version(self) -> str:
        """Returns twelve digits that change with any file that affects the result."""
        return self._model().version

    def _model(self) -> BundleModel:
        folder = self._resources.folder(self.name).absolute()
        if not folder.is_dir():
            raise InputError(folder, "is not a folder.", f"Name the folder of the bundle: {self.name}=FOLDER.")

        def attempt() -> BundleModel | MedSAM2AtlasError:
            try:
                return load_bundle(folder)
            except MedSAM2AtlasError as error:  # kept too, so that a broken bundle is not loaded again at each check
                return error

        found = self._resources.loaded(self.name, deciding_files(folder), attempt)
        if isinstance(found, MedSAM2AtlasError):
            raise type(found)(found.subject, found.problem, found.remedy)
        return found


def bundle_labels(volume: Volume, model: BundleModel, memory: Memory = "", stage: str = "bundle") -> np.ndarray:
    """Segments a CT with a bundle.

    Args:
        volume: the CT, `[z, y, x]` in HU. The bundle gets it in the LPS orientation and reorients it itself.
        model: the bundle. Its network runs on its own device; preprocessing runs on the CPU.
        memory: `small` and `smallest` keep image and result in main memory; `smallest` also gives the network one window at a
            time. The windows keep their size.
        stage: name of the stage for the progress callback, which is called before each run of the network.

    Returns:
        Organ numbers `[z, y, x]` on the grid of the CT, uint8.

    Raises:
        InputError: if the bundle fails on this CT, or returns no label map.
        Exception: if the progress callback raises it, for example because a job was cancelled.
        torch.OutOfMemoryError: if the device has too little memory.
    """
    affine = ras_affine(volume.geometry)
    try:
        with torch.no_grad():
            data = model.preprocessing({model.image_key: _image(volume, model, affine)})
            with stages.stage("network"):
                predicted = _predicted(data[model.image_key], model, memory, stage)
            result = model.postprocessing({**data, "pred": predicted})["pred"]
            values = _on_grid(result, _label_values(result, model), affine, volume.geometry.size)
    except (MedSAM2AtlasError, MemoryError):
        raise
    except _StoppedError as stopped:
        raise stopped.reason from None
    except (Exception, SystemExit) as error:  # the bundle's code may raise anything
        if is_out_of_memory(error) or is_gpu_failure(error):
            raise
        raise InputError(model.config, f"fails on {volume.source}: {reason_of(error)}", REMEDY) from error
    return np.ascontiguousarray(model.organs.translated(values.transpose(2, 1, 0)))


def ras_affine(geometry: Geometry) -> torch.Tensor:
    """Returns the affine `[4, 4]`, float64, that maps an index (x, y, z) to world (x, y, z) in mm, RAS, as MONAI uses it."""
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.from_numpy(geometry.matrix.copy())
    affine[:3, 3] = torch.tensor(geometry.origin, dtype=torch.float64)
    affine[:2] *= -1
    return affine


def _image(volume: Volume, model: BundleModel, affine: torch.Tensor) -> MetaTensor:
    """Returns the CT as MONAI's readers return it: `[x, y, z]` with an affine to RAS."""
    array = torch.from_numpy(np.ascontiguousarray(volume.array.transpose(2, 1, 0), dtype=np.float32))
    about = {
        "original_channel_dim": "no_channel",
        "original_affine": affine.numpy(),
        "spatial_shape": np.array(array.shape),
        "space": "RAS",
        "filename_or_obj": "image",
    }
    image = MetaTensor(array, affine=affine, meta=about)
    channelled: MetaTensor = EnsureChannelFirst()(image) if model.channel_first else image  # type: ignore[assignment]
    return channelled


def _predicted(image: torch.Tensor, model: BundleModel, memory: Memory, stage: str) -> torch.Tensor:
    """Returns the inferer's result `[channels, x, y, z]` for a preprocessed image `[1, x, y, z]`."""
    device, inferer, spares = model.device, model.inferer, memory in ("small", "smallest")
    batch = image[None].float()
    if isinstance(inferer, SlidingWindowInferer):
        inferer = copy.copy(inferer)
        inferer.sw_device = device
        inferer.device = CPU if spares else inferer.device
        inferer.sw_batch_size = 1 if memory == "smallest" else inferer.sw_batch_size
    if not (spares and isinstance(inferer, SlidingWindowInferer)):
        batch = batch.to(device)
    half = model.amp and device.type == "cuda"
    with _reporting(model.network, stage, _runs(inferer, batch.shape[2:])), torch.autocast(device.type, enabled=half):
        found = inferer(batch, model.network)
    if not isinstance(found, torch.Tensor):
        raise InputError(model.config, "has a network with several results.", "Only networks with one result can be used.")
    result: torch.Tensor = found[0].float()
    return result.cpu() if spares else result


@contextmanager
def _reporting(network: torch.nn.Module, stage: str, runs: int) -> Iterator[None]:
    """Calls the progress callback before each run of the network, so that a job can be stopped between windows."""
    progress, done = current(), 0

    def report(*_: Any) -> None:
        nonlocal done
        try:
            progress(stage, min(done / runs, 1.0))
        except Exception as error:
            raise _StoppedError(error) from error
        done += 1

    handle = network.register_forward_pre_hook(report)
    try:
        yield
    finally:
        handle.remove()


def _runs(inferer: Any, shape: Sequence[int]) -> int:
    """Estimates how often an inferer will run the network on an image of that shape; returns 1 if unknown."""
    sides = getattr(inferer, "roi_size", None)
    overlap = getattr(inferer, "overlap", None)
    if not isinstance(sides, (list, tuple)) or len(sides) != len(shape) or not isinstance(overlap, float):
        return 1
    sides = [side if side and side > 0 else n for n, side in zip(shape, sides, strict=True)]  # None or -1: the image's side
    steps = [max(int(side * (1 - overlap)), 1) for side in sides]
    windows = math.prod(math.ceil(max(n - side, 0) / step) + 1 for n, side, step in zip(shape, sides, steps, strict=True))
    return max(math.ceil(windows / inferer.sw_batch_size), 1)


def _label_values(result: torch.Tensor, model: BundleModel) -> torch.Tensor:
    """Converts the result of the bundle's postprocessing to label values `[x, y, z]`; background is -1."""
    plain = result.as_tensor() if isinstance(result, MetaTensor) else result
    plain = plain if plain.ndim == 4 else plain[None]
    if len(plain) > 1:  # probabilities or masks
        best, values = plain.max(0)
        return values if model.background else torch.where(best > 0.5, values, -1)
    values = plain[0].round()
    if not torch.equal(values, plain[0]):
        raise InputError(model.config, "gives values that are not labels.", "Let its postprocessing end in AsDiscreted.")
    return torch.where(values == 0, -1, values)


def _on_grid(result: torch.Tensor, values: torch.Tensor, affine: torch.Tensor, size: tuple[int, int, int]) -> np.ndarray:
    """Resamples label values to the CT's grid if the bundle's postprocessing has not done so.

    Args:
        result: result of the postprocessing; only its affine is used.
        values: label values `[x, y, z]` on the result's grid.
        affine: affine of the CT's grid, index (x, y, z) to RAS in mm.
        size: size (x, y, z) of the CT's grid.
    """
    own = result.affine.cpu().double() if isinstance(result, MetaTensor) else affine
    far = torch.tensor([*size, 1.0], dtype=torch.float64)
    if tuple(values.shape) != size or float(((own - affine).abs() @ far).max()) > _SAME_GRID_MM:
        if not isinstance(result, MetaTensor):
            raise ValueError(f"its label map has {tuple(values.shape)} voxels, the CT {size}, and no affine")
        image = MetaTensor(values[None].float() + 1, affine=own)  # + 1: outside the grid, the resampling fills in 0, no label
        values = SpatialResample(mode="nearest", padding_mode="zeros")(image, dst_affine=affine, spatial_size=size)[0] - 1
    plain = values.as_tensor() if isinstance(values, MetaTensor) else values
    found: np.ndarray = plain.cpu().numpy()
    return found
