"""Measures time, memory and energy of networks and trainings on a GPU and on the CPU, in one run (`make gpu`).

Prompts come from the ground truth of a sample patient instead of an atlas, so that only the networks are measured. `first` is
the first case of a process, which loads the kernels. `Dice` is the lowest Dice of an organ between the label maps from CPU and
GPU. The official network has seeded weights: its times are valid, its label maps are not. `--quick` runs a small part of each
measurement, on a pretended GPU if there is none.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from large_ct import large_ct
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from legacy import seeded_state
from medsam2_atlas.atlas import find_references
from medsam2_atlas.base.choices import MODES, Mode
from medsam2_atlas.base.console import console
from medsam2_atlas.base.device import pick_device
from medsam2_atlas.base.energy import measured
from medsam2_atlas.base.memory import free_gpu_memory
from medsam2_atlas.base.resource import resource
from medsam2_atlas.evaluation import dice_per_organ
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import Volume, read_labels, read_volume
from medsam2_atlas.medsam2 import OFFICIAL, Weights, build_network, load_config, load_weights
from medsam2_atlas.segmenters.base import Options, Segmentation
from medsam2_atlas.segmenters.case import Case
from medsam2_atlas.segmenters.places import find_unet
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.segmenters.strategies import segment
from medsam2_atlas.studies.runner import run as run_segmenter
from medsam2_atlas.unet import TrainingCase, UNetTraining, load_unet, predict, unet_config, with_training
from pretended_gpu import pretended_gpu

CPU = torch.device("cpu")
FEW = (4, 11)  # gallbladder and right adrenal gland: the official network takes minutes for all organs on a CPU
MIB = 1 << 20


@dataclass
class Run:
    """Seconds, watt-hours (None if unknown), peak GPU memory in MiB, and result of a run."""

    seconds: float
    watt_hours: float | None
    peak: float
    result: Any


@dataclass
class Row:
    """A line of the table: the same work on the CPU and on the GPU."""

    name: str
    cpu: Run | None = None
    gpu: list[Run] = field(default_factory=list)

    def cells(self) -> list[str]:
        first, last = self.gpu[0], self.gpu[-1]
        found = [self.name, _number(self.cpu and self.cpu.seconds), _number(first.seconds), _number(last.seconds)]
        found += [f"{last.peak:.0f}", _number(self.cpu and self.cpu.watt_hours, 3), _number(last.watt_hours, 3)]
        return [*found, _dice(self.cpu.result, last.result) if self.cpu else ""]


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _dice(on_cpu: Any, on_gpu: Any) -> str:
    """Returns the lowest Dice of an organ between two label maps; an empty string for results that are not label maps."""
    if not isinstance(on_cpu, np.ndarray):
        return ""
    return f"{min(dice_per_organ(on_gpu, on_cpu, np.unique(on_cpu[on_cpu > 0]).tolist()).values(), default=float('nan')):.4f}"


def timed(work: Callable[[], Any], device: torch.device) -> Run:
    """Measures a run of `work` on a device, including the time until the GPU has finished."""
    if device.type == "cuda":
        free_gpu_memory()  # reference cycles of an earlier training keep hundreds of MiB allocated
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    with measured() as energy:
        began = time.perf_counter()
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated(device) / MIB if device.type == "cuda" else 0.0
    return Run(seconds, energy["watt_hours"], peak, result)


def compared(name: str, work: Callable[[torch.device], Callable[[], Any]], gpu: torch.device, *, on_cpu: bool = True) -> Row:
    """Measures work once on the CPU and twice on the GPU; `work(device)` prepares it, which is not timed."""
    console.print(f"[dim]{name}[/]")
    row = Row(name, timed(work(CPU), CPU) if on_cpu else None)
    prepared = work(gpu)
    row.gpu = [timed(prepared, gpu) for _ in range(2)]
    return row


@dataclass(frozen=True)
class Patient:
    """A sample patient, with the ground-truth label map that the prompts come from."""

    image: Volume
    truth: Volume
    mode: Mode

    @classmethod
    def sample(cls, mode: Mode) -> Patient:
        files = find_references(resource("sample-data") / "targets")[0]
        image = read_volume(files.image)
        return cls(image, read_labels(files.label, image), mode)

    def case(self, weights: Weights, organs: tuple[int, ...]) -> Case:
        """Returns a case whose prompts come from the ground truth instead of a U-Net's label map."""
        given = LoadedResources(None, weights, {"unet_3d": load_unet(find_unet("unet_3d"))}, device=weights.device)
        case = Case(self.image, given, Options(organs=organs, prompts="unet", mode=self.mode))
        case._coarse = self.truth.array
        return case

    def by_reference(self, weights: Weights, organs: tuple[int, ...], device: torch.device) -> Segmentation:
        """Segments with strategy reference-3, on the memory ladder."""
        given = LoadedResources(None, weights, device=device)
        options = Options(organs=organs, truth=self.truth, mode=self.mode)
        return run_segmenter(given.segmenter("reference-3"), self.image, options, given).segmentation

    def strategy_d(self, load: Callable[[torch.device], Weights], organs: tuple[int, ...]) -> Any:
        """Returns the work of strategy D for `compared`; each run encodes the slices again."""

        def prepared(device: torch.device) -> Callable[[], np.ndarray]:
            weights = load(device)
            return lambda: segment(self.case(weights, organs), "D").labels.array

        return prepared


def demo(device: torch.device) -> Weights:
    return load_weights(Path(resource("weights/medsam2_demo.pt")), None, device)


def official_shape() -> Callable[[torch.device], Weights]:
    config = load_config(OFFICIAL)
    state = seeded_state(config)

    def load(device: torch.device) -> Weights:
        network = build_network(config)
        network.load_state_dict(state)
        return Weights(network.to(device), config, Path("seeded"), "", "seeded weights")

    return load


def unet_inference(image: Volume, augment: bool = False) -> Any:
    def prepared(device: torch.device) -> Callable[[], np.ndarray]:
        unet = load_unet(find_unet("unet_3d"), device)
        return lambda: predict(image, unet, augment=augment).labels

    return prepared


def unet_training(preset: str, folder: Path, epochs: int, count: int) -> Any:
    """Returns a training of a preset on sample references, without validation, for `compared`."""
    cases = [TrainingCase(f.name, f.image, f.label) for f in find_references(resource("sample-data") / "references")[:count]]
    config = with_training(unet_config(preset), {"epochs": epochs, "validation_share": 0.0})

    def prepared(device: torch.device) -> Callable[[], None]:
        run = Path(tempfile.mkdtemp(dir=folder))
        UNetTraining(cases, config, run, CPU)  # reads the cases, so that reading is not timed
        return lambda: UNetTraining(cases, config, run, device).run() and None

    return prepared


def short_of_memory(patient: Patient, weights: Weights, organs: tuple[int, ...], gpu: torch.device) -> Table:
    """Segments the same case with less and less GPU memory on the memory ladder, and with all memory at last."""
    columns = ("limit MiB", "s", "peak MiB", "MiB before", "MiB after", "memory step", "Dice")
    table = Table(*columns, title=f"{weights.file.name}, reference-3, {len(organs)} organs, with decreasing memory limits")
    total = torch.cuda.get_device_properties(gpu).total_memory
    usual: Run | None = None
    for share in (None, 0.6, 0.3, 0.05, None):
        free_gpu_memory()
        before = torch.cuda.memory_allocated(gpu) / MIB
        limit = total if share is None or usual is None else int(before * MIB + share * (usual.peak - before) * MIB)
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), gpu)
        try:
            run = timed(lambda: patient.by_reference(weights, organs, gpu), gpu)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, gpu)
        labels, note = run.result.labels.array, run.result.report.memory or "as usual"
        run.result = labels
        usual = usual or run
        after = torch.cuda.memory_allocated(gpu) / MIB
        shown = "" if share is None else f"{limit / MIB:.0f}"
        cells = [shown, _number(run.seconds), f"{run.peak:.0f}", f"{before:.0f}", f"{after:.0f}", note]
        table.add_row(*cells, _dice(usual.result, labels))
    return table


def tables(gpu: torch.device, folder: Path, quick: bool, mode: Mode) -> Iterator[Table]:
    patient, official = Patient.sample(mode), official_shape()
    every = FEW if quick else tuple(organ_table().indices)
    threads = f"{torch.get_num_threads()} threads"
    columns = ("work", "CPU s", "first s", "GPU s", "GPU peak MiB", "CPU Wh", "GPU Wh", "Dice")
    table = Table(*columns, title=f"{torch.cuda.get_device_name(gpu)}, PyTorch {torch.__version__}, {threads}, MedSAM2 {mode}")
    work: list[tuple[str, Any, bool]] = [
        (f"demo weights, D, {len(every)} organs", patient.strategy_d(demo, every), True),
        ("unet_3d, sample CT", unet_inference(patient.image), True),
    ]
    if not quick:
        work += [
            ("official network, D, 2 organs", patient.strategy_d(official, FEW), True),
            ("official network, D, 15 organs", patient.strategy_d(official, every), False),
            ("unet_3d, sample CT, augmented", unet_inference(patient.image, augment=True), False),
            ("unet_3d, 512 × 512 × 200", unet_inference(large_ct()), True),
        ]
    epochs, count = (1, 1) if quick else (2, 8)
    for preset in ("unet_3d", "unet_2d"):
        name = f"training of {preset}, {epochs} × {count} cases"
        work.append((name, unet_training(preset, folder, epochs, count), False))
    for name, prepare, on_cpu in work:
        table.add_row(*compared(name, prepare, gpu, on_cpu=on_cpu).cells())
    yield table
    yield short_of_memory(patient, demo(CPU) if quick else official(CPU), FEW, gpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N")
    parser.add_argument("--quick", action="store_true", help="run a small part; on a pretended GPU if there is none")
    parser.add_argument("--mode", choices=MODES, default=MODES[0], help="MedSAM2's mode")
    options = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not options.quick:
        raise SystemExit("This machine has no GPU that PyTorch can use. --quick tests the benchmark on a pretended GPU.")
    with tempfile.TemporaryDirectory() as name, contextlib.nullcontext() if has_gpu else pretended_gpu():
        gpu = pick_device(options.device)
        for table in tables(gpu, Path(name), options.quick, options.mode):
            console.print(table)
    if not has_gpu:
        console.print("The GPU was a pretended one: its times and watt-hours are meaningless.")


if __name__ == "__main__":
    main()
