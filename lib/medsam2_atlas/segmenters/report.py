"""The typed report that every segmenter returns with a label map, and its JSON."""

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
    """The report on one segmentation. The JSON omits fields that the segmenter does not set.

    Organs are named as in `configs/labels.yaml`. Reports of other releases may have additional fields.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    image: str = Field("", description="file or folder of the CT")
    segmenter: str = Field("", description="name in the registry, such as D, unet_3d or bundle:NAME")
    strategy: str | None = Field(None, description="the same name; deprecated, use segmenter")
    organs: list[str] = Field(default_factory=list, description="requested organs that the segmenter can segment")
    volumes_ml: dict[str, float] = Field(default_factory=dict, description="volume of each requested organ, millilitres")
    version: str = Field("", description="version of medsam2_atlas")
    torch: str = Field("", description="version of PyTorch")
    remarks: list[str] | None = Field(None, description="corrections made while the CT was read")
    hu: dict[str, Any] | None = Field(None, description="how the file's values were converted to HU")
    seconds: dict[str, float] = Field(default_factory=dict, description="wall time of each stage, and `total`")
    energy: dict[str, Any] | None = Field(
        None,
        description="`watt_hours` and `co2_grams`, null if unknown, `how` they were measured, and both with `seconds` by stage "
        "(`stages`)",
    )
    memory: str | None = Field(
        None, description="why the networks ran in smaller steps or on the CPU; missing if GPU memory was sufficient"
    )
    device: str | None = Field(None, description="device of the networks, such as cpu or cuda:0")
    precision: str | None = Field(None, description="number format of the networks")
    windows: str | None = Field(None, description="`fewer slices` if the U-Net's windows were shortened to save memory")
    weights: dict[str, Any] | None = Field(None, description="file, checksum and mark of the network's weights")
    mark: str | None = Field(None, description="warning about weights that are not official")
    warning: str | None = Field(None, description="a problem that a person must check before using the label map")
    confidence: dict[str, float] | None = Field(
        None,
        description="0..1 per organ, in ascending order; for prompted strategies, the estimated probability that the boxes "
        "reach an IoU of .5 with the true boxes; for strategy F, that the organ's Dice is at least .85",
    )
    disagreement: dict[str, float] | None = Field(
        None,
        description="strategy F, per organ: of the voxels that the score map or the network alone gives to the organ, the "
        "share that the other one does not, 0..1",
    )
    joint_weights: dict[str, Any] | None = Field(
        None,
        description="strategy F: weights of `network` and `maps` per organ, as learnt for the checkpoint, and the mean "
        "`agreement` of both in the learning; missing if all weights are 1",
    )
    agreement_unknown: str | None = Field(
        None, description="strategy F: why `agreement_power` had no effect, although it is above 0"
    )
    uses_truth: bool | None = Field(None, description="whether the ground truth was read, as reference strategies do")
    from_cache: bool | None = Field(None, description="true if a stored label map was returned")

    # Prompted strategies
    atlas: dict[str, Any] | None = Field(
        None,
        description="folder, version and number of references of the atlas; how the CT was registered to it (`registration`), "
        "and how its references were registered to each other (`references_registered_by`)",
    )
    unet: dict[str, Any] | None = Field(None, description="weights of the U-Net whose coarse masks gave prompts")
    prompter: dict[str, Any] | None = Field(None, description="weights of another segmenter whose coarse masks gave prompts")
    loop: str | None = Field(None, description="propagation loop: how boxes condition the propagation")
    assumed_sex: dict[str, Any] | None = Field(
        None,
        description="`sex` whose references resemble the CT more, its `certainty` (0.5..1), and `used`: whether only they gave "
        "the prompt of prostate or uterus; an assumption of the method, not a finding about the patient",
    )
    thresholds: str | None = Field(None, description="threshold rule that gave prompting regions from score maps")
    mode: str | None = Field(None, description="mode of MedSAM2: exact, or fast with approximations")
    engine: str | None = Field(None, description="implementation of MedSAM2's linear layers, and its measured speed")
    prompts_from: str | None = Field(None, description="source of the first prompts: atlas, unet, both, truth, or a segmenter")
    prompt_sources: dict[str, str] | None = Field(None, description="source of each organ's prompt, and the reason")
    jitter: str | None = Field(None, description="displacement of the true prompts in mm, such as shift=10 or scale=-5")
    prompts: list[dict[str, Any]] | None = Field(None, description="prompts of the last pass")
    first_pass_prompts: list[dict[str, Any]] | None = Field(None, description="prompts of the first of two passes")
    fallbacks: dict[str, list[str]] | None = Field(None, description="fallbacks that were used, by organ")
    without_prompt: dict[str, str] | None = Field(None, description="organs without a prompt, and the reason")

    # Other segmenters
    augment: bool | None = Field(
        None, description="test-time augmentation: whether results of changed copies were averaged (nnU-Net: mirrored copies)"
    )
    marks: list[dict[str, Any]] | None = Field(None, description="boxes and points of a person")
    overruled: list[str] | None = Field(None, description="corrections of the network's mask by a person's points")
    range: list[int] | None = Field(None, description="first and last slice of the propagation")
    refined: dict[str, Any] | None = Field(
        None,
        description="the refinement of a mask: origin (`mask`) and checksum (`sha256`) of the mask, voxels `added` and "
        "`removed`, and both by range of slices (`slices`)",
    )

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON values, without unset fields."""
        return self.model_dump(mode="json", exclude_unset=True)

    def with_fields(self, **fields: Any) -> Report:
        """Returns a copy of the report with new values of some fields.

        Raises:
            ValueError: if a field does not exist.
        """
        unknown = fields.keys() - type(self).model_fields.keys()
        if unknown:
            raise ValueError(f"a report has no field {', '.join(sorted(unknown))}")
        return self.model_copy(update=fields)

    @property
    def organ_numbers(self) -> list[int]:
        """The numbers of the requested organs that the segmenter can segment; all of the table if the report lists none."""
        named = [organ.index for organ in organ_table().organs if organ.name in self.organs]
        return named or organ_table().indices

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Report:
        """Reads the JSON values of `to_json`, of this release or an earlier one.

        Raises:
            ValueError: if they are not a report.
        """
        try:
            return cls.model_validate(dict(content))
        except ValidationError as error:
            raise ValueError(f"not a report: {error.error_count()} fields cannot be read") from error


def base_report(segmenter: str, image: Volume, labels: np.ndarray, organs: Sequence[int]) -> Report:
    """Returns the common fields of all reports: image, requested organs and their volumes, versions, and conversion to HU.

    Args:
        segmenter: its name in the registry.
        image: the CT.
        labels: organ numbers `[z, y, x]`.
        organs: numbers of the requested organs.
    """
    import numpy as np
    import torch  # imported here, because programs that only read reports do not need it

    table = organ_table()
    counts = np.zeros(256, np.int64)
    for plane in labels:  # slice by slice: NumPy converts what it counts to 64 bit
        counts += np.bincount(plane.ravel(), minlength=256)
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
