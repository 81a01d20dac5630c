"""The infer task `medsam2`: one organ from a person's boxes and points, corrected by more of them.

3D Slicer and OHIF know it as a *deepgrow* model: they send the points that lie on the segment (`foreground`) and off it
(`background`) as voxel indices (x, y, z) of the image file, all of them each time; `boxes`, two opposite corners each, come
from this server's own button in OHIF and from scripts. The slices of the last image stay encoded, so that a correction costs
the propagation only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from medsam2_atlas.base.choices import Memory
from medsam2_atlas.base.errors import InputError, MedSAM2AtlasError
from medsam2_atlas.base.json_text import from_json
from medsam2_atlas.base.memory import free_gpu_memory
from medsam2_atlas.base.progress import current
from medsam2_atlas.imaging.hounsfield import read_ct
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.medsam2 import MedSAM2Volume, Weights
from medsam2_atlas.prompting import marked_organ
from medsam2_atlas.segmenters.base import Segmentation
from medsam2_atlas.segmenters.marked import segment_marked
from tasks import replies
from tasks.models import Models

INTERACTIVE = "medsam2"


@dataclass(frozen=True)
class _Open:
    """The image that was worked on last. key: of image, weights, device, and how sparing the network is with its memory."""

    key: tuple[str, ...]
    prepared: MedSAM2Volume


class InteractiveTask(InferTask):
    """Segments what a person points at. Used by one request at a time: whoever calls `segment` holds the device."""

    uses_network = True
    inputs = frozenset({"label", "foreground", "background", "boxes"})
    """Keys of a request besides the options of `config`: they belong to a click, not to a setting."""

    def __init__(self, models: Models) -> None:
        """`models`: weights, loaded when first needed."""
        organs = {o.name: o.index for o in organ_table().organs}
        super().__init__(InferType.DEEPGROW, organs, 3, "One organ by MedSAM2, from boxes and points on any slices")
        self._models = models
        self._open: _Open | None = None
        models.kept_on_device.append(self._close)

    def config(self) -> dict[str, Any]:
        """Options for viewers; `reach`: how far from the marks the organ is looked for, in mm, empty for everywhere."""
        return {"weights": self._models.weight_names(), "reach": ""}

    def info(self) -> dict[str, Any]:
        """MONAI Label's description, with colours and what the weights are."""
        about: dict[str, Any] = super().info()
        about["label_colors"] = {o.name: list(o.colour) for o in organ_table().organs}
        about["weights_mark"] = self._models.weights().mark
        return about

    def missing(self) -> str:
        """What keeps the task from running, with its remedy; empty where nothing does."""
        try:
            self._models.weights()
        except MedSAM2AtlasError as error:
            return str(error)
        return ""

    def is_valid(self) -> bool:
        """Whether there are weights."""
        return not self.missing()

    def segment(self, request: dict[str, Any]) -> Segmentation:
        """Segments an organ of `request["image"]`, a file or folder.

        Raises:
            MedSAM2AtlasError: marks, image or an option cannot be used, or the weights are missing.
        """
        memory: Memory = request.get("memory", "")
        weights = self._models.weights(replies.text(request, "weights"), self._models.ladder.device_of(memory))
        image = read_ct(request["image"], self._models.hu)
        organ = marked_organ(
            image,
            _organ(request),
            boxes=_listed(request, "boxes"),
            inside=_listed(request, "foreground"),
            outside=_listed(request, "background"),
            reach=_reach(request),
        )
        return segment_marked(image, self._prepared(image, weights, memory), weights, organ, current())

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segments an organ of `request["image"]`; its label map's file, and a JSON body with the report."""
        result = self.segment(request)
        (name,) = result.report["organs"]
        return replies.as_file(result.labels, request), replies.as_json(result.report, {name: self.labels[name]})

    def _prepared(self, image: Volume, weights: Weights, memory: Memory) -> MedSAM2Volume:
        key = (image.digest, weights.sha256, str(weights.device), memory)
        if self._open is None or self._open.key != key:
            self._close()  # before the next one takes its memory
            if weights.device.type == "cuda":
                free_gpu_memory()
            self._open = _Open(key, MedSAM2Volume(weights, image.array, memory=memory))
        return self._open.prepared

    def _close(self) -> None:
        self._open = None


def _organ(request: dict[str, Any]) -> int:
    """The organ's number. OHIF does not tell, as it puts what comes into the segment that is chosen there: the first."""
    name = replies.text(request, "label")
    return organ_table().select([name])[0] if name else organ_table().indices[0]


def _listed(request: dict[str, Any], key: str) -> list[Any]:
    value = request.get(key) or []
    if isinstance(value, str):
        try:
            value = from_json(value)
        except ValueError as error:
            raise InputError(key, "is no list.", "Send voxel indices [[x, y, z], …].") from error
    if not isinstance(value, list):
        raise InputError(key, "is no list.", "Send voxel indices [[x, y, z], …].")
    return value


def _reach(request: dict[str, Any]) -> float | None:
    text = replies.text(request, "reach")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise InputError(text[:40], "is no reach.", "Give millimetres, or leave it empty.")
    return value
