"""Registration by keypoints (FROG, Agier et al. 2020): detection, description, matching, half transforms to a common space."""

from medsam2_atlas.registration.keypoints.keypoint import Keypoints, Landmarks

__all__ = ["Keypoints", "Landmarks"]
