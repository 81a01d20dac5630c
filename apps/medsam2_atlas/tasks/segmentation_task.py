"""The infer tasks of the foundation model: `segmenters.strategies` behind MONAI Label's interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from medsam2_atlas.base.choices import Memory
from medsam2_atlas.base.errors import MedSAM2AtlasError
from medsam2_atlas.base.memory import ran_on
from medsam2_atlas.base.progress import current
from medsam2_atlas.imaging.hounsfield import read_ct
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.segmenters.base import Segmentation
from medsam2_atlas.segmenters.strategies import Case, Options, PromptSource, segment
from medsam2_atlas.studies import foundation_provenance
from tasks import replies
from tasks.models import Models


class SegmentationTask(InferTask):
    """Segments a CT by one of several strategies; the client chooses strategy, prompts, organs and weights by name."""

    def __init__(self, models: Models, strategies: Sequence[str], description: str) -> None:
        """
        Args:
            models: atlas and weights, loaded when first needed.
            strategies: names; the first is the default.
            description: for people.
        """
        super().__init__(InferType.SEGMENTATION, {o.name: o.index for o in organ_table().organs}, 3, description)
        self._models = models
        self._strategies = tuple(strategies)
        self.uses_network = any(s != "atlas" for s in strategies)

    def config(self) -> dict[str, Any]:
        """Options for viewers: lists become drop-downs, texts become fields."""
        options: dict[str, Any] = {"strategy": list(self._strategies), "organs": ""}
        if self.uses_network:
            options["weights"] = self._models.weight_names()
            options["prompts"] = list(self._sources())
        return options

    def info(self) -> dict[str, Any]:
        """MONAI Label's description, with colours, the atlas and what the weights are."""
        about: dict[str, Any] = super().info()
        about["label_colors"] = {o.name: list(o.colour) for o in organ_table().organs}
        atlas = self._models.atlas()
        about["atlas"], about["references"] = atlas.version, len(atlas.references)
        if self.uses_network:
            about["weights_mark"] = self._models.weights().mark
        return about

    def missing(self) -> str:
        """What keeps the task from running, with its remedy; empty where nothing does."""
        try:
            self._models.atlas()
            if self.uses_network:
                self._models.weights()
        except MedSAM2AtlasError as error:
            return str(error)
        return ""

    def is_valid(self) -> bool:
        """Whether atlas and weights are there and fit."""
        return not self.missing()

    def provenance(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the result will depend on besides the image.

        Raises:
            MedSAM2AtlasError: an option that cannot be used, or something is missing.
        """
        strategy, atlas = replies.choice(request, "strategy", self._strategies), self._models.atlas().version
        if not self.uses_network:
            return foundation_provenance(strategy=strategy, atlas=atlas, organs=replies.organs(request), hu=self._models.hu)
        prompts = replies.choice(request, "prompts", self._sources())
        unet = self._models.prompting_unet() if prompts != "atlas" else None
        memory: Memory = request.get("memory", "")
        device = self._models.ladder.device_of(memory)
        return foundation_provenance(
            strategy=strategy,
            atlas=atlas,
            weights=self._models.weights(replies.text(request, "weights")).sha256,
            prompts=prompts,
            unet=unet.version if unet else None,
            organs=replies.organs(request),
            hu=self._models.hu,
            ran_on=ran_on(device, medsam2=True, unet=unet is not None, memory=memory),
        )

    def segment(self, request: dict[str, Any]) -> Segmentation:
        """Segments `request["image"]`, a file or folder.

        Raises:
            MedSAM2AtlasError: something is missing, or the image or an option cannot be used.
        """
        models = self._models
        strategy = replies.choice(request, "strategy", self._strategies)
        memory: Memory = request.get("memory", "")
        weights, unet, source = None, None, "atlas"
        if self.uses_network:
            source = replies.choice(request, "prompts", self._sources())
            device = models.ladder.device_of(memory)
            weights = models.weights(replies.text(request, "weights"), device)
            unet = models.prompting_unet(device) if source != "atlas" else None
        options = Options(organs=replies.organs(request), prompts=_source(source), memory=memory)
        volume = read_ct(request["image"], models.hu)
        case = Case(
            volume,
            models.atlas(),
            weights,
            options=options,
            unet=unet,
            registrations=models.registrations,
            progress=current(),
        )
        return segment(case, strategy)

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segments `request["image"]`; the label map's file, on the grid of the image, and a JSON body with the report."""
        result = self.segment(request)
        names = {name: self.labels[name] for name in result.report["organs"]}
        return replies.as_file(result.labels, request), replies.as_json(result.report, names)

    def _sources(self) -> tuple[str, ...]:
        return ("atlas", "unet", "both") if self._models.prompting_unet() is not None else ("atlas",)


def _source(name: str) -> PromptSource:
    return "unet" if name == "unet" else "both" if name == "both" else "atlas"
