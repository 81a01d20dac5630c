"""Trains the demo network from scratch on phantoms, with box prompts and propagation through slices.

Propagation needs the curriculum to work with so little compute: single slices, the same slice twice (which teaches copying from
memory), neighbouring slices, then longer clips that continue into slices without the organs. Clicks are trained last:
half of the clips are prompted by clicks, and one tracked slice of each clip is corrected by one to three more clicks.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from medsam2_atlas.base.pools import in_processes
from medsam2_atlas.base.progress import Progress, silent
from medsam2_atlas.base.tensor_files import load_tensors
from medsam2_atlas.demo.training.clicks import clicks, correcting_clicks
from medsam2_atlas.demo.training.clips import Batch, PhantomPool, Stage
from medsam2_atlas.demo.training.options import DEMO_MARK, DemoTraining
from medsam2_atlas.medsam2.network import DEMO, build_network, load_config
from medsam2_atlas.medsam2.tracks import BOX_FIRST, BOX_LAST, Points

log = logging.getLogger(__name__)


def stage_at(progress: float) -> Stage:
    """Returns the stage of the curriculum at a fraction 0..1 of the steps."""
    if progress < 0.30:
        return Stage(1, 6, 4, (1,))
    if progress < 0.42:
        return Stage(2, 2, 4, (0,))
    if progress < 0.55:
        return Stage(2, 2, 4, (0, 1))
    if progress < 0.80:
        return Stage(3, 2, 3, (1, 1, 2), 0.3)
    return Stage(5, 1, 4, (1, 1, 2), 0.4)


def click_stage(generator: np.random.Generator) -> Stage:
    """Draws a stage of the curriculum for clicks.

    Single slices teach clicks. Clips teach corrections of tracked masks, and keep the propagation trained.
    """
    return (Stage(1, 5, 4, (1,)), Stage(3, 2, 3, (1, 1, 2), 0.3), Stage(5, 1, 4, (1, 2, 3), 0.3))[
        int(generator.choice(3, p=(0.2, 0.45, 0.35)))
    ]


@dataclass(frozen=True)
class SliceOutput:
    """The network's output for one slice of all clips.

    Attributes:
        t: index of the slice.
        masks: mask logits `[objects, 1, h, w]` at the network's output resolution.
        presence: logits `[objects, 1]` of whether the organ is on the slice.
    """

    t: int
    masks: torch.Tensor
    presence: torch.Tensor


def unroll(network: Any, batch: Batch, generator: np.random.Generator | None = None) -> list[SliceOutput]:
    """Runs the network over the slices of all clips.

    Args:
        network: the demo network.
        batch: the clips.
        generator: random generator of clicks; with it, half of the batches are prompted by clicks, and one tracked slice is
            corrected by clicks. None uses boxes only.
    """
    slices, clips = batch.images.shape[:2]
    backbone = network.forward_image(batch.images.flatten(0, 1))
    _, features, positions, sizes = network._prepare_backbone_features(backbone)
    outputs: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    device, scale = batch.images.device, batch.images.shape[-1] / batch.masks.shape[-1]
    clicked = int(generator.choice((0, 0, 0, 1, 1, 2))) if generator is not None else 0
    outcome = []

    def step(t: int, prompt: Points | None, previous: torch.Tensor | None = None) -> dict[str, Any]:
        index = t * clips + batch.clip_of.to(device)
        points = None
        if prompt is not None:
            points = {"point_coords": prompt.places.to(device), "point_labels": prompt.kinds.to(device)}
        found: dict[str, Any] = network.track_step(
            frame_idx=t,
            is_init_cond_frame=prompt is not None and previous is None,
            current_vision_feats=[f[:, index] for f in features],
            current_vision_pos_embeds=[p[:, index] for p in positions],
            feat_sizes=sizes,
            point_inputs=points,
            mask_inputs=None,
            output_dict=outputs,
            num_frames=slices,
            run_mem_encoder=slices > 1,
            prev_sam_mask_logits=previous,
        )
        outcome.append(SliceOutput(t, found["pred_masks"], found["object_score_logits"]))
        return found

    for t in [*batch.prompted, *(t for t in range(slices) if t not in batch.prompted)]:
        if t not in batch.prompted:
            outputs["non_cond_frame_outputs"][t] = step(t, None)
        elif clicked and generator is not None and t == batch.prompted[0]:
            outputs["cond_frame_outputs"][t] = step(t, clicks(generator, batch.masks[t].cpu(), clicked, scale))
        else:
            corners = torch.tensor([BOX_FIRST, BOX_LAST], dtype=torch.int32).expand(len(batch.clip_of), 2)
            outputs["cond_frame_outputs"][t] = step(t, Points(batch.boxes[t], corners))
    tracked = [one for one in outcome if one.t not in batch.prompted]
    if generator is not None and tracked:
        # One tracked slice (half of the time the worst, else a random one) is corrected by up to three clicks on its errors.
        errors = [float(((_full(one.masks, batch) > 0) != (batch.masks[one.t] > 0.5)).float().mean()) for one in tracked]
        chosen = tracked[int(np.argmax(errors) if generator.random() < 0.5 else generator.integers(len(tracked)))]
        previous, masks, prompt = chosen.masks.detach().clamp(-32, 32), chosen.masks, None
        for _ in range(int(generator.integers(1, 4))):
            more = correcting_clicks(generator, masks, batch.masks[chosen.t], scale)
            prompt = more if prompt is None else prompt.with_more(more)
            masks = step(chosen.t, prompt, previous)["pred_masks"]
    return outcome


def _full(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Returns logits `[objects, s, s]` at the resolution of the true masks."""
    return F.interpolate(logits, batch.masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def clip_loss(outcome: list[SliceOutput], batch: Batch) -> torch.Tensor:
    """Returns the loss, a scalar: the mean over slices of the mask loss and the presence loss.

    The mask loss is cross entropy and soft Dice of the organs that are on the slice.
    """
    total = torch.zeros((), device=batch.masks.device)
    for one in outcome:
        truth = batch.masks[one.t]
        logits = _full(one.masks, batch).clamp(-30, 30)
        present = ((truth > 0.5).flatten(1).sum(1) >= 2).float()
        entropy = (F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * (1 + 6 * truth)).mean((1, 2))
        p = logits.sigmoid()
        dice = 1 - (2 * (p * truth).sum((1, 2)) + 1) / (p.sum((1, 2)) + truth.sum((1, 2)) + 1)
        total = total + ((4 * entropy + dice) * present).mean()
        total = total + 0.3 * F.binary_cross_entropy_with_logits(one.presence[:, 0], present)
    return total / len(outcome)


def prepare_pool(folder: Path, options: DemoTraining, progress: Progress = silent) -> PhantomPool:
    """Renders the missing training phantoms with several processes, and loads all of them.

    Args:
        folder: folder of the rendered phantoms; created if missing.
        options: options of the training.
        progress: called with the fraction completed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for done in in_processes(options.workers, partial(PhantomPool.render, folder, options.seed), options.patients):
        progress("phantoms", done / options.patients)
    return PhantomPool(folder, options.seed, options.patients)


def train_demo(out: Path, cache: Path, options: DemoTraining, device: torch.device, progress: Progress = silent) -> None:
    """Trains the demo network and writes its checkpoint in half precision.

    An interrupted training resumes from its state file (`out` with the suffix `.state`) when it is started again with the same
    options.

    Args:
        out: checkpoint file to write.
        cache: folder of the rendered phantoms.
        options: options of the training.
        device: device to train on.
        progress: called with the fraction completed.
    """
    pool = prepare_pool(cache, options, progress)
    config = load_config(DEMO)
    torch.manual_seed(options.seed)
    network = build_network(config).to(device)
    network.requires_grad_(True)
    network.binarize_mask_from_pts_for_mem_enc = False  # its step has no gradient
    # A narrow network needs smoother position encodings than the random frequencies of the wide one.
    network.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(0.35)
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=0.01)
    state_file = out.with_suffix(".state")
    first, recent, began = 0, 0.0, time.monotonic()
    if state_file.exists():
        state = load_tensors(state_file, device)
        network.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = int(state["step"])
    size = int(config.model.image_size)
    total = options.steps + options.click_steps
    for step in range(first, total):
        clicking = step >= options.steps
        begin, length = (options.steps, options.click_steps) if clicking else (0, options.steps)
        share, max_rate = (step - begin) / length, options.click_learning_rate if clicking else options.learning_rate
        generator = np.random.default_rng([options.seed, 1_000_003, step])
        batch = pool.batch(generator, click_stage(generator) if clicking else stage_at(share), size, size // 2)
        batch = Batch(batch.images.to(device), batch.masks.to(device), batch.boxes.to(device), batch.clip_of, batch.prompted)
        warm = min(1.0, (step - begin + 1) / 50)
        for group in optimiser.param_groups:
            group["lr"] = max_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        loss = clip_loss(unroll(network, batch, generator if clicking else None), batch)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        recent = float(loss.detach()) if step == first else 0.98 * recent + 0.02 * float(loss.detach())
        progress("training", (step + 1) / total)
        if (step + 1) % 25 == 0:
            log.info("step %d loss %.3f (%.2f s a step)", step + 1, recent, (time.monotonic() - began) / (step + 1 - first))
        if (step + 1) % options.save_every == 0 or step + 1 == total:
            _save({"model": network.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}, state_file)
            half = {name: tensor.half().cpu() for name, tensor in network.state_dict().items()}
            _save({"model": half, "mark": DEMO_MARK, "config": DEMO}, out)


def _save(content: dict[str, Any], file: Path) -> None:
    part = file.with_name(file.name + ".part")
    torch.save(content, part)
    part.replace(file)
