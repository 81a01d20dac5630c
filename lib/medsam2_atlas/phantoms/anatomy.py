"""From a patient's parameters to the ordered list of parts that make up the body; later parts cover earlier ones.

The frame is (x left, y posterior, z superior) in mm, its origin midway between the kidneys of an average adult. Sizes
and places follow textbook anatomy and were compared with real label maps (see `tests/phantoms`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medsam2_atlas.phantoms.patient import Patient
from medsam2_atlas.phantoms.shapes import Field, Solid, ellipsoid, slab, tube, union

FAT, GAS, LUNG, BONE, MARROW, DISC, WATER, STOOL = -100.0, -950.0, -850.0, 620.0, 230.0, 85.0, 8.0, 25.0
TOP, BOTTOM = 190.0, -285.0
"""Highest and lowest z (mm) at which the anatomy is complete."""


@dataclass(frozen=True)
class Part:
    """A solid of one tissue: attenuation in HU, and its label: 1..15, 0 for none, None to keep what lies below."""

    solid: Solid
    hu: float
    label: int | None = 0


class Build:
    """Draws the details of one patient's anatomy and collects its parts."""

    def __init__(self, patient: Patient) -> None:
        self.patient = patient
        self.rng = np.random.default_rng(patient.generator_seed)
        self.parts: list[Part] = []

    def add(self, solid: Solid, hu: float, label: int | None = 0) -> Solid:
        self.parts.append(Part(solid, hu, label))
        return solid

    def at(self, *centre: float, spread: float = 3.0) -> np.ndarray:
        """A place near `centre`, moved by a normal deviate of `spread` mm."""
        return np.asarray(centre, float) + self.rng.normal(0, spread, 3)

    def line(self, *points: tuple[float, float, float], spread: float = 3.0) -> np.ndarray:
        """Control points of a tube: moved together by `spread` and each by a third of it."""
        line = np.asarray(points, float) + self.rng.normal(0, spread, 3)
        return line + self.rng.normal(0, spread / 3, line.shape)

    def size(self, *lengths: float, spread: float = 0.06) -> np.ndarray:
        """Lengths scaled together and each by a little."""
        values = np.asarray(lengths, float)
        return values * max(self.rng.normal(1, spread), 0.6) * self.rng.normal(1, spread / 2, len(values))

    def rough(self, solid: Solid, amplitude: float, wavelengths: tuple[float, float] = (30, 80)) -> Solid:
        return solid.roughened(Field(self.rng, amplitude, wavelengths))


def outline(axes: list[tuple[float, float, float]], centre_y: float, grow: float = 0.0) -> Solid:
    """A trunk: an ellipse in each axial plane, from rows of (z, half width, half depth) in mm."""
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


def anatomy(patient: Patient) -> list[Part]:
    """All parts of a patient, in the order in which they are painted."""
    build = Build(patient)
    cavity, diaphragm = _trunk(build)
    _bowel(build)
    _skeleton(build)
    vessels = _vessels(build)
    _chest(build, cavity, diaphragm, vessels)
    _abdomen(build, cavity.within(diaphragm, 3.0), vessels)
    _pelvic_organs(build)
    return build.parts


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
        build.add(tube(build.line((side * 33, 44, 220), (side * 35, 46, 0), (side * 34, 48, -170)), (22, 25, 18)), patient.hu("muscle"))
        build.add(tube(build.line((side * 26, 4, 25), (side * 40, 4, -60), (side * 56, -4, -140), (side * 72, -45, -240)), (7, 17, 21, 16)), patient.hu("muscle"))
        build.add(ellipsoid((side * 78, 44, -205), build.size(56, 34, 78)).within(muscle.grown(4)), patient.hu("muscle"))
        build.add(ellipsoid((side * 112, -10, -225), build.size(26, 40, 70)).within(muscle), patient.hu("muscle"))
    domes = union(
        ellipsoid(build.at(-62, -30, 14), (96, 98, 108)), ellipsoid(build.at(62, -28, 12), (92, 94, 100)), blend=14
    )
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
    gas = Field(rng, 6.0, (40, 90))
    build.add(Solid(lambda p: np.maximum(colon.distance(p) + 4, gas(p) + 2), colon.low, colon.high), GAS)


def _skeleton(build: Build) -> None:
    rng = build.rng
    spine_x, spine_y = rng.normal(0, 1.5), -3.0
    spine = tube(
        np.array([(spine_x, 12, 260), (spine_x, 6, 150), (spine_x, -1, 60), (spine_x, spine_y, 0), (spine_x, -4, -70), (spine_x, 8, -125)]),
        (15, 16, 18, 20, 21.5, 21), (0.86, 1.05, 1),
    )  # fmt: skip
    build.add(spine, BONE * 0.7)
    build.add(spine.grown(-2.2), MARROW)
    step = 33.0 * rng.normal(1, 0.03)
    centres = [17 - step * k * 1.02 for k in range(4)] + [17 + (step - 4) * k for k in range(1, 9)]
    for z in sorted(centres):
        build.add(spine.within(slab(z - step / 2 - 3.5, z - step / 2 + 3.5)), DISC)
        build.add(ellipsoid((spine_x, 36, z - 8), (4, 17, 11)), BONE * 0.6)
        for side in (-1, 1):
            build.add(ellipsoid((spine_x + side * 24, 16, z), (18, 5, 7), (0, 0, side * 12)), BONE * 0.6)
            build.add(ellipsoid((spine_x + side * 13, 22, z - 6), (6, 8, 16)), BONE * 0.6)
    canal = tube(np.array([(spine_x, 32, 260), (spine_x, 24, 100), (spine_x, 20, 0), (spine_x, 28, -130)]), (9, 9, 9, 9))
    build.add(canal, 30)
    for rib, z in enumerate(z for z in sorted(centres) if z > 40):
        reach = (85, 110, 135, 145, 150, 150, 150, 150)[min(rib, 7)]
        angle = np.radians(np.linspace(18, reach, 12))
        drop = 62 * np.linspace(0, reach / 150, 12) ** 1.1
        for side in (-1, 1):
            course = np.stack([side * 131 * np.sin(angle), -34 + 87 * np.cos(angle), z + 4 - drop], 1)
            bone = tube(course, (4.6,) * 12, (1, 1, 0.75))
            build.add(bone, BONE * 0.75)
            build.add(bone.grown(-2), MARROW)
    sacrum = tube(np.array([(spine_x, 12, -125), (0, 28, -160), (0, 44, -205), (0, 34, -245)]), (26, 26, 17, 7), (0.75, 1.1, 1))
    build.add(sacrum, BONE * 0.6)
    build.add(sacrum.grown(-2.5), MARROW)
    for side in (-1, 1):
        wing = ellipsoid((side * 84, 4, -148), (8, 56, 58), (0, side * -18, side * 32))
        socket = ellipsoid((side * 92, -12, -232), (32, 32, 32))
        pubis = tube(np.array([(side * 78, -30, -232), (side * 38, -58, -252), (side * 6, -62, -264)]), (13, 9, 12))
        seat = tube(np.array([(side * 76, 8, -240), (side * 62, 20, -285)]), (18, 16))
        pelvis = union(wing, socket, pubis, seat, blend=14)
        build.add(pelvis, BONE * 0.75)
        build.add(pelvis.grown(-2.6), MARROW)
        build.add(ellipsoid((side * 94, -13, -233), (25.5, 25.5, 25.5)), 60)
        head = union(
            ellipsoid((side * 94, -13, -233), (23, 23, 23)),
            tube(np.array([(side * 96, -12, -236), (side * 122, -6, -252), (side * 136, -4, -300)]), (14, 15, 17)),
            blend=8,
        )
        build.add(head, BONE)
        build.add(head.grown(-3), MARROW)


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
    lungs = cavity.within(Solid(lambda p: -diaphragm.distance(p), cavity.low, cavity.high), 3.0)
    lungs = Solid(lungs.distance, np.array([-1e4, -1e4, 5.0]), cavity.high).without(middle).without(heart, 3)
    build.add(lungs, LUNG)
    build.add(heart, patient.hu("vein") * 0.4 + patient.hu("aorta") * 0.5)
    build.add(tube(np.array([(-27, -58, 118), (-20, -64, 150)]), (14, 16)), patient.hu("vein"))
    build.add(
        tube(build.line((4, -36, 260), (9, -40, 150), (14, -49, 112), (22, -55, 92), (34, -50, 84), spread=2), (8.5, 8.5, 8.5, 9, 9)),
        42,
        5,
    )
    build.add(vessels["aorta"], patient.hu("aorta"), 8)


def _abdomen(build: Build, space: Solid, vessels: dict[str, Solid]) -> None:
    patient, rng = build.patient, build.rng
    kidneys = _liver_spleen_kidneys(build, space)
    full = patient.stomach_fullness
    stomach = tube(
        build.line((56, -20, 84), (62, -42, 66), (60, -74, 34), (38, -96, 4), (8, -96, -4), (-13, -86, 4), (-22, -81, 6), spread=5),
        np.array([18 + 9 * full, 22 + 11 * full, 18 + 11 * full, 15 + 8 * full, 12 + 5 * full, 10, 7]) * rng.normal(1, 0.05),
    )
    stomach = build.rough(stomach.within(space, 1.0), 1.8)
    build.add(stomach, patient.hu("wall"), 7)
    content = stomach.grown(-3.2)
    build.add(content, rng.uniform(8, 40), None)
    level = rng.uniform(-105, -72)
    build.add(Solid(lambda p: np.maximum(content.distance(p), p[:, 1] - level), content.low, content.high), GAS, None)
    duodenum = tube(
        build.line(
            (-19, -82, 6), (-34, -75, 8), (-42, -58, -6), (-41, -48, -34), (-28, -48, -54), (-4, -64, -56), (24, -62, -42),
            spread=3,
        ),
        np.array([9, 11.5, 11.5, 11.5, 11, 9.5, 9.5]) * rng.normal(1, 0.06),
    )  # fmt: skip
    build.add(duodenum, patient.hu("wall"), 13)
    build.add(duodenum.grown(-3.5), rng.uniform(15, 45), None)
    pancreas = tube(
        build.line((-21, -56, -22), (-15, -60, -6), (2, -68, 10), (28, -64, 18), (54, -44, 30), (70, -24, 38), spread=3),
        np.array([12, 15, 10.5, 11.5, 11.5, 9]) * rng.normal(1, 0.07),
        (1, 1, 0.95),
    )
    pancreas = build.rough(pancreas.without(duodenum, 0.2).without(stomach, 1.5), 1.0, (14, 30))
    build.add(pancreas, patient.hu("pancreas"), 10)
    for course, radii, tissue in (
        (((-6, -68, -60), (-6, -72, -20), (-12, -60, 12), (-30, -62, 36), (-52, -58, 46)), (5, 5.5, 6.5, 7, 5), "portal"),
        (((-10, -60, 8), (20, -54, 20), (50, -38, 32), (80, -8, 46)), (4.5, 4, 4, 3), "portal"),
        (((6, -46, 12), (4, -62, -4), (4, -74, -30), (2, -80, -80)), (4.2, 4, 3.5, 3), "aorta"),
        (((6, -46, 26), (4, -60, 30), (-20, -62, 32), (-42, -60, 38)), (4, 3.5, 3, 2.5), "aorta"),
    ):
        build.add(tube(build.line(*course, spread=1.5), radii), patient.hu(tissue))
    for side, tissue, x in ((-1, "vein", -20), (1, "vein", 0)):
        build.add(tube(build.line((x, -50, 2), (side * 24, -40, 2), (side * 48, -16, side * 6), spread=1), (4.5, 5, 4)), patient.hu(tissue))
    for side in (-1, 1):
        build.add(tube(build.line((4, -42, -72), (side * 28, -30, -110), (side * 55, -22, -165), (side * 66, -62, -235), spread=2), (7, 6.5, 6, 5.5)), patient.hu("aorta"))
        build.add(tube(build.line((-20, -35, -78), (side * 26 - 4, -18, -115), (side * 54, -12, -165), (side * 60, -52, -235), spread=2), (8, 7.5, 7, 6.5)), patient.hu("vein"))
    build.add(vessels["cava"], patient.hu("vein"), 9)
    build.add(vessels["aorta"], patient.hu("aorta"), 8)
    _adrenals(build, kidneys)


def _liver_spleen_kidneys(build: Build, space: Solid) -> dict[int, Solid]:
    patient, rng = build.patient, build.rng
    grow = patient.liver_size
    right = ellipsoid(build.at(-76, -38, 40), build.size(62, 78, 88, spread=0.04) * grow, (0, 0, 8))
    left = ellipsoid(build.at(-2, -84, 74), build.size(88, 39, 36, spread=0.08) * grow, (0, rng.normal(-4, 6), rng.normal(-8, 6)))
    hilum = ellipsoid(build.at(2, -46, 0, spread=4), (62, 46, 52))
    liver = build.rough(union(right, left, blend=30).without(hilum).within(space, 1.5), 2.2)
    build.add(liver, patient.hu("liver"), 6)
    for course in (
        ((-40, -60, 44), (-66, -58, 52), (-96, -40, 48), (-112, -20, 40)),
        ((-46, -62, 46), (-30, -84, 66), (10, -94, 76), (40, -90, 80)),
        ((-27, -54, 104), (-60, -50, 96), (-92, -30, 80)),
        ((-27, -56, 104), (-44, -80, 90), (-60, -100, 70)),
    ):
        build.add(tube(build.line(*course), np.linspace(4.5, 2, len(course))).within(liver, 2), patient.hu("portal"), None)
    spleen = ellipsoid(build.at(94, 2, 56, spread=4), build.size(25, 42, 52) * patient.spleen_size, (rng.normal(20, 6), rng.normal(8, 5), rng.normal(18, 8)))
    spleen = build.rough(spleen.within(space, 1.5), 1.8)
    build.add(spleen, patient.hu("spleen"), 1)
    gall = ellipsoid(build.at(-52, -86, 0, spread=4), build.size(14.5, 15.5, 27, spread=0.1), (rng.normal(-25, 8), rng.normal(0, 8), 0))
    build.add(gall, patient.hu("wall") + 10, 4)
    build.add(gall.grown(-1.6), rng.uniform(3, 16), 4)
    kidneys: dict[int, Solid] = {}
    for label, side in ((2, -1), (3, 1)):
        centre = build.at(side * 63, 2, side * 6 - 1, spread=3.5)
        radii = build.size(24, 26.5, 53, spread=0.04) * patient.kidney_size
        turn = (rng.normal(-12, 3), side * rng.normal(-11, 3), side * rng.normal(-25, 6))
        body = build.rough(ellipsoid(centre, radii, turn), 1.0, (30, 60))
        sinus = ellipsoid(centre + (-side * radii[0] * 0.8, -6, 0), (radii[0] * 0.75, 10, radii[2] * 0.38), turn)
        kidney = body.without(sinus)
        build.add(body.grown(4), FAT)
        build.add(kidney, patient.hu("kidney"), label)
        build.add(body.grown(-7).without(sinus, 3), patient.hu("medulla"), None)
        build.add(ellipsoid(centre + (-side * radii[0] * 0.85, -6, -2), (9, 5, 9)), 20 if patient.phase != "native" else WATER)
        kidneys[label] = body
    return kidneys


def _adrenals(build: Build, kidneys: dict[int, Solid]) -> None:
    rng = build.rng
    for label, side, kidney, place in ((11, -1, kidneys[2], (-31, -30, 44)), (12, 1, kidneys[3], (33, -27, 36))):
        centre = build.at(*place, spread=2.5)
        medial, lateral = rng.normal(12, 4), rng.normal(48, 6)
        gland = union(
            *(
                ellipsoid(
                    centre + (side * offset, 9, -2),
                    build.size(2.9, 12.5, 15.5, spread=0.05),
                    (rng.normal(0, 5), 0, -side * turn),
                )
                for offset, turn in ((0.0, medial), (7.5, lateral))
            ),
            ellipsoid(centre, (4, 6, 12)),
            blend=2,
        ).without(kidney, 2.0)
        build.add(gland.grown(3.5), FAT)
        build.add(gland, build.patient.hu("adrenal"), label)


def _pelvic_organs(build: Build) -> None:
    patient, rng = build.patient, build.rng
    if patient.sex == "male":
        gland = ellipsoid(build.at(0, -14, -262, spread=2), build.size(23, 18, 19, spread=0.1), (rng.normal(0, 6), 0, 0))
        build.add(gland.grown(4), FAT)
        build.add(gland, patient.hu("prostate"), 15)
        build.add(ellipsoid(build.at(0, 8, -238, spread=1), (24, 5, 6)), patient.hu("muscle"))
        base = -250.0
    else:
        uterus = union(
            ellipsoid(build.at(3, -2, -206), build.size(25, 21, 29, spread=0.1), (rng.normal(-25, 12), 0, 0)),
            ellipsoid((0, 4, -236), (14, 12, 18)),
            blend=10,
        )
        build.add(build.rough(uterus, 1.2).grown(3), FAT)
        build.add(build.rough(uterus, 1.2), patient.hu("uterus"), 15)
        base = -252.0
    volume = 55 + 330 * patient.bladder_fullness
    radius = (volume * 1000 * 0.75 / np.pi) ** (1 / 3)
    flat = 0.78 + 0.17 * patient.bladder_fullness
    depth = radius * 0.95
    bladder = build.rough(
        ellipsoid(build.at(0, min(-46.0, -24 - depth) if patient.sex == "female" else -46.0, base + radius * flat, spread=2), (radius / np.sqrt(flat * 0.95) * 1.0, depth, radius * flat)),
        1.2,
    )
    build.add(bladder.grown(1.5), FAT)
    build.add(bladder, 35, 14)
    build.add(bladder.grown(-2.5), WATER, 14)
