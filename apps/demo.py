"""`medsam2-atlas demo`: does an annotation team's main job on the sample data.

It builds the atlas and starts the real MONAI Label server on a new studies folder. Through MONAI Label's client it
requests the next case, a segmentation and a comparison with the U-Net, submits the label as `final` and reads it back. Then it
compares all strategies on that case, and tells how to open the case in OHIF. On request it starts a server for that.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam2_atlas.cli.endings import plain_endings

with plain_endings():  # imports take seconds, and Ctrl+C must end them without a traceback
    from monailabel.client import MONAILabelClient
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from medsam2_atlas.atlas import Atlas, build_atlas, find_references
    from medsam2_atlas.base.console import bars
    from medsam2_atlas.base.device import pick_device
    from medsam2_atlas.base.files import remove_folder, sha256, write_json
    from medsam2_atlas.base.mapping import side_by_side
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
_VIEWER_PORT = 8000


def main(out: Path, device: str, keep: bool = False) -> None:
    """Runs the demo.

    Args:
        out: folder for the results.
        device: device for the networks: auto, cpu, cuda, or cuda:N.
        keep: whether to leave a server running at the end, until Ctrl+C.
    """
    began = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    samples = resource("sample-data")
    target = find_references(samples / "targets")[0]
    with bars() as progress:
        atlas = build_atlas(find_references(samples / "references"), progress=progress, mapped=side_by_side())
    atlas.save(out / "atlas")
    weights = load_weights(find_checkpoint())
    networks_on = pick_device(device)
    atlas_seconds = time.perf_counter() - began
    console.print(f"atlas {atlas.version} of {len(atlas.references)} references; weights {weights.file.name}")
    studies = _fresh_studies(out, target.image)
    serving = _Serving(studies, out / "atlas", weights.file, device, out / "server.log")
    with serving.running() as (url, _), tempfile.TemporaryDirectory() as folder:
        session = _annotate(url, studies, Path(folder), out)
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
    console.print(f"Results: {out}/label.nii.gz, overlay.png, report.json; {total:.0f} s in total", soft_wrap=True)
    if weights.mark:
        console.print(f"[yellow]{weights.mark}[/]")
    if keep:
        _keep(serving)
    else:
        console.print("To view the case in OHIF, start a server, and open http://127.0.0.1:8000/ohif/ in a browser:")
        console.print(
            f"medsam2-atlas serve {shlex.quote(str(studies))} --atlas {shlex.quote(str(out / 'atlas'))}", soft_wrap=True
        )


def _fresh_studies(out: Path, image: Path) -> Path:
    """Returns a new studies folder with one CT; removes that of an earlier run, but nothing that the demo has not made."""
    studies = out / "demo-studies"
    if studies.exists():
        others = sorted({entry.name for entry in studies.iterdir()} - {image.name, "labels", ".medsam2_atlas"})
        if others:
            raise SystemExit(f"{studies} contains {others[0]}, which is not the demo's. Move it, or choose another folder.")
        remove_folder(studies, out)
    studies.mkdir(mode=0o700)
    shutil.copy(image, studies / image.name)
    return studies


def _keep(serving: _Serving) -> None:
    """Starts the server again, prints the viewer's address, and waits for Ctrl+C."""
    with suppress(KeyboardInterrupt), serving.running(_VIEWER_PORT) as (url, process):
        console.print(f"The viewer is at [bold]{url}/ohif/[/], the worklist at {url}/. Ctrl+C ends the server.")
        if process.wait() not in (0, -signal.SIGINT, 128 + signal.SIGINT):  # the terminal sends Ctrl+C to the server, too
            raise SystemExit(f"the server stopped; its log is {serving.log}")


def _annotate(url: str, studies: Path, received: Path, out: Path) -> dict[str, Any]:
    """Annotates one case (next case, pre-annotation, submission, reading the label back) and returns the results.

    Args:
        url: address of the server.
        studies: its studies folder.
        received: folder for the client's files. In its own folder, the server deletes its file of the same name.
        out: folder for the results.
    """
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
    console.print(f"segmented in {seconds:.1f} s, submitted as final, and read back unchanged. {studies} now has:")
    for file in sorted(file.relative_to(studies) for file in studies.rglob("*.nii.gz") if ".medsam2_atlas" not in file.parts):
        console.print(f"  {file}", highlight=False, soft_wrap=True)
    shutil.move(label, out / "label.nii.gz")
    return {
        "seconds": round(seconds, 1),
        "label_names": answer["label_names"],
        "report": answer["report"],
        "comparison": agreement,
    }


def strategy_table() -> Table:
    """Returns a table without rows, with a column for each strategy; it fits a terminal of 80 columns."""
    title = "Dice on a target that is neither in the atlas nor in the training data"
    caption = "ref-1, ref-3: reference-1, reference-3 (prompts from the ground truth)"
    table = Table("organ", title=title, caption=caption, box=SIMPLE_HEAD, padding=0)
    for name in STRATEGIES:
        table.add_column(name.replace("reference-", "ref-"), justify="right", min_width=5)
    return table


def _compare(case: Case) -> tuple[Table, dict[str, Any]]:
    """Returns Dice per organ and seconds per stage of each strategy. Shared work counts for the first that needs it."""
    organs = organ_table().indices
    table = strategy_table()
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
        table.add_row(
            f"s, {stage.removesuffix(' and score maps')}",
            *(f"{rows[name]['seconds'].get(stage, 0):.1f}" for name in STRATEGIES),
        )
    return table, rows


@dataclass(frozen=True)
class _Serving:
    """What the real MONAI Label server with this app serves. log: the file of its messages."""

    studies: Path
    atlas: Path
    checkpoint: Path
    device: str
    log: Path

    @contextmanager
    def running(self, preferred: int = 0) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
        """Runs the server on the loopback address; yields its URL and its process.

        Args:
            preferred: port to use if it is free; otherwise, and by default, any free one.
        """
        port = _free_port(preferred)
        command = [sys.executable, "-m", "medsam2_atlas", "serve", str(self.studies), "--port", str(port)]
        command += ["--atlas", str(self.atlas), "--checkpoint", str(self.checkpoint), "--device", self.device]
        with tempfile.TemporaryDirectory() as own, self.log.open("w") as stream:
            folders = {"MONAI_LABEL_SESSION_PATH": f"{own}/sessions", "MEDSAM2_ATLAS_STATE": f"{own}/state"}
            process = subprocess.Popen(command, stdout=stream, stderr=stream, env=os.environ | folders)
            try:
                with console.status("the server starts …"):
                    _wait_for(f"http://127.0.0.1:{port}", process, self.log)
                yield f"http://127.0.0.1:{port}", process
            finally:
                process.terminate()
                process.wait(timeout=30)


def _free_port(preferred: int) -> int:
    """Returns a port if it is free, or else any free one. preferred: 0 for any."""
    for port in (preferred, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise SystemExit("no TCP port is free")


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
        main(Path(given.get(1, "demo-output")), given.get(2, "auto"), given.get(3) == "keep")
