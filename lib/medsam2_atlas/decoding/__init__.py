"""Files from others: their headers are checked first, and their voxels are decoded in processes of their own."""

from medsam2_atlas.decoding.limits import DecodingLimits

__all__ = ["DecodingLimits"]
