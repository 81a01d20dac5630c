"""Names that users choose from, on the command line and in code.

The module imports no library, so that a parser of arguments can offer the choices without loading what is behind them.
"""

from __future__ import annotations

from typing import Literal, get_args

ReferenceStrategy = Literal["reference-1", "reference-3"]

Strategy = Literal["atlas", "A", "B", "C", "D", "E", ReferenceStrategy]
"""How MedSAM2 is prompted; see `pipeline`."""

REFERENCE_STRATEGIES: frozenset[str] = frozenset(get_args(ReferenceStrategy))
"""Strategies that prompt from the true label map."""

PromptSource = Literal["atlas", "unet", "both"]
"""What the first boxes come from: the atlas' score maps, a U-Net's coarse masks, or per organ the better of both."""

ThresholdRule = Literal["atlas", "published", "adaptive"]
"""Which threshold turns a score map into a prompting region; see `prompting.threshold_of`."""

Loop = Literal["symmetric", "published"]
"""How boxes condition the propagation through slices; see `medsam2.propagation`."""

Memory = Literal["", "small", "smallest", "cpu"]
"""How sparing networks are with a GPU's memory: as usual, in main memory what can lie there, in the smallest steps, or not on
a GPU at all."""

Fusion = Literal["mean", "local", "joint"]
"""How references vote in the common space; see `atlas.voting`."""

MissingOrgan = Literal["unknown", "absent"]
"""Whether an organ that a reference's label map lacks is not annotated, or not present in the patient."""

Made = Literal["MANUAL", "SEMIAUTOMATIC", "AUTOMATIC"]
"""How a label map was made, in DICOM's words (Segment Algorithm Type)."""

FINAL = "final"
"""Tag of the label maps that a person has signed off."""
