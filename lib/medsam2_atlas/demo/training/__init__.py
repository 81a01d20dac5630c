"""Trains the demo weights on phantoms."""

from typing import TYPE_CHECKING

from medsam2_atlas.base.lazy import lazy_exports
from medsam2_atlas.demo.training.options import DEMO_MARK, DemoTraining

if TYPE_CHECKING:
    from medsam2_atlas.demo.training.demo import train_demo

__getattr__ = lazy_exports(__name__, {"train_demo": "demo"})

__all__ = ["DEMO_MARK", "DemoTraining", "train_demo"]
