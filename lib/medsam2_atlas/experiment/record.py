"""The record of one variant on one case: scores per organ, cost per stage, and what both depend on.

A record contains raw values. Rules for empty masks, means and tests are applied when the report is written, so changing them
never needs a new run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.files import text_of, write_json
from medsam2_atlas.experiment.variant import Variant


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PromptScore(_Frozen):
    """The errors of an organ's first prompt, against the prompt of the ground truth; see `evaluation.PromptError`."""

    centre_mm: float = Field(description="distance between the centres of the prompting regions, mm")
    z_min_mm: float = Field(description="error of the range's lower end, mm; positive if too high")
    z_max_mm: float = Field(description="error of the range's upper end, mm; positive if too high")
    box_iou: float = Field(description="mean IoU of the boxes with the organ's true boxes on the same slices")
    cut: bool = Field(description="whether the organ reaches the scan's first or last slice")


class OrganResult(_Frozen):
    """The scores of an organ that the ground truth or the prediction contains."""

    organ: int = Field(description="organ number")
    truth_ml: float = Field(description="volume in the ground truth, ml; 0: absent")
    predicted_ml: float = Field(description="volume in the prediction, ml; 0: absent")
    dice: float = Field(description="Dice; 0 if one mask is empty")
    nsd: float = Field(description="normalised surface distance at the configured tolerance; 0 if one mask is empty")
    hd95_mm: float | None = Field(description="95th percentile of the surface distances, mm; None if one mask is empty")
    prompt: PromptScore | None = Field(
        default=None, description="errors of the first prompt; None without a prompt, or if the ground truth lacks the organ"
    )


class Cost(_Frozen):
    """The cost of a stage or of a whole case. None stands for an unknown value."""

    seconds: float | None = Field(default=None, description="wall time, s")
    peak_mib: float | None = Field(default=None, description="peak resident memory of the process, MiB")
    gpu_mib: float | None = Field(default=None, description="peak GPU memory, MiB; None without a GPU")
    watt_hours: float | None = Field(default=None, description="energy, Wh")
    co2_grams: float | None = Field(default=None, description="emissions, g CO2e")


class Record(_Frozen):
    """One variant on one case."""

    case: str = Field(description="name of the case")
    variant: Variant = Field(description="segmenter, number of references and jitter")
    key: dict[str, Any] = Field(description="everything that the result depends on; equal keys mean equal scores")
    organs: tuple[OrganResult, ...] = Field(description="organs that ground truth or prediction contains, by organ number")
    counted: tuple[int, ...] = Field(description="numbers of the organs that were scored")
    prompted: bool = Field(description="whether the variant makes prompts, so that an organ without one counts as missing")
    diagonal_mm: float = Field(description="diagonal of the image, mm: HD95 of an organ with one empty mask")
    confusion: tuple[tuple[int, int, int], ...] = Field(
        description="voxel counts: (organ in the ground truth, organ in the prediction, voxels); 0 is the background"
    )
    total: Cost = Field(description="cost of the case")
    stages: dict[str, Cost] = Field(description="cost of each stage")
    energy_how: str = Field(description="how the energy was measured, or why it was not")
    report: dict[str, Any] = Field(description="the segmenter's report without prompts")
    threads: int = Field(default=1, description="threads of PyTorch; other numbers change results by rounding")

    def organ(self, number: int) -> OrganResult | None:
        """Returns the scores of an organ; None if neither ground truth nor prediction contains it, or it was not scored."""
        return next((found for found in self.organs if found.organ == number), None)

    def write(self, file: Path) -> None:
        """Writes the record as JSON, in one step."""
        write_json(self.model_dump(mode="json"), file)

    @classmethod
    def read(cls, file: Path) -> Record:
        """Reads a record.

        Raises:
            InputError: if the file cannot be read, or is not a record.
        """
        try:
            return cls.model_validate_json(text_of(file))
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            raise InputError(
                file, f"is not the record of a result: {error}", "Remove it; the case is then run again."
            ) from error
