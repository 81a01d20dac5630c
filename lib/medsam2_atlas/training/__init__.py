"""Trains the demo weights on phantoms."""
