"""The typed report that every segmenter gives with a label map, its JSON, and the schema of that JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medsam2_atlas.base.version import package_version
from medsam2_atlas.imaging.labels import organ_table

if TYPE_CHECKING:
    import numpy as np

    from medsam2_atlas.imaging.volume import Volume


class Report(BaseModel):
    """A report. Fields that a segmenter does not set are left out of the JSON.

    Organs are named as in `configs/labels.yaml`. Reports of other versions may have fields that this one does not know.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    image: str = Field("", description="file or folder of the CT")
    segmenter: str = Field("", description="name in the registry, such as D, unet_3d or bundle:NAME")
    strategy: str | None = Field(None, description="the same name; deprecated, use segmenter")
    organs: list[str] = Field(default_factory=list, description="requested organs that the segmenter knows")
    volumes_ml: dict[str, float] = Field(default_factory=dict, description="volume of each requested organ, millilitres")
    version: str = Field("", description="version of medsam2_atlas")
    torch: str = Field("", description="version of PyTorch")
    remarks: list[str] | None = Field(None, description="what was corrected while the CT was read")
    hu: dict[str, Any] | None = Field(None, description="how the file's values became HU")
    seconds: dict[str, float] = Field(default_factory=dict, description="wall time of each stage; `total` is all of it")
    energy: dict[str, Any] | None = Field(None, description="`watt_hours`, null if unknown, and `how` it was measured")
    memory: str | None = Field(None, description="why the networks did not run as usual, if GPU memory was short")
    device: str | None = Field(None, description="device of the networks, such as cpu or cuda:0")
    precision: str | None = Field(None, description="number format of the networks")
    windows: str | None = Field(None, description="`fewer slices` if the U-Net's windows were shortened to save memory")
    weights: dict[str, Any] | None = Field(None, description="file, checksum and mark of the network's weights")
    mark: str | None = Field(None, description="warning about weights that are no official ones")
    warning: str | None = Field(None, description="what a reader must check before using the label map")
    confidence: dict[str, float] | None = Field(
        None,
        description="0..1 per organ, the least first; for prompted strategies, that the boxes overlap the true ones by half",
    )
    uses_truth: bool | None = Field(None, description="whether the true label map was read, as reference strategies do")
    from_cache: bool | None = Field(None, description="true if the stored label map was taken")

    # Prompted strategies
    atlas: dict[str, Any] | None = Field(None, description="folder, version and number of references of the atlas")
    unet: dict[str, Any] | None = Field(None, description="weights of the U-Net that gave coarse masks for prompts")
    prompter: dict[str, Any] | None = Field(None, description="the same for another segmenter that gave them")
    loop: str | None = Field(None, description="how boxes condition the propagation")
    thresholds: str | None = Field(None, description="rule that turned score maps into prompting regions")
    prompts_from: str | None = Field(None, description="source of the first prompts: atlas, unet, both, truth, or a segmenter")
    prompt_sources: dict[str, str] | None = Field(None, description="per organ the source of its prompt, and why")
    prompts: list[dict[str, Any]] | None = Field(None, description="prompts of the last pass")
    first_pass_prompts: list[dict[str, Any]] | None = Field(None, description="those of the first pass, if there were two")
    fallbacks: dict[str, list[str]] | None = Field(None, description="per organ what was done instead of the usual")
    without_prompt: dict[str, str] | None = Field(None, description="organs without a prompt, and why")

    # Others
    augment: bool | None = Field(None, description="U-Net: whether results of turned and scaled copies were averaged")
    marks: list[dict[str, Any]] | None = Field(None, description="boxes and points of a person")
    overruled: list[str] | None = Field(None, description="where a person's points overruled the network")
    range: list[int] | None = Field(None, description="first and last slice that was looked at")

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON values, without the fields that were not set."""
        return self.model_dump(mode="json", exclude_unset=True)

    def having(self, **fields: Any) -> Report:
        """Returns the report with other values of some fields.

        Raises:
            ValueError: no such field.
        """
        unknown = fields.keys() - type(self).model_fields.keys()
        if unknown:
            raise ValueError(f"a report has no field {', '.join(sorted(unknown))}")
        return self.model_copy(update=fields)

    @property
    def organ_numbers(self) -> list[int]:
        """Returns the numbers of the organs that were requested and that the segmenter knows; all of the table if none is
        named."""
        named = [organ.index for organ in organ_table().organs if organ.name in self.organs]
        return named or organ_table().indices

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Report:
        """Reads what `to_json` gave, by this version or an earlier one.

        Raises:
            ValueError: not a report.
        """
        try:
            return cls.model_validate(dict(content))
        except ValidationError as error:
            raise ValueError(f"not a report: {error.error_count()} fields cannot be read") from error


def base_report(segmenter: str, image: Volume, labels: np.ndarray, organs: Sequence[int]) -> Report:
    """Returns what all reports hold: image, requested organs, their volumes, versions, and how values became HU.

    Args:
        segmenter: its name in the registry.
        image: the CT.
        labels: its label map `[z, y, x]`.
        organs: numbers of the requested organs.
    """
    import numpy as np
    import torch  # every segmenter has loaded it; those who only read reports do without

    table = organ_table()
    counts = np.bincount(labels.ravel(), minlength=256)
    found: dict[str, Any] = {
        "image": image.source,
        "segmenter": segmenter,
        "organs": [table[k].name for k in organs],
        "volumes_ml": {table[k].name: round(float(counts[k]) * image.geometry.voxel_ml, 2) for k in organs},
        "version": package_version(),
        "torch": torch.__version__,
    }
    if image.remarks:
        found["remarks"] = list(image.remarks)
    if image.hu is not None:
        found["hu"] = dict(image.hu)
    return Report(**found)
