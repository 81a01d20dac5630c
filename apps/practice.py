"""A practice annotator for a server: `medsam2-atlas practice`.

Takes the next case from the server, lets a model pre-annotate it, and submits the ground truth in place of the label map that a
person would have corrected. It is a client like 3D Slicer: everything passes through the server's routes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from medsam2_atlas.cli.endings import plain_endings

with plain_endings():  # importing takes seconds, in which people press Ctrl+C
    import requests
    from monailabel.client import MONAILabelClient
    from monailabel.client.client import MONAILabelClientException

    from medsam2_atlas.active_learning import MEASURED
    from medsam2_atlas.base.console import console, echo
    from medsam2_atlas.base.errors import InputError, NotFoundError, UnavailableError
    from medsam2_atlas.evaluation import dice_per_organ, mean_dice
    from medsam2_atlas.imaging.kinds import WRITTEN_LABELS
    from medsam2_atlas.imaging.labels import organ_table
    from medsam2_atlas.imaging.volume import read_labels


def main(labels: Path, server: str, count: int, strategy: str, model: str, wait: float) -> None:
    """Signs off `count` cases on a server.

    Args:
        labels: folder of ground-truth label maps, named as the studies.
        server: URL of a server without a login.
        count: cases to sign off; fewer if the server has no more.
        strategy: the server's strategy that chooses the next case.
        model: the server's model that pre-annotates.
        wait: max seconds until the server has measured all cases for the strategy.

    Raises:
        UnavailableError: the server does not answer.
        InputError: the server refuses a request.
        NotFoundError: a case has no label map in the folder.
    """
    found = []
    with tempfile.TemporaryDirectory() as received:
        # With one name for all runs: a case that a stopped run was given would count as another annotator's for a while.
        client = MONAILabelClient(server, tmpdir=received, client_id="practice")
        for number in range(1, count + 1):
            try:
                if number == 1 and strategy in MEASURED:
                    _wait_for_measures(server, wait)
                study, why, seconds, dice = _sign_off(client, labels, strategy, model)
            except OSError as error:
                remedy = "Start it: medsam2-atlas serve STUDIES --atlas ATLAS"
                raise UnavailableError(server, "does not answer.", remedy) from error
            except MONAILabelClientException as error:
                raise InputError(server, f"refused a request: {_reason(error)}") from error
            if not study:
                echo("The server has no more cases to sign off.")
                break
            found.append(dice)
            echo(
                f"{number:>2}. {study}, {why}",
                f"    {model} took {seconds:.0f} s; Dice to the ground truth {dice:.3f}; signed off",
            )
    if found:
        echo(f"{len(found)} cases signed off; mean Dice of {model} before correction {sum(found) / len(found):.3f}")


def _wait_for_measures(server: str, seconds: float) -> None:
    """Waits until the server has measured all cases that it measures; it does that while no client waits for a model."""
    deadline = time.monotonic() + seconds
    with console.status("the server measures its cases …") as status:
        while time.monotonic() < deadline:
            answer = requests.get(f"{server.rstrip('/')}/worklist/summary", timeout=60)
            if not answer.ok:  # the request for the next case is refused too, and reports the reason
                return
            learning, counts = answer.json()["learning"], answer.json()["counts"]
            left = any(counts[state] for state in ("new", "predicted", "in work"))
            if not (left and learning["on"]) or (learning["of"] and learning["done"] >= learning["of"]):
                return
            status.update(f"the server measures its cases: {learning['done']} of {learning['of']} …")
            time.sleep(2)


def _sign_off(client: MONAILabelClient, labels: Path, strategy: str, model: str) -> tuple[str, str, float, float]:
    """Signs off one case; returns its name, the server's reason, the model's seconds, and its mean Dice to the ground truth."""
    chosen: dict[str, Any] = client.next_sample(strategy, {})
    study = chosen.get("id", "")
    if not study:
        return "", "", 0.0, 0.0
    truth = next((file for suffix in WRITTEN_LABELS if (file := labels / f"{study}{suffix}").is_file()), None)
    if truth is None:
        raise NotFoundError(labels, f"has no label map of {study}.", "Name the folder of the studies' ground truth.")
    began = time.perf_counter()
    with console.status(f"{model} segments {study} …"):
        predicted, _ = client.infer(model, study, {})
    seconds = time.perf_counter() - began
    reference = read_labels(truth)
    dice = mean_dice(dice_per_organ(read_labels(Path(predicted), reference).array, reference.array, organ_table().indices))
    client.save_label(study, str(truth), tag="final")
    return study, chosen["why"], seconds, dice


def _reason(error: MONAILabelClientException) -> str:
    """Returns the server's own words for a refused request."""
    _, _, answer = str(error.msg).partition("Response: ")
    try:
        told = json.loads(answer)["error"]
        return f"{told['message']} {told.get('remedy') or ''}".strip()
    except (ValueError, KeyError, TypeError):
        return str(error.msg)


if __name__ == "__main__":
    with plain_endings():
        folder, url, cases, way, name, seconds = sys.argv[1:7]
        main(Path(folder), url, int(cases), way, name, float(seconds))
