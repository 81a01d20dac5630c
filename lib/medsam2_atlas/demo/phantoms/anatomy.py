"""Converts a patient's parameters to the ordered list of body parts; later parts cover earlier ones."""

from __future__ import annotations

import numpy as np

from medsam2_atlas.demo.phantoms.frame import FAT, GAS, LUNG, STOOL, Build, Part
from medsam2_atlas.demo.phantoms.organs import add_abdomen, add_pelvic_organs
from medsam2_atlas.demo.phantoms.patient import Patient
from medsam2_atlas.demo.phantoms.shapes import Field, Solid, ellipsoid, tube, union
from medsam2_atlas.demo.phantoms.skeleton import add_skeleton


def anatomy(patient: Patient) -> list[Part]:
    """Returns all parts of a patient in painting order."""
    build = Build(patient)
    cavity, diaphragm = _trunk(build)
    _bowel(build)
    add_skeleton(build)
    vessels = _vessels(build)
    _chest(build, cavity, diaphragm, vessels)
    add_abdomen(build, cavity.within(diaphragm, 3.0), vessels)
    add_pelvic_organs(build)
    return build.parts


def outline(axes: list[tuple[float, float, float]], centre_y: float, grow: float = 0.0) -> Solid:
    """Returns a trunk: a superellipse (exponent 2.4) in each axial plane.

    Args:
        axes: rows of (z, half width, half depth) in mm.
        centre_y: y of all centres, in mm.
        grow: added to half widths and half depths, in mm.
    """
    z, a, b = np.asarray(sorted(axes), float).T

    def distance(p: np.ndarray) -> np.ndarray:
        radii = np.stack([np.interp(p[:, 2], z, a) + grow, np.interp(p[:, 2], z, b) + grow], 1)
        q = np.stack([p[:, 0], p[:, 1] - centre_y], 1)
        k0 = (np.abs(q / radii) ** 2.4).sum(1) ** (1 / 2.4)
        k1 = np.linalg.norm(q / radii**2, axis=1)
        result: np.ndarray = k0 * (k0 - 1) / np.maximum(k1, 1e-6)
        return result

    reach = np.array([a.max() + grow, b.max() + grow, 1e4])
    centre = np.array([0.0, centre_y, 0.0])
    return Solid(distance, centre - reach, centre + reach)


def _trunk(build: Build) -> tuple[Solid, Solid]:
    patient, rng = build.patient, build.rng
    wall = 11 + rng.normal(0, 1.5)
    inner = [(220.0, 118.0, 78.0), (120, 126, 84), (40, 126, 84), (-60, 118, 80), (-150, 116, 76), (-300, 112, 74)]
    outer = [(z, a + wall + (22 if z < -120 else 0), b + wall + (6 if z < -120 else 0)) for z, a, b in inner]
    centre_y = -34.0
    cavity = outline(inner, centre_y)
    muscle = outline(outer, centre_y)
    skin = outline([(z, a + patient.fat * (1.15 if z < -60 else 0.8), b + patient.fat) for z, a, b in outer], centre_y)
    if patient.table:
        back = float(-skin.distance(np.array([[0.0, 0.0, 0.0]], np.float32))[0])
        build.add(ellipsoid((0, back + 34, 0), (230, 26, 4000)), -350)
        build.add(ellipsoid((0, back + 30, 0), (226, 26, 4000)), -1000)
    build.add(build.rough(skin, 2.0, (90, 200)), FAT)
    build.add(muscle, patient.hu("muscle"))
    build.add(cavity, FAT)
    for side in (-1, 1):
        build.add(
            tube(build.line((side * 33, 44, 220), (side * 35, 46, 0), (side * 34, 48, -170)), (22, 25, 18)),
            patient.hu("muscle"),
        )
        build.add(
            tube(
                build.line((side * 26, 4, 25), (side * 40, 4, -60), (side * 56, -4, -140), (side * 72, -45, -240)),
                (7, 17, 21, 16),
            ),
            patient.hu("muscle"),
        )
        build.add(ellipsoid((side * 78, 44, -205), build.size(56, 34, 78)).within(muscle.grown(4)), patient.hu("muscle"))
        build.add(ellipsoid((side * 112, -10, -225), build.size(26, 40, 70)).within(muscle), patient.hu("muscle"))
    domes = union(ellipsoid(build.at(-62, -30, 14), (96, 98, 108)), ellipsoid(build.at(62, -28, 12), (92, 94, 100)), blend=14)
    below = Solid(lambda p: np.minimum(domes.distance(p), p[:, 2] - 10), np.full(3, -1e4), np.full(3, 1e4))
    return cavity, below


def _bowel(build: Build) -> None:
    rng, patient = build.rng, build.patient
    loops = int(np.clip(rng.normal(20 - 4 * patient.visceral_fat, 3), 8, 30))
    for _ in range(loops):
        start = np.array([rng.uniform(-75, 75), rng.uniform(-98, -42), rng.uniform(-170, -35)])
        control = start + np.cumsum(rng.normal(0, (24, 10, 20), (4, 3)), axis=0)
        control = np.clip(control, (-82, -100, -178), (82, -38, -38)) + rng.normal(0, 3, (4, 3))
        radius = rng.uniform(8, 13)
        loop = tube(control, (radius,) * 4)
        build.add(loop, patient.hu("wall"))
        gas = rng.random() < 0.15
        build.add(loop.grown(-2.8), GAS if gas else rng.uniform(10, 45))
    colon = tube(
        build.line(
            (-72, -45, -150), (-90, -25, -95), (-94, -22, -45), (-84, -62, -22), (-50, -104, -38), (0, -108, -48),
            (48, -104, -25), (84, -62, 24), (98, -18, 18), (98, -8, -60), (84, -28, -125), (40, -28, -155),
            (8, 8, -170), (0, 24, -215), (0, 20, -280), spread=5,
        ),
        (24, 22, 20, 18, 16, 16, 15, 15, 14, 13, 12, 12, 14, 18, 15),
    )  # fmt: skip
    build.add(colon, patient.hu("wall"))
    build.add(colon.grown(-3), STOOL)
    pockets = Field(rng, 6.0, (40, 90))
    build.add(Solid(lambda p: np.maximum(colon.distance(p) + 4, pockets(p) + 2), colon.lower, colon.upper), GAS)


def _vessels(build: Build) -> dict[str, Solid]:
    rng = build.rng
    wide = float(np.clip(rng.normal(1, 0.1), 0.8, 1.3))
    shift = rng.normal(0, 2.5)
    aorta = tube(
        build.line(
            (20 + shift, -14, 260), (18 + shift, -20, 160), (11 + shift, -31, 90), (7 + shift, -39, 30),
            (6 + shift, -42, -20), (4 + shift, -42, -72), spread=2,
        ),
        np.array([12.5, 12, 11, 10, 9, 8.5]) * wide,
    )  # fmt: skip
    cava = tube(
        build.line(
            (-20, -37, -78), (-21, -40, -30), (-21, -42, 15), (-25, -45, 60), (-27, -53, 100), (-27, -60, 122), spread=2
        ),
        np.array([10.5, 10.5, 11.5, 12.5, 13, 13.5]) * rng.normal(1, 0.06),
        (0.9, 1.12, 1),
    )
    return {"aorta": aorta, "cava": cava}


def _chest(build: Build, cavity: Solid, diaphragm: Solid, vessels: dict[str, Solid]) -> None:
    patient = build.patient
    middle = tube(np.array([(5, -32, 60), (5, -32, 250)]), (30, 34), (1, 0.75, 1))
    heart = ellipsoid(build.at(25, -72, 168), build.size(62, 46, 48), (0, 0, 20))
    lungs = cavity.within(Solid(lambda p: -diaphragm.distance(p), cavity.lower, cavity.upper), 3.0)
    lungs = Solid(lungs.distance, np.array([-1e4, -1e4, 5.0]), cavity.upper).without(middle).without(heart, 3)
    build.add(lungs, LUNG)
    build.add(heart, patient.hu("vein") * 0.4 + patient.hu("aorta") * 0.5)
    build.add(tube(np.array([(-27, -58, 118), (-20, -64, 150)]), (14, 16)), patient.hu("vein"))
    build.add(
        tube(
            build.line((4, -36, 260), (9, -40, 150), (14, -49, 112), (22, -55, 92), (34, -50, 84), spread=2),
            (8.5, 8.5, 8.5, 9, 9),
        ),
        42,
        5,
    )
    build.add(vessels["aorta"], patient.hu("aorta"), 8)
