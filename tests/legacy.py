"""Drives the official video predictor like MedSAM2's published CT script, to compare the engine with it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from sam2 import sam2_video_predictor_legacy as legacy
from sam2.modeling.sam2_base import NO_OBJ_SCORE

from medsam2_atlas.medsam2.network import build_network
from medsam2_atlas.medsam2.preprocessing import to_network
from medsam2_atlas.prompting import MarkedOrgan, OrganPrompt

_PRESENCE = "sam_mask_decoder.pred_obj_score_head.layers.2."


def seeded_state(config: DictConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Returns random weights with masks that are neither empty nor full, and that depend on memories and object pointers.

    With PyTorch's own initialisation, the memory's path and the mask decoder's output are too weak to show differences, so a
    few tensors get a larger deviation.
    """
    torch.manual_seed(seed)
    network = build_network(config)
    state = network.state_dict()
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in state.items():
        if name.endswith("layer_scale_init_value") or ".gamma" in name or (name.endswith("weight") and tensor.dim() == 1):
            tensor.copy_(1 + 0.1 * torch.randn(tensor.shape, generator=draw))
        elif "tpos_enc" in name or name in {"no_mem_embed", "no_mem_pos_enc", "no_obj_ptr", "no_obj_embed_spatial"}:
            tensor.copy_(0.5 * torch.randn(tensor.shape, generator=draw))
        elif "output_hypernetworks_mlps" in name and "layers.2" in name:
            tensor.mul_(180.0)
        elif "cross_attn_image" in name and name.endswith("weight"):
            # With larger queries and keys, slices attend to starting slices only.
            tensor.mul_(1.5 if "q_proj" in name or "k_proj" in name else 10.0)
        elif name.startswith("obj_ptr_proj") and name.endswith("weight"):
            tensor.mul_(4.5)
        elif name == "memory_encoder.out_proj.weight":
            tensor.mul_(2.0)
        elif name == _PRESENCE + "bias":
            tensor.fill_(1.0)  # makes most organs visible
    return state


def with_absent_organs(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns weights of the narrow network for which the organ is absent from boxed slices and visible on tracked ones."""
    return state | {_PRESENCE + "weight": state[_PRESENCE + "weight"] * 100, _PRESENCE + "bias": torch.tensor([-10.3])}


def legacy_predictor(config: DictConfig, state: dict[str, torch.Tensor]) -> Any:
    """Returns the official predictor with the same weights, on the CPU."""
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    container["model"]["_target_"] = "sam2.sam2_video_predictor_legacy.SAM2VideoPredictor"
    predictor = instantiate(OmegaConf.create(container).model, _recursive_=True)
    predictor.load_state_dict(state, strict=True)
    return predictor.eval()


@dataclass(frozen=True)
class Decision:
    """What the official predictor's decoder found on a slice.

    Attributes:
        masks: the logits of the candidate masks, `[m, h, w]`, at a quarter of the network's resolution.
        scores: their predicted IoU, `[m]`; the mask with the highest one is chosen.
        presence: the logit of the organ's presence.
        prompted: whether the slice had a prompt. Its mask is then binarised for the memory.
    """

    masks: torch.Tensor
    scores: torch.Tensor
    presence: float
    prompted: bool

    @property
    def chosen(self) -> int:
        """The chosen candidate."""
        return int(self.scores.argmax())

    @property
    def logits(self) -> torch.Tensor:
        """The resulting logits, `[h, w]`."""
        return self.masks[self.chosen] if self.presence > 0 else torch.full_like(self.masks[0], NO_OBJ_SCORE)


Change = Callable[[Decision], Decision]
Place = tuple[int, bool]
"""A slice, and whether it is decoded from a prompt: a corrected slice is first tracked, then decoded again from its prompt."""


@contextmanager
def decisions(predictor: Any, changes: Mapping[Place, Change] | None = None) -> Iterator[dict[int, Decision]]:
    """Collects the official predictor's decisions by slice; with `changes`, also changes some of them.

    A slice that is decoded several times has its last decision. The object pointer follows the chosen mask.
    """
    found: dict[int, Decision] = {}
    place = (0, False)
    track, decode = predictor.track_step, predictor.sam_mask_decoder.forward

    def tracked(**given: Any) -> Any:
        nonlocal place
        place = given["frame_idx"], given["point_inputs"] is not None
        return track(**given)

    def decoded(**given: Any) -> Any:
        masks, scores, tokens, presence = decode(**given)
        decision = Decision(masks[0], scores[0], float(presence), place[1])
        if changes and place in changes:
            decision = changes[place](decision)
        found[place[0]] = decision
        return decision.masks[None], decision.scores[None], tokens, torch.full_like(presence, decision.presence)

    with patch.object(predictor, "track_step", tracked), patch.object(predictor.sam_mask_decoder, "forward", decoded):
        yield found


def legacy_logits(predictor: Any, planes: np.ndarray, prompt: OrganPrompt, loop: str) -> np.ndarray:
    """Returns logits `[z_max − z_min + 1, H, W]` for one prompt, by the official predictor's public calls."""
    state, propagate, found = _opened(predictor, planes)
    middle = prompt.middle

    def add(box: Any) -> None:
        predictor.add_new_points_or_box(state, box.z, obj_id=1, box=np.array(box.box, np.float32))

    above, below = ([b for b in prompt.boxes if s * (b.z - middle.z) > 0] for s in (1, -1))
    for box in (middle, *above):
        add(box)
    propagate(middle.z, prompt.z_max)
    predictor.reset_state(state)
    add(middle)
    if loop == "symmetric":
        for box in below:
            add(box)
        propagate(middle.z, prompt.z_min)
    else:
        propagate(middle.z, prompt.z_min)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are adding a box after tracking starts")  # as the published script does
            for box in below:
                add(box)
                propagate(middle.z, prompt.z_min)
    return np.stack([found[z] for z in range(prompt.z_min, prompt.z_max + 1)])


def legacy_marked(predictor: Any, planes: np.ndarray, organ: MarkedOrgan) -> np.ndarray:
    """Returns logits `[z_max − z_min + 1, H, W]` for an organ's defining marks; each direction has a fresh memory."""
    state, propagate, found = _opened(predictor, planes)
    lowest = min(marks.z for marks in organ.defining)
    for last in (organ.z_max, organ.z_min):
        predictor.reset_state(state)
        for marks in organ.defining:
            places = np.array([*marks.inside, *marks.outside], np.float32).reshape(-1, 2)
            kinds = np.array([1] * len(marks.inside) + [0] * len(marks.outside), np.int32)
            box = None if marks.box is None else np.array(marks.box, np.float32)
            predictor.add_new_points_or_box(state, marks.z, obj_id=1, points=places, labels=kinds, box=box)
        propagate(lowest, last)
    return np.stack([found[z] for z in range(organ.z_min, organ.z_max + 1)])


def legacy_masked(
    predictor: Any, planes: np.ndarray, masks: Mapping[int, np.ndarray], first: int, last: int
) -> dict[int, np.ndarray]:
    """Returns logits `[H, W]` by slice, propagated from slice `first` to `last` with given masks `[H, W]` by slice."""
    state, propagate, found = _opened(predictor, planes)
    for z, mask in masks.items():
        predictor.add_new_mask(state, z, obj_id=1, mask=mask)
    propagate(first, last)
    return found


def _opened(predictor: Any, planes: np.ndarray) -> tuple[Any, Callable[[int, int], None], dict[int, np.ndarray]]:
    """Returns the predictor's state for a volume, a function that propagates between two slices, and the logits by slice."""
    frames = to_network(planes, predictor.image_size).to(predictor.device)
    rows, columns = planes.shape[1:]

    def load(**_: Any) -> tuple[torch.Tensor, int, int]:
        return frames, rows, columns

    with patch.object(legacy, "load_video_frames", load):
        state = predictor.init_state("volume")
    with torch.inference_mode():  # encodes every slice once, as the predictor itself caches only the last one
        state["cached_features"] = {
            z: (frames[z : z + 1], predictor.forward_image(frames[z : z + 1])) for z in range(len(frames))
        }
    features = dict(state["cached_features"])
    found: dict[int, np.ndarray] = {}

    def propagate(first: int, last: int) -> None:
        state["cached_features"] = dict(features)
        for z, _, masks in predictor.propagate_in_video(state, first, abs(last - first), last < first):
            found[z] = masks[0, 0].cpu().numpy()

    return state, propagate, found
