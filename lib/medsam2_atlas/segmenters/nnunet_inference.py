"""Runs a network of nnU-Net v2 on a CT, with the preprocessing, windows and resampling of the package `nnunetv2`.

The label map equals that of `nnUNetv2_predict` (Isensee et al., Nature Methods 2021). This module does not use its
`nnUNetPredictor`, which unpickles checkpoints, keeps a thread and GPU memory after it is stopped, silently falls back to main
memory, and keeps all classes at full resolution at the same time. This module resamples one class after the other.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import os
import pydoc
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError, ResultsError, WeightsError
from medsam2_atlas.base.progress import Progress, part
from medsam2_atlas.base.stages import stage
from medsam2_atlas.imaging.orientation import turn_to
from medsam2_atlas.imaging.volume import Volume

_CPU = torch.device("cpu")
_STAGE = "nnU-Net"
_WINDOWS = 0.9
"""Share of the total time for the windows; resampling takes the rest."""
_STEP = 0.5
"""Step between windows, as a fraction of their sides: nnU-Net's default."""


@dataclass(frozen=True)
class NNUNetModel:
    """A network with nnU-Net's plans and data description.

    Attributes:
        network: the network, with the weights of one fold.
        folds: weights of all folds, on the CPU.
        plans: the package's `PlansManager` of `plans.json`.
        configuration: the package's `ConfigurationManager` of this network.
        labels: the package's `LabelManager`.
        dataset: content of `dataset.json`.
        mirror_axes: axes that test-time mirroring may flip, as set by the training.
        device: device of the network.
    """

    network: torch.nn.Module
    folds: tuple[Mapping[str, torch.Tensor], ...]
    plans: Any
    configuration: Any
    labels: Any
    dataset: Mapping[str, Any]
    mirror_axes: tuple[int, ...]
    device: torch.device = _CPU

    def on(self, device: torch.device) -> NNUNetModel:
        """Returns this model with a copy of its network on a device.

        Raises:
            torch.OutOfMemoryError: if the device has too little memory.
        """
        return replace(self, network=copy.deepcopy(self.network).to(device), device=device)


def build_model(
    folder: Path, plans: dict[str, Any], dataset: dict[str, Any], configuration: str, checkpoints: Sequence[Mapping[str, Any]]
) -> NNUNetModel:
    """Builds the network of a trained model in the same way as its trainer.

    Args:
        folder: folder of the model, for messages.
        plans: content of `plans.json`.
        dataset: content of `dataset.json`.
        configuration: name of the configuration in the plans.
        checkpoints: contents of the folds' checkpoints.

    Raises:
        InputError: if the plans name anything other than network classes.
        WeightsError: if the package has no such trainer or network, or the weights do not fit.
    """
    try:
        with _undisturbed():
            return _build(plans, dataset, configuration, checkpoints)
    except (MedSAM2AtlasError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:400]
        problem = f"cannot be built as {checkpoints[0]['trainer_name']} does it ({type(error).__name__}: {reason})."
        remedy = "Update nnunetv2, or install the package that defines this trainer and its network."
        raise WeightsError(folder, problem, remedy) from error


def _build(
    plans: dict[str, Any], dataset: dict[str, Any], configuration: str, checkpoints: Sequence[Mapping[str, Any]]
) -> NNUNetModel:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(copy.deepcopy(plans))
    part_of_plans = manager.get_configuration(configuration)
    for lazy in ("preprocessor_class", "resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities"):
        getattr(part_of_plans, lazy)  # imports the function now, so that nothing is imported while a case is segmented
    _refuse_other_parts(part_of_plans)
    labels = manager.get_label_manager(dataset)
    channels = determine_num_input_channels(manager, part_of_plans, dataset), labels.num_segmentation_heads
    build = recursive_find_trainer_class_by_name(checkpoints[0]["trainer_name"]).build_network_architecture
    if "plans_manager" in inspect.signature(build).parameters:
        network = build(manager, part_of_plans, *channels, enable_deep_supervision=False)
    else:  # trainers written for nnunetv2 before 2.7
        network = build(
            part_of_plans.network_arch_class_name,
            part_of_plans.network_arch_init_kwargs,
            part_of_plans.network_arch_init_kwargs_req_import,
            *channels,
            enable_deep_supervision=False,
        )
    folds = tuple(dict(checkpoint["network_weights"]) for checkpoint in checkpoints)
    for weights in reversed(folds):  # checks all folds, and ends with the first one's weights
        network.load_state_dict(weights)
    axes = tuple(checkpoints[0].get("inference_allowed_mirroring_axes") or ())
    return NNUNetModel(network.eval().requires_grad_(False), folds, manager, part_of_plans, labels, dataset, axes)


def _refuse_other_parts(configuration: Any) -> None:
    """Raises an InputError if the plans name anything other than network classes.

    nnU-Net imports and calls the named objects, and a name such as `nnunetv2.configuration.os.system` is not in its package.
    """
    given, keys = configuration.network_arch_init_kwargs, configuration.network_arch_init_kwargs_req_import
    for name in (configuration.network_arch_class_name, *(given[key] for key in keys if given.get(key) is not None)):
        found = pydoc.locate(name)  # None: nnU-Net searches its library of networks, or reports that there is no such class
        if found is not None and not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
            raise InputError("plans.json", f"names {name[:80]!r}, which is not part of a network.", "Get the file again.")


def predict(
    volume: Volume,
    model: NNUNetModel,
    orientation: str,
    *,
    augment: bool = False,
    save_memory: bool = False,
    progress: Progress,
) -> np.ndarray:
    """Segments a CT with an nnU-Net.

    Args:
        volume: the CT, `[z, y, x]` in HU.
        model: the model, on the device to use.
        orientation: orientation of the training images; see `imaging.orientation.turn_to`.
        augment: average over copies mirrored along the axes that the training allows.
        save_memory: assemble the windows in main memory, so that the device stores one window at a time.
        progress: called with the fraction completed, between windows.

    Returns:
        The model's label values `[z, y, x]` on the grid of the CT, uint16.

    Raises:
        InputError: if the CT is 0 HU everywhere.
        ResultsError: if the network's results are not finite.
    """
    if not volume.array.any():
        raise InputError(volume.source, "is 0 HU everywhere.", "Check how it was exported.")
    turn = turn_to(volume, orientation)
    properties: dict[str, Any] = {"spacing": list(turn.spacing(volume.geometry))}
    threads = torch.get_num_threads()
    try:
        preprocessor = model.configuration.preprocessor_class(verbose=False)
        data = preprocessor.run_case_npy(
            turn.apply(volume.array)[None], None, properties, model.plans, model.configuration, model.dataset
        )[0]
        with torch.no_grad():
            with stage("network"):
                logits = _logits(model, torch.as_tensor(data), augment, save_memory, part(progress, 0, _WINDOWS))
            labels = _labels(model, logits, properties, part(progress, _WINDOWS, 1))
    finally:
        if torch.get_num_threads() != threads:  # some resampling functions change it, and do not restore it after an error
            torch.set_num_threads(threads)
    whole = np.zeros(properties["shape_before_cropping"], np.uint16)
    whole[tuple(slice(*bounds) for bounds in properties["bbox_used_for_cropping"])] = labels
    progress(_STAGE, 1.0)
    return turn.undo(whole.transpose(model.plans.transpose_backward))


def _logits(model: NNUNetModel, data: torch.Tensor, augment: bool, save_memory: bool, progress: Progress) -> torch.Tensor:
    """Returns the folds' mean logits `[classes, a, b, c]`, float16, in main memory, for a preprocessed CT `[1, a, b, c]`."""
    total: torch.Tensor | None = None
    count = len(model.folds)
    for number, weights in enumerate(model.folds):
        if count > 1:
            model.network.load_state_dict(weights)
        found = _windows(model, data, augment, save_memory, part(progress, number / count, (number + 1) / count)).cpu()
        total = found if total is None else total.add_(found)
    assert total is not None, "a model has at least one fold"
    return total.div_(count) if count > 1 else total


def _windows(model: NNUNetModel, data: torch.Tensor, augment: bool, save_memory: bool, progress: Progress) -> torch.Tensor:
    """Returns the logits of overlapping windows, blended with Gaussian weights in float16, as nnU-Net does."""
    from acvl_utils.cropping_and_padding.padding import pad_nd_image
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian

    patch = tuple(model.configuration.patch_size)
    place = _CPU if save_memory else model.device
    padded, inside = pad_nd_image(data, patch, "constant", {"value": 0}, True, None)
    image = padded.to(place)
    # The package caches these weights on the device where they are computed. On the CPU, they take no GPU memory.
    gaussian = compute_gaussian(patch, sigma_scale=1.0 / 8, value_scaling_factor=10, device=_CPU).to(place)
    logits = torch.zeros((model.labels.num_segmentation_heads, *image.shape[1:]), dtype=torch.half, device=place)
    weights = torch.zeros(image.shape[1:], dtype=torch.half, device=place)
    windows = list(_window_places(image.shape[1:], patch))
    for number, window in enumerate(windows):
        progress(_STAGE, number / len(windows))
        with torch.autocast(model.device.type, enabled=model.device.type == "cuda"):
            found = _mirrored(model, image[window][None].contiguous().to(model.device), augment)[0].to(place)
        logits[window] += found.mul_(gaussian)
        weights[window[1:]] += gaussian
    logits.div_(weights)
    if not logits.isfinite().all():
        raise ResultsError(_STAGE, "gives results that are not finite.", "Check its training, or the CT's values.")
    return logits[(slice(None), *inside[1:])]


def _window_places(shape: Sequence[int], patch: tuple[int, ...]) -> Iterator[tuple[slice | int, ...]]:
    """Yields the window positions in an image `[1, *shape]`; a 2D network has windows in each plane of the first axis."""
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

    flat = len(patch) < len(shape)
    steps = compute_steps_for_sliding_window(tuple(shape[1:] if flat else shape), patch, _STEP)
    for plane in range(shape[0]) if flat else (None,):
        for corner in itertools.product(*steps):
            sides = (slice(begin, begin + side) for begin, side in zip(corner, patch, strict=True))
            yield (slice(None), *(() if plane is None else (plane,)), *sides)


def _mirrored(model: NNUNetModel, window: torch.Tensor, augment: bool) -> torch.Tensor:
    """Returns the logits of a window, averaged over all mirrored copies if `augment`."""
    found = model.network(window)
    axes = [axis + 2 for axis in model.mirror_axes] if augment else []
    flips = [chosen for count in range(1, len(axes) + 1) for chosen in itertools.combinations(axes, count)]
    for chosen in flips:
        found += model.network(window.flip(chosen)).flip(chosen)
    return found.div_(len(flips) + 1) if flips else found


def _labels(model: NNUNetModel, logits: torch.Tensor, properties: Mapping[str, Any], progress: Progress) -> np.ndarray:
    """Returns label values on the CT's grid within nnU-Net's crop.

    Each class is resampled separately, and the class of the highest logit wins. Regions are written in the
    order of `dataset.json`; later ones overwrite earlier ones.
    """
    shape = properties["shape_after_cropping_and_before_resampling"]
    spacing = [properties["spacing"][axis] for axis in model.plans.transpose_forward]
    own = list(model.configuration.spacing)
    labels = np.zeros(shape, np.uint16)
    best: torch.Tensor | None = None
    for number in range(len(logits)):
        progress(_STAGE, number / len(logits))
        resampled = model.configuration.resampling_fn_probabilities(
            logits[number : number + 1], shape, own if len(own) == len(shape) else [spacing[0], *own], spacing
        )
        scores = torch.as_tensor(resampled)[0]
        if model.labels.has_regions:
            chosen = model.labels.inference_nonlin(scores.float()) > 0.5
            labels[chosen.numpy()] = model.labels.regions_class_order[number]
        elif best is None:
            best = scores
        else:
            labels[(scores > best).numpy()] = number
            best = torch.maximum(best, scores)
    return labels


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Restores process-wide state after the block, because importing the package and building a network change it.

    The state is the environment variables, which child processes would inherit, the warning filters, and the random numbers.
    """
    environment = dict(os.environ)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
