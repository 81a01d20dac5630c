"""`medsam2-atlas demo`: does an annotation team's main job on the sample data.

It builds the atlas and starts the real MONAI Label server on a temporary studies folder. Through MONAI Label's client it
requests the next case, a segmentation and a comparison with the U-Net, submits the label as `final` and reads it back. Then it
compares all strategies on that case.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medsam2_atlas.cli.endings import plain_endings

with plain_endings():  # imports take seconds, and Ctrl+C must end them without a traceback
    from monailabel.client import MONAILabelClient
    from rich.console import Console
    from rich.table import Table

    from medsam2_atlas.atlas import Atlas, build_atlas, find_references
    from medsam2_atlas.base.console import bars
    from medsam2_atlas.base.device import pick_device
    from medsam2_atlas.base.files import sha256, write_json
    from medsam2_atlas.base.resource import resource
    from medsam2_atlas.evaluation import dice_per_organ, mean_dice
    from medsam2_atlas.imaging.labels import organ_table
    from medsam2_atlas.imaging.preview import write_preview
    from medsam2_atlas.imaging.volume import read_labels, read_volume
    from medsam2_atlas.medsam2 import find_checkpoint, load_weights
    from medsam2_atlas.prompting import prompts_from_report
    from medsam2_atlas.segmenters.base import Options
    from medsam2_atlas.segmenters.case import Case
    from medsam2_atlas.segmenters.resources import LoadedResources
    from medsam2_atlas.segmenters.strategies import STRATEGIES, segment

console = Console()
_START_SECONDS = 120


def main(out: Path, device: str) -> None:
    """Runs the demo.

    Args:
        out: folder for the results.
        device: device for the networks: auto, cpu, cuda, or cuda:N.
    """
    began = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    samples = resource("sample-data")
    target = find_references(samples / "targets")[0]
    with bars() as progress:
        atlas = build_atlas(find_references(samples / "references"), progress=progress)
    atlas.save(out / "atlas")
    weights = load_weights(find_checkpoint())
    networks_on = pick_device(device)
    atlas_seconds = time.perf_counter() - began
    console.print(f"atlas {atlas.version} of {len(atlas.references)} references; weights {weights.file.name} {weights.mark}")
    with tempfile.TemporaryDirectory() as folder:
        studies = Path(folder) / "studies"
        studies.mkdir()
        shutil.copy(target.image, studies / target.image.name)
        with _server(studies, out / "atlas", weights.file, device, out / "server.log") as url:
            session = _annotate(url, studies, out)
    image = read_volume(target.image)
    ground_truth = read_labels(target.label, image)
    given = LoadedResources(Atlas.load(out / "atlas"), weights, device=networks_on)
    (table, rows), step = given.ladder.run(
        "demo", lambda memory: _compare(Case(image, given, Options(truth=ground_truth, memory=memory)))
    )
    console.print(table)
    if step.note:
        console.print(step.note)
    labels = read_labels(out / "label.nii.gz", image)
    server_dice = dice_per_organ(labels.array, ground_truth.array, organ_table().indices)
    rows["server"] = {"mean_dice": mean_dice(server_dice), **session}
    prompts = prompts_from_report(session["report"]["prompts"])
    write_preview(image, labels.array, out / "overlay.png", prompts, weights.mark)
    total = time.perf_counter() - began
    report = {
        "target": target.name,
        "atlas_version": atlas.version,
        "weights": weights.describe(),
        "device": str(given.ladder.device_of(step.memory)),
        "seconds": {"atlas": round(atlas_seconds, 1), "all": round(total, 1)},
        "strategies": rows,
    }
    write_json(report, out / "report.json")
    console.print(f"{out}/label.nii.gz, overlay.png, report.json; {total:.0f} s in total. [yellow]{weights.mark}[/]")


def _annotate(url: str, studies: Path, out: Path) -> dict[str, Any]:
    """Annotates one case (next case, pre-annotation, submission, reading the label back) and returns the results."""
    received = studies.parent / "received"  # separate: in its own folder, the server deletes its file of the same name
    received.mkdir()
    client = MONAILabelClient(url, tmpdir=str(received))
    chosen = client.next_sample("first", {})
    console.print(f"next case: {chosen['id']}")
    began = time.perf_counter()
    with console.status("the server segments …"):
        label, answer = client.infer("medsam2_atlas", chosen["id"], {"segmenter": "D"})
    seconds = time.perf_counter() - began
    differences, compared = client.infer("compare", chosen["id"], {})
    agreement = compared["report"]
    shutil.move(differences, out / "differences.nii.gz")
    cost = "; ".join(f"{name} {c['seconds']:.0f} s, {c['watt_hours']} Wh" for name, c in agreement["cost"].items())
    console.print(f"MedSAM2 and U-Net agree to a mean Dice of {agreement['mean_dice']:.2f} ({cost})")
    client.save_label(chosen["id"], label, tag="final")
    back = client.download_label(chosen["id"], "final")
    if sha256(Path(back)) != sha256(Path(label)):
        raise SystemExit("the label that was read back differs from the submitted label")
    stored = sorted(str(file.relative_to(studies)) for file in studies.rglob("*.nii.gz"))
    console.print(
        f"segmented in {seconds:.1f} s, submitted as final, read back unchanged; the studies folder contains {stored}"
    )
    shutil.move(label, out / "label.nii.gz")
    return {
        "seconds": round(seconds, 1),
        "label_names": answer["label_names"],
        "report": answer["report"],
        "comparison": agreement,
    }


def _compare(case: Case) -> tuple[Table, dict[str, Any]]:
    """Returns Dice per organ and seconds per stage of each strategy. Shared work counts for the first that needs it."""
    organs = organ_table().indices
    table = Table("organ", *STRATEGIES, title="Dice on a target that is neither in the atlas nor in the training data")
    rows: dict[str, Any] = {}
    with bars() as progress:
        for number, name in enumerate(STRATEGIES):
            result = segment(case, name)
            dice = dice_per_organ(result.labels.array, case.true_labels(), organs)
            rows[name] = {
                "mean_dice": round(mean_dice(dice), 4),
                "dice": {organ_table()[k].name: round(v, 4) for k, v in dice.items()},
                "seconds": result.report.seconds,
                "without_prompt": result.report.without_prompt,
            }
            progress("comparing strategies", (number + 1) / len(STRATEGIES))
    for organ in organ_table().organs:
        values = [rows[name]["dice"].get(organ.name) for name in STRATEGIES]
        table.add_row(organ.display, *("" if v is None else f"{v:.2f}" for v in values))
    table.add_section()
    table.add_row("mean", *(f"{rows[name]['mean_dice']:.3f}" for name in STRATEGIES))
    for stage in ("registration and score maps", "network", "total"):
        table.add_row(f"s, {stage}", *(f"{rows[name]['seconds'].get(stage, 0):.1f}" for name in STRATEGIES))
    return table, rows


@contextmanager
def _server(studies: Path, atlas: Path, checkpoint: Path, device: str, log: Path) -> Iterator[str]:
    """Runs the real MONAI Label server with this app on a free port of the loopback address; yields its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "medsam2_atlas", "serve", str(studies), "--port", str(port)]
    command += ["--atlas", str(atlas), "--checkpoint", str(checkpoint), "--device", device]
    own = {"MONAI_LABEL_SESSION_PATH": str(studies.parent / "sessions"), "MEDSAM2_ATLAS_STATE": str(studies.parent / "state")}
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=os.environ | own)
        try:
            with console.status("the server starts …"):
                _wait_for(url, process, log)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the server stopped; its log is {log}")
        try:
            MONAILabelClient(url).info()
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise SystemExit(f"the server did not answer within {_START_SECONDS} s; its log is {log}")


if __name__ == "__main__":
    with plain_endings():
        given = dict(enumerate(sys.argv))
        main(Path(given.get(1, "demo-output")), given.get(2, "auto"))
