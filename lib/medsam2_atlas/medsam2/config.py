"""Settings of MedSAM2's inference; `configs/medsam2.yaml` has their values, `configs/medsam2/` the networks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from medsam2_atlas.base.choices import Memory
from medsam2_atlas.base.configuration import Settings, read_config
from medsam2_atlas.base.overlay import read_once
from medsam2_atlas.base.precision import ProcessorFormat
from medsam2_atlas.base.resource import resource


class MedSAM2Config(Settings):
    """The HU window of MedSAM2's input, and how the engine uses the machine.

    On a GPU, larger batches need more memory and less time; results differ by rounding only.
    """

    window: tuple[float, float] = Field(
        (-100.0, 500.0), description="HU to which the CT is clipped; MedSAM2 was trained with this window"
    )
    linear: Literal["auto", "onednn", "torch"] = Field(
        "auto",
        description="library of the matrix products on the CPU: oneDNN, PyTorch's usual one, or `auto`: oneDNN, unless a quick "
        "measurement shows that it is slower or less precise on this machine; results differ by rounding only",
    )
    feature_megabytes: float = Field(
        1024.0,
        gt=0,
        description="max size in MiB of an image's stored features; those not used for longest are dropped and computed again",
    )
    compile: bool = Field(
        False,
        description="whether encoder, mask decoder and memory encoder are compiled at their first use on a GPU, which takes up "
        "to minutes and suits a server or many cases; results differ by rounding only",
    )
    batch: int = Field(
        32,
        ge=1,
        description="max number of tracks (organ and direction) in one batch on a GPU; the CPU runs organs one after the other",
    )
    encoder_batch: int = Field(
        8, ge=1, description="number of slices that are encoded together on a GPU; larger batches need more memory"
    )
    small_batch: int = Field(
        4, ge=1, description="replaces `batch` if the GPU's memory is short; 1 is used if it is still too short"
    )
    small_encoder_batch: int = Field(
        2, ge=1, description="replaces `encoder_batch` if the GPU's memory is short; 1 is used if it is still too short"
    )

    fast_precision: ProcessorFormat = Field(
        "auto",
        description="format of matrix products in fast mode on the CPU: `bfloat16`, `float32`, or `auto`: bfloat16 if the "
        "processor multiplies it in hardware",
    )
    fast_margin: float = Field(
        0.28,
        ge=0,
        le=1,
        description="fast mode on the CPU: the part of a slice around the previous mask that reads memories in full detail, as "
        "a margin on each side, in slice widths",
    )
    fast_key_margin: float = Field(
        0.09,
        ge=0,
        le=1,
        description="fast mode on the CPU: the part of a memory around its mask that stays in full detail for the rest of the "
        "slice, as a margin on each side, in slice widths",
    )
    fast_block: int = Field(
        4, ge=1, description="fast mode on the CPU: rows and columns of a memory's tokens that are averaged outside that part"
    )
    fast_memories: int = Field(
        3,
        ge=1,
        description="fast mode on the CPU: number of the newest memories that are read in full detail besides those of "
        "prompted slices; older ones are read with averaged tokens",
    )
    fast_min_overlap: float = Field(
        0.8,
        ge=0,
        le=1,
        description="fast mode: the second pass repeats an organ only if a box or the z-range of its mask overlaps with the "
        "first prompt's by less than this IoU; 0 skips the second pass, 1 repeats all organs whose prompts changed",
    )

    @model_validator(mode="after")
    def _ordered(self) -> MedSAM2Config:
        if not self.window[0] < self.window[1]:
            raise ValueError("window: the lower bound comes first")
        return self

    def batches(self, memory: Memory, device: str = "cuda") -> tuple[int, int]:
        """Returns the batch size of tracks and the batch size of encoded slices.

        Args:
            memory: the step of the memory ladder.
            device: the type of the device. On the CPU, both sizes are 1: batches save no time there, and a batch rounds in
                another order than the official predictor.
        """
        sizes = {"small": (self.small_batch, self.small_encoder_batch), "smallest": (1, 1)}
        return (1, 1) if device == "cpu" else sizes.get(memory, (self.batch, self.encoder_batch))


@read_once
def medsam2_config(file: Path | None = None) -> MedSAM2Config:
    """Returns the settings in `configs/medsam2.yaml`, or in another file.

    Raises:
        InputError: the file does not contain valid settings.
    """
    return read_config(MedSAM2Config, file or resource("configs/medsam2.yaml"), "configuration of MedSAM2")
