"""Measures MedSAM2's engine on a GPU in both modes: 235 slices of 512 × 512 pixels, 15 organs of 70 slices, two passes.

The goal is less than 3 s on an H100 or H200. The network is the official one with seeded weights: its times are valid, its
masks are not. `same` compares fast mode's masks with those of exact mode for the demo weights, whose masks are valid. A second
table compares two attention kernels: for values with a quarter of the keys' channels, as the engine has them, and for values
padded to the keys' channels, as FlashAttention needs them.

`--compile` also measures compiled parts. `--quick` runs a tiny case, on a pretended GPU if there is none. Without `--compile`,
it needs less than a minute on an H100.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from legacy import seeded_state
from mask_dice import mask_dice
from medsam2_atlas.atlas import find_references
from medsam2_atlas.base.choices import MODES, Mode
from medsam2_atlas.base.console import console
from medsam2_atlas.base.device import pick_device
from medsam2_atlas.base.memory import free_gpu_memory
from medsam2_atlas.base.precision import dtype_name, engine_dtype
from medsam2_atlas.base.resource import resource
from medsam2_atlas.imaging.volume import read_labels, read_volume
from medsam2_atlas.medsam2 import (
    DEMO,
    OFFICIAL,
    MedSAM2Config,
    MedSAM2Volume,
    Weights,
    build_network,
    load_config,
    load_weights,
    prepared,
)
from medsam2_atlas.prompting import BoxPrompt, OrganPrompt, prompting_config, prompts_from_labels
from pretended_gpu import pretended_gpu

MIB, PASSES, RUNS = 1 << 20, 2, 3


@dataclass(frozen=True)
class Size:
    """The size of a case: slices, pixels per side, organs, slices per organ."""

    slices: int
    side: int
    organs: int
    height: int


GOAL, TINY = Size(235, 512, 15, 70), Size(8, 64, 2, 5)


def prompts(size: Size) -> list[OrganPrompt]:
    """Returns three boxes per organ; organs begin at different slices and differ in height, as in a patient."""
    found = []
    for label in range(1, size.organs + 1):
        height = max(4, round(size.height * (0.4 + 1.2 * (label - 1) / max(1, size.organs - 1))))
        low = (label * 37) % max(1, size.slices - height)
        left, top, side = (label * 53) % (size.side // 2), (label * 29) % (size.side // 2), size.side // 4
        planes = sorted({low + int(share * (height - 1)) for share in (0.25, 0.5, 0.75)})
        boxes = tuple(BoxPrompt(z, (left, top, left + side, top + side)) for z in planes)
        found.append(OrganPrompt(label, low, low + height - 1, boxes))
    return found


def seconds(work: Callable[[], object], gpu: torch.device) -> float:
    """Returns the wall time of work, including the time until the GPU has finished."""
    torch.cuda.synchronize(gpu)
    began = time.perf_counter()
    work()
    torch.cuda.synchronize(gpu)
    return time.perf_counter() - began


def times(weights: Weights, size: Size, mode: Mode, gpu: torch.device) -> list[str]:
    """Returns the cells of a row: seconds of the first case, of the best case and of its parts, and the peak of memory.

    Opening converts the CT to 8 bits on the processor.
    """
    hu = np.random.default_rng(0).normal(50, 100, (size.slices, size.side, size.side)).astype(np.float32)
    boxes, runs = prompts(size), []
    torch.cuda.reset_peak_memory_stats(gpu)
    needed = sorted({z for p in boxes for z in range(p.z_min, p.z_max + 1)})
    for _ in range(RUNS):
        began = time.perf_counter()
        opened = MedSAM2Volume(weights, hu, mode=mode)
        parts = {"opening": time.perf_counter() - began}
        parts["encoding"] = seconds(partial(opened._features.encode, needed), gpu)
        parts["passes"] = sum(seconds(partial(opened.segment, boxes), gpu) for _ in range(PASSES))
        runs.append(parts)
    best = min(runs, key=lambda parts: sum(parts.values()))
    shown = [f"{sum(parts.values()):.2f}" for parts in (runs[0], best)]
    shown += [f"{best[part]:.2f}" for part in best]
    return [*shown, f"{torch.cuda.max_memory_allocated(gpu) / MIB:.0f}"]


def seeded(name: str, gpu: torch.device) -> Weights:
    """Returns a network with seeded weights on a GPU."""
    config = load_config(name)
    network = build_network(config)
    network.load_state_dict(seeded_state(config))
    return Weights(network.to(gpu), config, Path("seeded"), "", "seeded weights")


def same(gpu: torch.device, organs: list[int]) -> str:
    """Returns the lowest and the mean Dice of organs between both modes, for a sample patient and the demo weights."""
    files = find_references(resource("sample-data") / "targets")[0]
    image = read_volume(files.image)
    truth = read_labels(files.label, image).array
    boxes = prompts_from_labels(truth, organs, prompting_config().three_boxes, "not there").prompts
    weights = load_weights(Path(resource("weights/medsam2_demo.pt")), None, gpu)
    exact, fast = (MedSAM2Volume(weights, image.array, mode=mode).segment(boxes) for mode in MODES)
    dice = [mask_dice((exact[k].values > 0).numpy(), (fast[k].values > 0).numpy()) for k in exact]
    return f"lowest {min(dice):.4f}, mean {np.mean(dice):.4f}, {len(dice)} organs"


def kernels(gpu: torch.device, quick: bool) -> Table:
    """Measures attention as the engine calls it: 30 tracks, 1024 queries, 8 memories of 1024 tokens and 64 pointers' tokens."""
    table = Table("keys, values", "mask", "format", "ms", title="attention of 30 tracks to 8 memories")
    count, rows = (2, 64) if quick else (30, 1024)
    for dtype in dict.fromkeys((torch.float32, engine_dtype(gpu, "fast"))):
        queries = torch.randn(count, 1, rows, 256, device=gpu, dtype=dtype)
        keys = torch.randn(count, 1, 8 * rows + 64, 256, device=gpu, dtype=dtype)
        for width in (64, 256):
            values = keys[..., :width].contiguous()
            for masked in (False, True):
                mask = torch.ones(count, 1, 1, keys.shape[2], dtype=torch.bool, device=gpu) if masked else None
                work = partial(F.scaled_dot_product_attention, queries, keys, values, mask, scale=1 / 16)
                spent = min(seconds(work, gpu) for _ in range(5))
                table.add_row(f"256, {width}", "yes" if masked else "no", dtype_name(dtype), f"{1000 * spent:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N")
    parser.add_argument("--compile", action="store_true", help="also measure compiled parts, which takes minutes")
    parser.add_argument("--quick", action="store_true", help="run a tiny case; on a pretended GPU if there is none")
    options = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not options.quick:
        raise SystemExit("This machine has no GPU that PyTorch can use. --quick tests the benchmark on a pretended GPU.")
    with contextlib.nullcontext() if has_gpu else pretended_gpu(), torch.inference_mode():
        gpu = pick_device(options.device)
        size = TINY if options.quick else GOAL
        shape = f"{size.slices} × {size.side} × {size.side}, {size.organs} organs, {PASSES} passes"
        title = f"{torch.cuda.get_device_name(gpu)}, PyTorch {torch.__version__}: {shape}"
        columns = ("mode", "format", "first s", "best s", "opening s", "encoding s", "passes s", "peak MiB")
        table = Table(*columns, title=title)
        for compiles in (False, True) if options.compile else (False,):
            with mock.patch.object(prepared, "medsam2_config", lambda compiles=compiles: MedSAM2Config(compile=compiles)):
                for mode in MODES:
                    free_gpu_memory()
                    weights = seeded(DEMO if options.quick else OFFICIAL, gpu)
                    row = times(weights, size, mode, gpu)
                    table.add_row(mode + (", compiled" if compiles else ""), dtype_name(engine_dtype(gpu, mode)), *row)
        console.print(table)
        console.print(f"Dice of fast to exact mode: {same(gpu, [11] if options.quick else list(range(1, 16)))}")
        console.print(kernels(gpu, options.quick))
    if not has_gpu:
        console.print("The GPU was a pretended one: its times are meaningless.")


if __name__ == "__main__":
    main()
