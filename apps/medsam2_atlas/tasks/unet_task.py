"""The U-Nets' infer tasks: MONAI Label's `BasicInferTask` with this project's transforms, inferer and way back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.data import MetaTensor
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.basic_infer import BasicInferTask

from medsam2_atlas.base.choices import Memory
from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.base.memory import ran_on
from medsam2_atlas.base.progress import current
from medsam2_atlas.imaging.hounsfield import read_ct
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.segmenters.base import Segmentation
from medsam2_atlas.segmenters.unet import unet_segmentation
from medsam2_atlas.studies import unet_provenance
from medsam2_atlas.unet import UNet, UNetInferer, grid_transforms, restore
from tasks import replies
from tasks.models import Models


class UNetInferTask(BasicInferTask):
    """Segments a CT by a U-Net. Weights are loaded again when training has published better ones."""

    uses_network = True

    def __init__(self, models: Models, name: str, description: str) -> None:
        """
        Args:
            models: where the network comes from.
            name: `unet_2d` or `unet_3d`.
            description: for people.
        """
        organs = {o.name: o.index for o in organ_table().organs}
        super().__init__(None, None, InferType.SEGMENTATION, organs, 3, description)
        self._models, self._name = models, name

    def config(self) -> dict[str, Any]:
        """Options for viewers."""
        return {"organs": "", "augment": False}

    def info(self) -> dict[str, Any]:
        """MONAI Label's description, with colours and what the weights are."""
        about: dict[str, Any] = super().info()
        unet = self._models.unet(self._name)
        table = organ_table()
        about["label_colors"] = {o.name: list(o.colour) for o in table.organs}
        about["weights"], about["weights_mark"] = unet.version, unet.mark
        about["validation_dice"] = {table[k].name: round(v, 4) for k, v in unet.validation.items()}
        return about

    def missing(self) -> str:
        """What keeps the task from running, with its remedy; empty where nothing does."""
        try:
            self._models.unet(self._name)
        except MedSAM2AtlasError as error:
            return str(error)
        return ""

    def is_valid(self) -> bool:
        """Whether there are weights."""
        return not self.missing()

    def get_path(self, validate: bool = True) -> str | None:
        """The file of the weights, for MONAI Label's model download."""
        try:
            return str(self._models.unet(self._name).file)
        except MedSAM2AtlasError:
            return None

    def provenance(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the result will depend on besides the image."""
        weights, augment = self._models.unet(self._name).sha256, replies.flag(request, "augment")
        memory: Memory = request.get("memory", "")
        where = ran_on(self._models.ladder.device_of(memory), medsam2=False, unet=True, memory=memory)
        organs = replies.organs(request)
        return unet_provenance(weights=weights, augment=augment, organs=organs, hu=self._models.hu, ran_on=where)

    def pre_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable[..., Any]]:
        """The file to the network's grid; the image itself is kept for the way back."""
        assert data is not None, "MONAI Label hands the request"
        return [self._keep_volume, *grid_transforms(data["unet"].unet.config, labels=False)]

    def inferer(self, data: dict[str, Any] | None = None) -> UNetInferer:
        """Sliding windows, with test-time augmentation where it is asked for."""
        assert data is not None, "MONAI Label hands the request"
        config, augment = data["unet"].unet.config, replies.flag(data, "augment")
        return UNetInferer(config, augment=augment, memory=data.get("memory", ""), progress=current())

    def post_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable[..., Any]]:
        """Probabilities to a label map on the image's own grid."""
        return [_restored]

    def segment(self, request: dict[str, Any]) -> Segmentation:
        """Segments `request["image"]`, a file or folder.

        Raises:
            MedSAM2AtlasError: something is missing, or the image or an option cannot be used.
        """
        memory: Memory = request.get("memory", "")
        # One network for the whole request, whatever training publishes meanwhile.
        unet = self._models.unet(self._name, self._models.ladder.device_of(memory))
        chosen = replies.organs(request)
        began = time.perf_counter()
        augment = replies.flag(request, "augment")
        wanted = {"augment": augment, "device": str(unet.device), "logging": "WARNING"}
        _, data = super().__call__(request | wanted | {"unet": _Shared(unet), "skip_writer": True})
        seconds = time.perf_counter() - began
        return unet_segmentation(
            data["volume"], data["prediction"], unet, organs=chosen, augment=augment, memory=memory, seconds=seconds
        )

    def __call__(self, request: dict[str, Any], callbacks: Any = None) -> tuple[str, dict[str, Any]]:
        """Segments `request["image"]`; the label map's file, on the grid of the image, and a JSON body with the report."""
        result = self.segment(request)
        names = {name: self.labels[name] for name in result.report["organs"]}
        return replies.as_file(result.labels, request), replies.as_json(result.report, names)

    def _keep_volume(self, data: dict[str, Any]) -> dict[str, Any]:
        volume = read_ct(Path(data["image"]), self._models.hu)
        return {**data, "image": volume, "volume": volume}

    def _get_network(self, device: str, data: dict[str, Any]) -> Any:
        return data["unet"].unet.network


@dataclass(frozen=True)
class _Shared:
    """A network in a request. `BasicInferTask` copies requests deeply; this stays one."""

    unet: UNet

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


def _restored(data: dict[str, Any]) -> dict[str, Any]:
    image: MetaTensor = data["image"]
    prediction = restore(data["pred"].cpu(), image.affine, data["volume"].geometry)
    return {**data, "prediction": prediction, "pred": prediction.labels}
