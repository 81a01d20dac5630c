"""The network of the U-Nets, and reading and writing of its weights.

Both the 2D and the 3D U-Net are MONAI's `DynUNet`. Unlike `BasicUNet`, it has deep supervision, and lists define its depth
and kernels, as in nnU-Net (Isensee et al. 2021).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import DynUNet
from pydantic import ValidationError

from medsam2_atlas.base.errors import WeightsError
from medsam2_atlas.base.files import replacing, sha256
from medsam2_atlas.base.tensor_files import load_tensors
from medsam2_atlas.imaging.labels import OrganTable, organ_table
from medsam2_atlas.unet.config import UNetConfig

FORMAT = 1


@dataclass(frozen=True)
class UNet:
    """A trained network.

    Attributes:
        network: the PyTorch module.
        config: its configuration.
        file: its weights file.
        sha256: SHA-256 of that file.
        mark: remark on demo weights; empty for all others.
        validation: Dice by organ number on the validation cases.
        cases: number of training cases by organ number.
    """

    network: torch.nn.Module
    config: UNetConfig
    file: Path
    sha256: str
    mark: str = ""
    validation: dict[int, float] = field(default_factory=dict)
    cases: dict[int, int] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    def on(self, device: torch.device) -> UNet:
        """Returns this network if it is on the given device, else a copy there.

        Raises:
            torch.OutOfMemoryError: if the device has too little memory.
        """
        return self if device == self.device else replace(self, network=copy.deepcopy(self.network).to(device))

    @property
    def version(self) -> str:
        """The first twelve digits of the file's SHA-256."""
        return self.sha256[:12]

    def describe(self) -> dict[str, Any]:
        """Returns file, SHA-256, mark and number of training cases, for reports."""
        return {
            "file": str(self.file),
            "sha256": self.sha256,
            "mark": self.mark,
            "training_cases": max(self.cases.values(), default=0),
        }


def build_unet(config: UNetConfig, table: OrganTable | None = None) -> DynUNet:
    """Returns an untrained network.

    Args:
        config: configuration of the network.
        table: the organs; by default those of `configs/labels.yaml`.

    Returns:
        A network that maps `[batch, 1, z, y, x]` (without `z` in two dimensions) to logits of background and organs.
    """
    levels = len(config.filters)
    return DynUNet(
        spatial_dims=config.dimensions,
        in_channels=1,
        out_channels=1 + max((table or organ_table()).indices),
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=list(config.filters),
        norm_name=("instance", {"affine": True}),
        deep_supervision=config.heads > 0,
        deep_supr_num=max(1, config.heads),
    )


def save_unet(
    file: Path,
    state: dict[str, torch.Tensor],
    config: UNetConfig,
    *,
    validation: dict[int, float],
    cases: dict[int, int],
    mark: str = "",
    half: bool = False,
) -> None:
    """Writes a weights file in one step; it contains everything that `load_unet` needs.

    Args:
        file: the file to write.
        state: the network's state: tensors of any shape, by name.
        config: configuration of the network.
        validation: Dice by organ number on the validation cases.
        cases: number of training cases by organ number.
        mark: remark on demo weights.
        half: store weights in half precision.
    """
    content = {
        "format": FORMAT,
        "model": _halved(state) if half else state,
        "config": config.model_dump(mode="json"),
        "organs": {str(o.index): o.name for o in organ_table().organs},
        "validation": {str(k): float(v) for k, v in validation.items()},
        "cases": {str(k): int(v) for k, v in cases.items()},
        "mark": mark,
    }
    with replacing(file) as part:
        torch.save(content, part)


def _halved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the state in half precision. `DynUNet` names each tensor twice; both names still share one tensor."""
    halves = {tensor.data_ptr(): tensor.half() for tensor in state.values()}
    return {name: halves[tensor.data_ptr()] for name, tensor in state.items()}


def load_unet(file: Path, device: torch.device | None = None) -> UNet:
    """Loads a network from a file that `save_unet` wrote; by default on the CPU.

    Raises:
        WeightsError: if it is not such a file, or was trained for another organ table.
    """
    if not file.is_file():
        raise WeightsError(file, "is not a file.", "Train the U-Net first, or name its weights.")
    try:
        content = load_tensors(file)
        if content["format"] != FORMAT:
            raise WeightsError(file, f"has format {content['format']}, not {FORMAT}.", "Train the U-Net again.")
        if content["organs"] != {str(o.index): o.name for o in organ_table().organs}:
            raise WeightsError(file, "was trained for another organ table.", "Train it again with this one.")
        config = UNetConfig.model_validate(content["config"])
        network = build_unet(config)
        network.load_state_dict({name: tensor.float() for name, tensor in content["model"].items()})
        validation = {int(k): v for k, v in content["validation"].items()}
        cases = {int(k): v for k, v in content["cases"].items()}
    except WeightsError:
        raise
    except (ValidationError, KeyError, TypeError, AttributeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        problem, remedy = f"does not contain a U-Net ({reason}).", "Name weights that `medsam2-atlas train unet` wrote."
        raise WeightsError(file, problem, remedy) from error
    except Exception as error:  # torch.load raises many kinds
        raise WeightsError(file, f"is not a U-Net checkpoint ({str(error)[:120]}).", "Name another file.") from error
    network.to(device or torch.device("cpu")).eval()
    return UNet(network, config, file, sha256(file), content["mark"], validation, cases)
