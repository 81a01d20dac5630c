"""Runs the command line: `python -m medsam2_atlas`."""

from medsam2_atlas.cli import main

main()
