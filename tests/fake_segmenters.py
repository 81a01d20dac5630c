"""Fake segmenters for tests of code that runs segmenters, and models without weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medsam2_atlas.imaging.hounsfield import CHECK, HuRule
from medsam2_atlas.imaging.volume import Volume
from medsam2_atlas.segmenters.base import DEFAULTS, Options, Provenance, Segmentation, Segmenter
from medsam2_atlas.storage import WorkFolder
from medsam2_atlas.studies.models import Models

Segment = Callable[[Volume, Options], Segmentation]


class FakeSegmenter(Segmenter):
    """A segmenter with a given provenance that calls a function of the test. name: a name in the registry."""

    def __init__(self, name: str, made_of: Mapping[str, Any], run: Segment, *, uses_network: bool = False) -> None:
        super().__init__(name, Models({}))
        self._made_of, self.run, self.uses_network = dict(made_of), run, uses_network

    def check(self) -> None:
        """Finds all requirements present."""

    def provenance(self, options: Options) -> Provenance:
        return dict(self._made_of)

    def segment(self, volume: Volume, options: Options = DEFAULTS) -> Segmentation:
        return self.run(volume, options)


def plain_models(folder: Path | None = None, hu: HuRule = CHECK) -> Models:
    """Returns models on the processor, for the studies of a folder if one is given."""
    return Models({"device": "cpu"}, None if folder is None else WorkFolder.of(folder), hu)
