"""The loops that `engine.py` compares: that of the published script, and this project's engine."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
from engine_cases import Case, Section
from sam2 import sam2_video_predictor_legacy as legacy

from legacy import legacy_predictor
from medsam2_atlas.base.choices import Mode
from medsam2_atlas.medsam2 import MedSAM2Volume, Weights, medsam2_config
from medsam2_atlas.medsam2.preprocessing import to_network, to_uint8
from medsam2_atlas.prompting import OrganPrompt, Prompts, unmoved

Loop = Literal["published", "exact", "fast", "fast-again"]
LOOPS: tuple[Loop, ...] = ("published", "exact", "fast", "fast-again")
Logits = dict[int, np.ndarray]
"""Logits `[n, y, x]` of the second pass by label, at image resolution."""
_SURE = 10.0
"""Logit of a pixel inside an organ's true mask."""


class Published:
    """Drives the official predictor in the order of the published script.

    The script opens the volume once per pass. For each organ, it goes up from the middle box, forgets everything, goes down to
    the lowest box, corrects that slice, and goes down again from the middle to the end. The predictor stores the features of
    the last slice only, so that each step encodes its slice again.
    """

    def __init__(self, weights: Weights) -> None:
        self.predictor: Any = legacy_predictor(weights.config, weights.network.state_dict())

    def __call__(self, case: Case, passes: list[tuple[OrganPrompt, ...]]) -> Logits:
        frames = to_network(to_uint8(case.hu), self.predictor.image_size)
        rows, columns = case.hu.shape[1:]
        found: Logits = {}
        quiet = patch.object(legacy, "tqdm", lambda steps, **_: steps)
        with torch.inference_mode(), quiet, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are adding a box after tracking starts")  # as the published script does
            for prompts in passes:
                with patch.object(legacy, "load_video_frames", lambda **_: (frames, rows, columns)):
                    state = self.predictor.init_state("volume")
                found = {prompt.label: self._organ(state, prompt) for prompt in prompts}
        return found

    def _organ(self, state: Any, prompt: OrganPrompt) -> np.ndarray:
        found: dict[int, np.ndarray] = {}
        low, middle, high = prompt.boxes

        def add(box: Any) -> None:
            self.predictor.add_new_points_or_box(state, box.z, obj_id=1, box=np.array(box.box, np.float32))

        def propagate(last: int) -> None:
            steps = self.predictor.propagate_in_video(
                state, max_frame_num_to_track=abs(last - middle.z), reverse=last < middle.z
            )
            found.update((z, masks[0, 0].numpy()) for z, _, masks in steps)

        add(middle)
        add(high)
        propagate(prompt.z_max)
        self.predictor.reset_state(state)
        add(middle)
        propagate(low.z)
        add(low)
        propagate(prompt.z_min)
        self.predictor.reset_state(state)
        return np.stack([found[z] for z in range(prompt.z_min, prompt.z_max + 1)])


class Engine:
    """Runs this project's engine with the semantics of the published loop.

    Args:
        weights: the network and its weights.
        loop: `exact`; `fast`, whose later passes segment only organs whose boxes have moved; or `fast-again`, in which all
            passes segment all organs.
    """

    def __init__(self, weights: Weights, loop: Loop) -> None:
        self.weights, self.loop = weights, loop
        self.mode: Mode = "exact" if loop == "exact" else "fast"
        self.prepared = weights.prepared_for(self.mode)

    def __call__(self, case: Case, passes: list[tuple[OrganPrompt, ...]]) -> Logits:
        volume = MedSAM2Volume(self.weights, case.hu, mode=self.mode)
        with ExitStack() as stack:
            if self.mode == "fast" and not case.real:
                stack.enter_context(true_masks(volume, case.section))
            found = volume.segment(passes[0], loop="published")
            for before, prompts in pairwise(passes):
                same = unmoved(Prompts(before), Prompts(prompts), medsam2_config().fast_min_overlap)
                again = [p for p in prompts if self.loop != "fast" or p.label not in same]
                found |= volume.segment(again, loop="published")
        shape = case.hu.shape[1:]
        return {label: organ.planes(shape) for label, organ in found.items()}


@contextmanager
def true_masks(volume: MedSAM2Volume, section: Section) -> Iterator[None]:
    """Replaces each segmented slice's mask by the true one, right after the network has computed it.

    The cost of fast mode depends on the sizes of masks. Those of seeded weights fill most of a slice.
    """
    propagator = volume._propagator
    kind = type(propagator)
    start, run_step = kind._start, kind._step

    def replace(track: Any, z: int) -> None:
        logits = track.logits[z]
        mask = torch.from_numpy(section(track.label, z))[None, None].float()
        inside = torch.nn.functional.interpolate(mask, logits.shape[-2:], mode="area")[0] > 0.5
        track.logits[z] = torch.where(inside, _SURE, -_SURE).to(logits)

    def started(self: Any, tracks: Any, *rest: Any) -> None:
        start(self, tracks, *rest)
        for track in tracks:
            for z in track.starts:
                replace(track, z)

    def stepped(self: Any, tracks: Any, step: int) -> None:
        run_step(self, tracks, step)
        for track in tracks:
            replace(track, track.slice_at(step))

    with patch.object(kind, "_start", started), patch.object(kind, "_step", stepped):
        yield
