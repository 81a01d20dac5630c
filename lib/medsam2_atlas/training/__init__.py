"""Trains the demo weights on phantoms."""

from medsam2_atlas.training.demo import DEMO_MARK, DemoTraining, train_demo

__all__ = ["DEMO_MARK", "DemoTraining", "train_demo"]
