"""Adds the organs of abdomen and pelvis, with the vessels between them, to a synthetic patient."""

from __future__ import annotations

import numpy as np

from medsam2_atlas.demo.phantoms.frame import FAT, GAS, WATER, Build
from medsam2_atlas.demo.phantoms.shapes import Solid, ellipsoid, tube, union


def add_abdomen(build: Build, space: Solid, vessels: dict[str, Solid]) -> None:
    """Adds the abdominal organs.

    Args:
        build: collects the parts.
        space: the abdominal cavity below the diaphragm.
        vessels: the solids of `aorta` and `cava`.
    """
    kidneys = _liver_spleen_kidneys(build, space)
    stomach = _stomach(build, space)
    duodenum = _duodenum(build)
    _pancreas(build, duodenum, stomach)
    _vessels(build)
    build.add(vessels["cava"], build.patient.hu("vein"), 9)
    build.add(vessels["aorta"], build.patient.hu("aorta"), 8)
    _adrenals(build, kidneys)


def _liver_spleen_kidneys(build: Build, space: Solid) -> dict[int, Solid]:
    patient, rng = build.patient, build.rng
    grow = patient.liver_size
    right = ellipsoid(build.at(-76, -38, 40), build.size(62, 78, 88, spread=0.04) * grow, (0, 0, 8))
    left = ellipsoid(
        build.at(-2, -84, 74), build.size(88, 39, 36, spread=0.08) * grow, (0, rng.normal(-4, 6), rng.normal(-8, 6))
    )
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
    spleen = ellipsoid(
        build.at(94, 2, 56, spread=4),
        build.size(31, 49, 61) * patient.spleen_size,
        (rng.normal(20, 6), rng.normal(8, 5), rng.normal(18, 8)),
    )
    spleen = build.rough(spleen.within(space, 1.5), 1.8)
    build.add(spleen, patient.hu("spleen"), 1)
    gall = ellipsoid(
        build.at(-52, -86, 0, spread=4), build.size(14.5, 15.5, 27, spread=0.1), (rng.normal(-25, 8), rng.normal(0, 8), 0)
    )
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


def _stomach(build: Build, space: Solid) -> Solid:
    patient, rng = build.patient, build.rng
    full = patient.stomach_fullness
    stomach = tube(
        build.line(
            (56, -20, 84), (62, -42, 66), (60, -74, 34), (38, -96, 4), (8, -96, -4), (-13, -86, 4), (-22, -81, 6), spread=5
        ),
        np.array([18 + 9 * full, 22 + 11 * full, 18 + 11 * full, 15 + 8 * full, 12 + 5 * full, 10, 7]) * rng.normal(1, 0.05),
    )
    stomach = build.rough(stomach.within(space, 1.0), 1.8)
    build.add(stomach, patient.hu("wall"), 7)
    content = stomach.grown(-3.2)
    build.add(content, rng.uniform(8, 40), None)
    level = rng.uniform(-105, -72)
    build.add(Solid(lambda p: np.maximum(content.distance(p), p[:, 1] - level), content.lower, content.upper), GAS, None)
    return stomach


def _duodenum(build: Build) -> Solid:
    patient, rng = build.patient, build.rng
    duodenum = tube(
        build.line(
            (-19, -82, 6), (-34, -75, 8), (-42, -58, -6), (-41, -48, -34), (-28, -48, -54), (-4, -64, -56), (24, -62, -42),
            spread=3,
        ),
        np.array([9, 11.5, 11.5, 11.5, 11, 9.5, 9.5]) * rng.normal(1, 0.06),
    )  # fmt: skip
    build.add(duodenum, patient.hu("wall"), 13)
    build.add(duodenum.grown(-3.5), rng.uniform(15, 45), None)
    return duodenum


def _pancreas(build: Build, duodenum: Solid, stomach: Solid) -> None:
    patient, rng = build.patient, build.rng
    pancreas = tube(
        build.line((-21, -56, -22), (-15, -60, -6), (2, -68, 10), (28, -64, 18), (54, -44, 30), (70, -24, 38), spread=3),
        np.array([12, 15, 10.5, 11.5, 11.5, 9]) * rng.normal(1, 0.07),
        (1, 1, 0.95),
    )
    pancreas = build.rough(pancreas.without(duodenum, 0.2).without(stomach, 1.5), 1.0, (14, 30))
    build.add(pancreas, patient.hu("pancreas"), 10)


def _vessels(build: Build) -> None:
    """Adds the portal vein, the arteries of the bowel, and the vessels of kidneys and legs."""
    patient = build.patient
    for course, radii, tissue in (
        (((-6, -68, -60), (-6, -72, -20), (-12, -60, 12), (-30, -62, 36), (-52, -58, 46)), (5, 5.5, 6.5, 7, 5), "portal"),
        (((-10, -60, 8), (20, -54, 20), (50, -38, 32), (80, -8, 46)), (4.5, 4, 4, 3), "portal"),
        (((6, -46, 12), (4, -62, -4), (4, -74, -30), (2, -80, -80)), (4.2, 4, 3.5, 3), "aorta"),
        (((6, -46, 26), (4, -60, 30), (-20, -62, 32), (-42, -60, 38)), (4, 3.5, 3, 2.5), "aorta"),
    ):
        build.add(tube(build.line(*course, spread=1.5), radii), patient.hu(tissue))
    for side, tissue, x in ((-1, "vein", -20), (1, "vein", 0)):
        build.add(
            tube(build.line((x, -50, 2), (side * 24, -40, 2), (side * 48, -16, side * 6), spread=1), (4.5, 5, 4)),
            patient.hu(tissue),
        )
    for side in (-1, 1):
        build.add(
            tube(
                build.line((4, -42, -72), (side * 28, -30, -110), (side * 55, -22, -165), (side * 66, -62, -235), spread=2),
                (7, 6.5, 6, 5.5),
            ),
            patient.hu("aorta"),
        )
        build.add(
            tube(
                build.line(
                    (-20, -35, -78), (side * 26 - 4, -18, -115), (side * 54, -12, -165), (side * 60, -52, -235), spread=2
                ),
                (8, 7.5, 7, 6.5),
            ),
            patient.hu("vein"),
        )


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


def add_pelvic_organs(build: Build) -> None:
    """Adds the bladder, and prostate or uterus."""
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
        ellipsoid(
            build.at(0, min(-46.0, -24 - depth) if patient.sex == "female" else -46.0, base + radius * flat, spread=2),
            (radius / np.sqrt(flat * 0.95) * 1.0, depth, radius * flat),
        ),
        1.2,
    )
    build.add(bladder.grown(1.5), FAT)
    build.add(bladder, 35, 14)
    build.add(bladder.grown(-2.5), WATER, 14)
