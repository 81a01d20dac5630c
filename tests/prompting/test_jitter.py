"""Prompts are displaced by a given distance, along one line per organ of a CT, within the volume."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsam2_atlas.base.errors import InputError
from medsam2_atlas.imaging.volume import Geometry
from medsam2_atlas.prompting import BoxPrompt, Jitter, JitterKind, OrganPrompt, PromptOrigin, Prompts, jittered

GRID = Geometry((200, 160, 120), (0.8, 1.6, 5.0), (0.0, 0.0, 0.0))
LIVER = OrganPrompt(
    6, 40, 80, (BoxPrompt(50, (80, 60, 119, 99)), BoxPrompt(60, (85, 62, 117, 95)), BoxPrompt(70, (90, 70, 110, 90)))
)
DIGESTS = [f"case {n}" for n in range(400)]


def moved(prompt: OrganPrompt, kind: JitterKind, mm: float, digest: str = "case", grid: Geometry = GRID) -> OrganPrompt:
    (found,) = jittered(Prompts((prompt,)), Jitter(kind, mm), grid, digest).prompts
    return found


def displacement(digest: str, mm: float, grid: Geometry = GRID, prompt: OrganPrompt = LIVER) -> np.ndarray:
    """Returns the displacement of the first box, `[3]` (x, y, z) in mm."""
    before, after = prompt.boxes[0], moved(prompt, "shift", mm, digest, grid).boxes[0]
    corner = np.array([after.box[0] - before.box[0], after.box[1] - before.box[1], after.z - before.z])
    offset: np.ndarray = corner * grid.spacing
    return offset


@pytest.mark.parametrize("text", ["shift=10", "scale=-5", "shift=2.5", "scale=0", "shift=0.001"])
def test_the_text_form_of_a_jitter_can_be_parsed(text: str) -> None:
    assert str(Jitter.parse(text)) == text
    assert Jitter("scale", -0.0) == Jitter("scale", 0) and str(Jitter("scale", -0.0)) == "scale=0"


@pytest.mark.parametrize(
    "text",
    ["", "shift", "shift=", "shift=-1", "move=5", "5", "scale=nan", "scale=inf", "shift=1001", "scale=-1e9", "shift=1=2"],
)
def test_other_texts_are_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(InputError, match="shift=MM"):
        Jitter.parse(text)


def test_a_shift_moves_the_whole_prompt_rigidly() -> None:
    found = moved(LIVER, "shift", 20)
    up = found.z_min - LIVER.z_min
    assert found.z_max - LIVER.z_max == up
    offsets = {tuple(np.round(np.subtract(b.box, a.box), 6)) for a, b in zip(LIVER.boxes, found.boxes, strict=True)}
    assert len(offsets) == 1
    x_min, y_min, x_max, y_max = offsets.pop()
    assert (x_min, y_min) == (x_max, y_max)
    assert [box.z for box in found.boxes] == [box.z + up for box in LIVER.boxes]
    assert found.notes == ()


def test_a_shift_has_its_length_but_for_the_rounding_to_slices() -> None:
    for digest in DIGESTS[:50]:
        x, y, z = displacement(digest, 20)
        exact_z = np.sqrt(max(0.0, 20**2 - x**2 - y**2))
        assert abs(abs(z) - exact_z) < GRID.spacing[2]
        assert x**2 + y**2 <= 20**2 + 1e-6


def test_directions_are_uniform_on_the_sphere() -> None:
    fine = Geometry((200, 160, 12000), (1.0, 1.0, 0.05), (0.0, 0.0, 0.0))
    prompt = OrganPrompt(6, 5000, 7000, (BoxPrompt(6000, (80, 60, 119, 99)),))
    units = np.array([displacement(digest, 20, fine, prompt) for digest in DIGESTS]) / 20
    assert np.linalg.norm(units, axis=1) == pytest.approx(1, abs=0.01)
    assert np.abs(units.mean(0)).max() < 0.1  # 3.5 standard errors
    assert np.cov(units.T) == pytest.approx(np.eye(3) / 3, abs=0.06)
    # The heights of points on a sphere are uniform.
    assert np.quantile(units[:, 2], [0.25, 0.75]) == pytest.approx([-0.5, 0.5], abs=0.12)


def test_the_direction_depends_on_case_and_organ_and_not_on_the_distance() -> None:
    line = displacement("case", 10)[:2] / 10
    for mm in (1, 5, 40):
        assert displacement("case", mm)[:2] / mm == pytest.approx(line)
    spleen = OrganPrompt(1, LIVER.z_min, LIVER.z_max, LIVER.boxes)
    assert displacement("case", 10, prompt=spleen)[:2] / 10 != pytest.approx(line, abs=0.01)
    assert displacement("other case", 10)[:2] / 10 != pytest.approx(line, abs=0.01)


def test_slices_never_turn_back_as_the_distance_grows() -> None:
    for digest in DIGESTS[:20]:
        heights = [displacement(digest, mm)[2] for mm in range(0, 60, 3)]
        steps = np.diff(heights)
        assert heights[0] == 0
        assert (steps >= 0).all() or (steps <= 0).all()


def test_thick_slices_keep_the_mean_displacement_along_z() -> None:
    # On a sphere of radius r, the mean of |z| is r / 2. Rounded to the nearest slice of 5 mm, nothing would move below 2.5 mm.
    for mm in (2, 3, 12):
        mean = np.mean([abs(displacement(digest, mm)[2]) for digest in DIGESTS])
        assert mean == pytest.approx(mm / 2, rel=0.2)
    for mm in (3, -3, 7):
        more = np.mean([LIVER.z_min - moved(LIVER, "scale", mm, digest).z_min for digest in DIGESTS])
        assert more * GRID.spacing[2] == pytest.approx(mm, rel=0.2)


@pytest.mark.parametrize("kind", ["shift", "scale"])
def test_a_distance_of_zero_changes_nothing(kind: JitterKind) -> None:
    for digest in DIGESTS[:50]:
        assert moved(LIVER, kind, 0, digest) == LIVER


def test_scaling_moves_all_borders_outward_by_the_same_distance() -> None:
    found = moved(LIVER, "scale", 10)
    for before, after in zip(LIVER.boxes, found.boxes, strict=True):
        assert after.z == before.z
        x_min, y_min, x_max, y_max = before.box
        assert after.box == pytest.approx((x_min - 12.5, y_min - 6.25, x_max + 12.5, y_max + 6.25))
    assert (found.z_min, found.z_max) == (38, 82)


def test_scaling_inward_leaves_a_pixel_of_each_box_and_all_boxes_in_the_range() -> None:
    found = moved(LIVER, "scale", -8)
    assert found.boxes[0].box == pytest.approx((90, 65, 109, 94))
    assert found.z_min in (41, 42) and found.z_max == 120 - found.z_min
    least = moved(LIVER, "scale", -1000)
    assert [box.box for box in least.boxes] == [
        (99.5, 79.5, 99.5, 79.5),
        (101.0, 78.5, 101.0, 78.5),
        (100.0, 80.0, 100.0, 80.0),
    ]
    assert (least.z_min, least.z_max) == (50, 70)


def test_scaling_is_cut_at_the_border_of_the_volume_with_a_note() -> None:
    found = moved(LIVER, "scale", 300)
    assert {box.box for box in found.boxes} == {(0, 0, 199, 159)}
    assert (found.z_min, found.z_max) == (0, 119)
    assert found.notes == ("the jittered prompt is cut at the border of the volume",)


def along_z(sign: int) -> str:
    """Returns the digest whose direction is nearest to the z axis."""
    return max(DIGESTS, key=lambda digest: sign * displacement(digest, 50)[2])


def test_boxes_beyond_the_last_slice_are_dropped_and_the_range_is_cut() -> None:
    grid = Geometry((200, 160, 82), GRID.spacing, GRID.origin)
    found = moved(LIVER, "shift", 75, along_z(1), grid)
    up = found.z_min - LIVER.z_min
    assert 13 <= up <= 16
    assert found.z_max == 81
    assert [box.z for box in found.boxes] == [50 + up, 60 + up]
    assert found.notes == ("the jitter moved 1 of its boxes out of the volume",)


def test_if_all_boxes_lie_beyond_the_last_slice_the_nearest_one_moves_back() -> None:
    grid = Geometry((200, 160, 60), GRID.spacing, GRID.origin)
    low = OrganPrompt(6, 10, 50, (BoxPrompt(40, (80, 60, 119, 99)), BoxPrompt(45, (90, 70, 110, 90))))
    found = moved(low, "shift", 150, along_z(1), grid)
    assert found.z_max == 59
    (box,) = found.boxes
    assert box.z == 59
    assert box.box[2] - box.box[0] == pytest.approx(39)  # the size of the lower one, which is nearer
    assert found.notes == ("the jitter moved its boxes out of the volume: the nearest one lies on slice 59",)
    sunk = moved(OrganPrompt(6, 20, 59, (BoxPrompt(25, (80, 60, 119, 99)),)), "shift", 150, along_z(-1), grid)
    assert (sunk.z_min, sunk.boxes[0].z) == (0, 0)


def test_a_prompt_that_leaves_the_volume_is_missing_with_the_reason() -> None:
    spleen = OrganPrompt(1, 40, 80, LIVER.boxes)
    both = Prompts((spleen, LIVER), {4: "not there"}, {k: PromptOrigin("truth", "given") for k in (1, 6)})
    gone = jittered(both, Jitter("shift", 1000), GRID, "case")
    assert gone.prompts == () and gone.origins == {}
    assert set(gone.missing) == {1, 4, 6} and gone.missing[4] == "not there"
    assert gone.missing[6] == "the jitter moved its prompt out of the volume"
    assert set(jittered(both, Jitter("shift", 5), GRID, "case").origins) == {1, 6}


def test_jittered_prompts_have_no_confidence() -> None:
    assert moved(OrganPrompt(6, 40, 80, LIVER.boxes, confidence=0.9), "scale", 1).confidence is None


@given(
    st.sampled_from(["shift", "scale"]),
    st.floats(0, 1000),
    st.booleans(),
    st.sampled_from(DIGESTS),
    st.lists(st.integers(0, 11), min_size=1, max_size=3, unique=True),
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
)
def test_jittered_prompts_are_valid_and_inside_the_volume(
    kind: JitterKind, mm: float, inward: bool, digest: str, slices: list[int], sides: tuple[int, int, int, int]
) -> None:
    grid = Geometry((20, 20, 12), (0.7, 0.9, 3.3), (0.0, 0.0, 0.0))
    x, y, width, height = sides
    corners = (float(x), float(y), float(x + width), float(y + height))
    prompt = OrganPrompt(3, min(slices), 11, tuple(BoxPrompt(z, corners) for z in sorted(slices)))
    jitter = Jitter(kind, -mm if inward and kind == "scale" else mm)
    found = jittered(Prompts((prompt,)), jitter, grid, digest)  # the prompts check order and range of their boxes
    assert len(found.prompts) + len(found.missing) == 1
    for p in found.prompts:
        assert 0 <= p.z_min <= p.z_max <= 11
        assert all(0 <= box.box[0] <= box.box[2] <= 19 and 0 <= box.box[1] <= box.box[3] <= 19 for box in p.boxes)
    assert kind == "shift" or found.prompts
