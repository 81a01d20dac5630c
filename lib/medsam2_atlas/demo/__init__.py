"""Synthetic patients, and the demo weights that are trained on them."""
