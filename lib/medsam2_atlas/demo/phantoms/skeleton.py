"""Adds spine, ribs, sacrum and pelvis to a synthetic patient."""

from __future__ import annotations

import numpy as np

from medsam2_atlas.demo.phantoms.frame import BONE, DISC, MARROW, Build
from medsam2_atlas.demo.phantoms.shapes import ellipsoid, slab, tube, union


def add_skeleton(build: Build) -> None:
    """Adds the bones."""
    rng = build.rng
    spine_x, spine_y = rng.normal(0, 1.5), -3.0
    spine = tube(
        np.array([(spine_x, y, z) for y, z in ((12, 260), (6, 150), (-1, 60), (spine_y, 0), (-4, -70), (8, -125))]),
        (15, 16, 18, 20, 21.5, 21),
        (0.86, 1.05, 1),
    )
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
