"""Self-contained HTML pages: style, sortable tables, embedded pictures, and plots for light and dark screens."""

from medsam2_atlas.pages.document import document, embedded, text
from medsam2_atlas.pages.drawing import GRID, INK, MUTED, PALETTE, colour, grouped_boxes, png, styled, svg

__all__ = [
    "GRID",
    "INK",
    "MUTED",
    "PALETTE",
    "colour",
    "document",
    "embedded",
    "grouped_boxes",
    "png",
    "styled",
    "svg",
    "text",
]
