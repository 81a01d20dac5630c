"""The U-Nets' network and their weights.

MONAI's `DynUNet` is used in two and three dimensions alike: other than `BasicUNet` it has deep supervision, and its
depth and kernels follow from a list, as nnU-Net's do (Isensee et al. 2021).
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
    """A trained network. `mark` is empty but for demo weights.

    validation: Dice per organ number on cases that did not train. cases: training cases per organ number.
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
        """Where the network lies."""
        return next(self.network.parameters()).device

    def on(self, device: torch.device) -> UNet:
        """Returns this network on a device: itself where it lies there, else a copy.

        Raises:
            torch.OutOfMemoryError: the device has no memory for it.
        """
        return self if device == self.device else replace(self, network=copy.deepcopy(self.network).to(device))

    @property
    def version(self) -> str:
        """Twelve digits of the file's checksum."""
        return self.sha256[:12]

    def describe(self) -> dict[str, Any]:
        """For reports."""
        return {
            "file": str(self.file),
            "sha256": self.sha256,
            "mark": self.mark,
            "training_cases": max(self.cases.values(), default=0),
        }


def build_unet(config: UNetConfig, table: OrganTable | None = None) -> DynUNet:
    """Returns an untrained network: one channel in, background and organs out."""
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
    """Writes weights with what they need to be used, in one step; `half`: in half precision."""
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
    """In half precision. `DynUNet` names each tensor twice; both names keep one tensor."""
    halves = {tensor.data_ptr(): tensor.half() for tensor in state.values()}
    return {name: halves[tensor.data_ptr()] for name, tensor in state.items()}


def load_unet(file: Path, device: torch.device | None = None) -> UNet:
    """Reads weights that `save_unet` wrote.

    Raises:
        WeightsError: not such a file, or of another organ table.
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
        raise WeightsError(file, f"does not hold a U-Net ({error}).", "Train it again.") from error
    except Exception as error:  # torch.load raises many kinds
        raise WeightsError(file, f"is not a U-Net checkpoint ({str(error)[:120]}).", "Train it again.") from error
    network.to(device or torch.device("cpu")).eval()
    return UNet(network, config, file, sha256(file), content["mark"], validation, cases)
