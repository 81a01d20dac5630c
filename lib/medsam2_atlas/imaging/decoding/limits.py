"""Limits for files from outside."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class DecodingLimits(BaseModel):
    """Limits on the size of an image and on the cost of decoding it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    processes: int = Field(default=2, ge=1, le=32, description="number of reader processes, each of which decodes one file")
    voxels_million: int = Field(default=600, ge=1, description="max voxels of an image, in millions; 512 x 512 x 2000 are 524")
    memory_mb: int = Field(default=8000, ge=1000, description="max address space of a reader process, in megabytes")
    seconds: float = Field(default=120.0, gt=0, description="max wall time and max processor time for a file, in seconds")

    @property
    def voxels(self) -> int:
        """The max number of voxels of an image."""
        return self.voxels_million * 1_000_000
