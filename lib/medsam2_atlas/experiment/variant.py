"""A variant: a segmenter, and what an experiment changes about its input."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field


class Variant(BaseModel):
    """A segmenter as one experiment runs it.

    Two kinds of variants are more than a segmenter: a reference strategy with jittered prompts, and a strategy with fewer
    references.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    segmenter: str = Field(description="name of the segmenter in the registry, such as D or unet_3d")
    references: int | None = Field(default=None, ge=1, description="number of references; None: all references of the atlas")
    jitter: str | None = Field(default=None, description="displacement of the true prompts in mm, such as shift=10; None: none")

    @property
    def name(self) -> str:
        """The unique name of the variant, for tables and plots.

        >>> Variant(segmenter="reference-3", jitter="shift=10").name
        'reference-3, shift=10 mm'
        """
        parts = [self.segmenter]
        if self.references is not None:
            parts.append(f"{self.references} reference{'s' if self.references > 1 else ''}")
        if self.jitter is not None:
            parts.append(f"{self.jitter} mm")
        return ", ".join(parts)

    @property
    def is_main(self) -> bool:
        """Whether the variant is a segmenter without changes: it belongs in the main table."""
        return self.references is None and self.jitter is None

    @property
    def folder(self) -> str:
        """The name of the variant's folder: letters, digits, `_`, `.`, `-` and `+` only.

        >>> Variant(segmenter="bundle:spleen", references=3).folder
        'bundle-spleen+3-references'
        """
        parts = [self.segmenter]
        parts += [f"{self.references}-references"] if self.references is not None else []
        parts += [self.jitter.replace("=", "-").replace("--", "-minus-")] if self.jitter is not None else []
        return "+".join(re.sub(r"[^A-Za-z0-9_.-]", "-", part) for part in parts)
