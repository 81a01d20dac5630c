"""The command line, `medsam2-atlas`: one module for each group of commands."""

from medsam2_atlas.cli.main import app, main

__all__ = ["app", "main"]
