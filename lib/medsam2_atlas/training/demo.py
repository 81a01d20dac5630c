"""Trains the demo network from scratch on phantoms, with box prompts and propagation through slices.

The curriculum is what made propagation work with so little compute: single slices, the same slice twice (where copying
from memory is learned), neighbours, then longer clips that run past the ends of organs into slices without them.
"""

from __future__ import annotations

import logging
import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from medsam2_atlas.medsam2.network import DEMO, build_network, load_config
from medsam2_atlas.progress import Progress, silent
from medsam2_atlas.training.clips import Batch, PhantomPool, Stage

log = logging.getLogger(__name__)

DEMO_MARK = "demo weights: synthetic phantoms only"


@dataclass(frozen=True)
class DemoTraining:
    """How the demo weights are made; the defaults made the ones that are shipped."""

    seed: int = 7
    patients: int = 56
    steps: int = 4000
    learning_rate: float = 1e-3
    workers: int = 2
    save_every: int = 100


def stage_at(progress: float) -> Stage:
    """The part of the curriculum at a share 0..1 of the steps."""
    if progress < 0.30:
        return Stage(1, 6, 4, (1,))
    if progress < 0.42:
        return Stage(2, 2, 4, (0,))
    if progress < 0.55:
        return Stage(2, 2, 4, (0, 1))
    if progress < 0.80:
        return Stage(3, 2, 3, (1, 1, 2), 0.3)
    return Stage(5, 1, 4, (1, 1, 2), 0.4)


def unroll(network: Any, batch: Batch) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Runs the network over the clips: low-resolution mask logits and presence logits, one entry a slice."""
    slices, clips = batch.images.shape[:2]
    backbone = network.forward_image(batch.images.flatten(0, 1))
    _, features, positions, sizes = network._prepare_backbone_features(backbone)
    outputs: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    objects = len(batch.clip_of)
    for t in [*batch.prompted, *(t for t in range(slices) if t not in batch.prompted)]:
        index = t * clips + batch.clip_of.to(batch.images.device)
        prompted = t in batch.prompted
        box = {
            "point_coords": batch.boxes[t],
            "point_labels": torch.tensor([2, 3], dtype=torch.int32, device=batch.boxes.device).expand(objects, 2),
        }
        key = "cond_frame_outputs" if prompted else "non_cond_frame_outputs"
        outputs[key][t] = network.track_step(
            frame_idx=t,
            is_init_cond_frame=prompted,
            current_vision_feats=[f[:, index] for f in features],
            current_vision_pos_embeds=[p[:, index] for p in positions],
            feat_sizes=sizes,
            point_inputs=box if prompted else None,
            mask_inputs=None,
            output_dict=outputs,
            num_frames=slices,
            run_mem_encoder=slices > 1,
        )
    every = outputs["cond_frame_outputs"] | outputs["non_cond_frame_outputs"]
    return [every[t]["pred_masks"] for t in range(slices)], [every[t]["object_score_logits"] for t in range(slices)]


def clip_loss(masks: list[torch.Tensor], presence: list[torch.Tensor], batch: Batch) -> torch.Tensor:
    """Mean over slices of cross entropy and soft Dice where the organ is present, and of the presence's own loss."""
    total = torch.zeros((), device=batch.masks.device)
    for t, (low, score) in enumerate(zip(masks, presence, strict=True)):
        truth = batch.masks[t]
        logits = F.interpolate(low, truth.shape[-2:], mode="bilinear", align_corners=False)[:, 0].clamp(-30, 30)
        present = ((truth > 0.5).flatten(1).sum(1) >= 2).float()
        entropy = (F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * (1 + 6 * truth)).mean((1, 2))
        p = logits.sigmoid()
        dice = 1 - (2 * (p * truth).sum((1, 2)) + 1) / (p.sum((1, 2)) + truth.sum((1, 2)) + 1)
        total = total + ((4 * entropy + dice) * present).mean()
        total = total + 0.15 * F.binary_cross_entropy_with_logits(score[:, 0], present)
    return total / len(masks)


def prepare_pool(folder: Path, options: DemoTraining, progress: Progress = silent) -> PhantomPool:
    """Renders the training phantoms into `folder`, several at a time, and opens them."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.workers) as pool:
        render = partial(PhantomPool.render, folder, options.seed)
        for done, _ in enumerate(pool.map(render, range(options.patients)), 1):
            progress("phantoms", done / options.patients)
    return PhantomPool(folder, options.seed, options.patients)


def train_demo(out: Path, cache: Path, options: DemoTraining, device: torch.device, progress: Progress = silent) -> None:
    """Trains and writes the checkpoint `{"model": state_dict, "mark": ...}` in half precision.

    A training that was stopped goes on from `out` + `.state` when started again with the same options.
    """
    pool = prepare_pool(cache, options, progress)
    config = load_config(DEMO)
    torch.manual_seed(options.seed)
    network = build_network(config).to(device)
    network.requires_grad_(True)
    network.binarize_mask_from_pts_for_mem_enc = False  # its step has no gradient
    # A narrow network needs smoother position codes than the wide one's random frequencies.
    network.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(0.35)
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=0.01)
    state_file = out.with_suffix(".state")
    first, recent, began = 0, 0.0, time.monotonic()
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        network.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = int(state["step"])
    size = int(config.model.image_size)
    for step in range(first, options.steps):
        share = step / options.steps
        generator = np.random.default_rng([options.seed, 1_000_003, step])
        batch = pool.batch(generator, stage_at(share), size, size // 2)
        batch = Batch(batch.images.to(device), batch.masks.to(device), batch.boxes.to(device), batch.clip_of, batch.prompted)
        warm = min(1.0, (step + 1) / 50)
        for group in optimiser.param_groups:
            group["lr"] = options.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        loss = clip_loss(*unroll(network, batch), batch)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        recent = float(loss.detach()) if step == first else 0.98 * recent + 0.02 * float(loss.detach())
        progress("training", (step + 1) / options.steps)
        if (step + 1) % 25 == 0:
            log.info("step %d loss %.3f (%.2f s a step)", step + 1, recent, (time.monotonic() - began) / (step + 1 - first))
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            _save({"model": network.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}, state_file)
            half = {name: tensor.half().cpu() for name, tensor in network.state_dict().items()}
            _save({"model": half, "mark": DEMO_MARK, "config": DEMO}, out)


def _save(content: dict[str, Any], file: Path) -> None:
    part = file.with_name(file.name + ".part")
    torch.save(content, part)
    part.replace(file)
