"""Settings of the registration by keypoints; `configs/registration.yaml` has their values and reasons."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat


def _ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError("each value must be above the one before it")
    return values


class KeypointConfig(BaseModel):
    """Keypoints, their matches, and the half transforms that bring matched points together (Agier et al. 2020)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: Annotated[tuple[float, float], AfterValidator(_ascending)] = Field(
        (-200.0, 400.0), description="HU; range in which interest points are searched: from fat to bone"
    )
    scales: Annotated[tuple[PositiveFloat, ...], AfterValidator(_ascending)] = Field(
        (4.0, 5.6, 8.0, 11.3, 16.0),
        min_length=3,
        description="mm; standard deviations of the Gaussians at which interest points are searched. The first and the last "
        "only bound the search over scale",
    )
    min_response: float = Field(
        1e-6,
        ge=0,
        description="min scale-normalised determinant of the Hessian, for a window scaled to 0..1: weaker points are noise",
    )
    max_points: int = Field(2000, ge=10, description="max number of points in an image; the strongest are kept")
    border: float = Field(
        1.0, ge=0, description="scales; min distance of a point to the scan's ends, whose cut would look like an edge"
    )
    cells: int = Field(3, ge=1, description="cells along each axis of a descriptor's window")
    cell_size: float = Field(4.0, gt=0, description="scales; edge of a cell")
    max_distance: float = Field(0.8, gt=0, le=2, description="max distance of two matched descriptors, which have unit length")
    ratio: float = Field(
        1.0, gt=0, le=1, description="max ratio of the distances to the best and to the second-best point; 1 admits all"
    )
    max_offset: float = Field(
        60.0,
        ge=0,
        description="mm; max distance of matched points after the linear stage, when they are matched again; 0 keeps the first "
        "matches, as published",
    )
    min_matches: int = Field(20, ge=4, description="min number of matches without outliers; with fewer, registration fails")
    vote_radius: float = Field(
        40.0, gt=0, description="mm; matches within this radius support each other's shift in the first search"
    )
    linear_iterations: int = Field(50, ge=1, description="iterations of the linear stage; as published")
    scale_limits: Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ascending)] = Field(
        (0.6, 1.6), description="limits of an image's scaling along each axis: a child, a tall or heavy patient"
    )
    scale_prior: float = Field(
        1e5,
        ge=0,
        description="mm² of squared distances that hold the scaling at 1: a short scan determines its scaling poorly",
    )
    grid: float = Field(100.0, gt=0, description="mm; spacing of the coarsest lattice of B-splines; as published")
    levels: int = Field(3, ge=0, description="number of lattices, each with half the spacing; as published. 0 stays linear")
    iterations: int = Field(40, ge=1, description="gradient steps on each lattice")
    rate: float = Field(
        0.1,
        gt=0,
        le=1,
        description="length of a step, relative to one that moves each lattice point by the mean offset around it. Published: "
        "200 steps of .02, which follow the same path",
    )
    support: float = Field(
        10.0,
        gt=0,
        description="matches; a lattice point with so many matches around it makes half steps: where matches are few, "
        "they are followed less",
    )
    max_shift: float = Field(
        0.4, gt=0, le=0.4, description="spacings; max displacement of a lattice point, which excludes folds; as published"
    )
    weigh_every: int = Field(2, ge=1, description="steps between two estimates of the weights of matches; published: 10 of .02")
    min_weight: float = Field(0.5, ge=0, le=1, description="min weight of a match; those below are outliers; as published")
    sample: int = Field(
        10_000, ge=100, description="max number of distances from which an image's weights are estimated; as published"
    )
    inlier_limits: Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ascending)] = Field(
        (2.0, 30.0), description="mm; limits of the scale of the inliers' distances: half a voxel, the size of an organ"
    )
