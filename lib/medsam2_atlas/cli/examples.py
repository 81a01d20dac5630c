"""An example for each command and group at the end of its help, and a summary in the list of commands.

`tests/cli/test_examples.py` parses each example, so that it contains only arguments and options that exist.
"""

from __future__ import annotations

import inspect
import re

import typer

_SUMMARY = 66
"""Max characters of a summary, if it has a comma at which it can end."""
PROGRAM = "medsam2-atlas"
EXAMPLES = {
    "": "segment ct.nii.gz -o organs.nii.gz --atlas atlas",
    "atlas": "atlas build references atlas",
    "atlas build": "atlas build references atlas --missing absent",
    "atlas grow": "atlas grow studies --exclude case-7",
    "atlas versions": "atlas versions studies",
    "atlas info": "atlas info atlas",
    "atlas scores": "atlas scores ct.nii.gz --atlas atlas -o scores.npz",
    "weights": "weights fetch",
    "weights fetch": "weights fetch MedSAM2_latest.pt",
    "weights check": "weights check MedSAM2_latest.pt",
    "weights shapes": "weights shapes --config demo",
    "viewer": "viewer fetch",
    "viewer fetch": "viewer fetch",
    "viewer install": "viewer install ohif-app-3.13.2.tgz",
    "labels": "labels list studies",
    "labels list": "labels list studies case-7",
    "labels check": "labels check studies",
    "labels restore": "labels restore studies case-7 2",
    "labels confirm": "labels confirm studies case-7 --tag final",
    "labels accept": "labels accept studies case-7 3",
    "labels return": 'labels return studies case-7 3 --comment "spleen tip"',
    "labels export": "labels export studies case-7 2 organs.nii.gz",
    "studies": "studies backup /srv/studies /mnt/backup/studies",
    "studies audit": "studies audit /srv/studies --since 2026-11-01",
    "studies verify": "studies verify /srv/studies --report findings.json",
    "studies backup": "studies backup /srv/studies /mnt/backup --keep 30",
    "studies restore": "studies restore /mnt/backup /srv/studies",
    "studies snapshots": "studies snapshots /mnt/backup",
    "studies erase": 'studies erase /srv/studies case-7 --reason "withdrawn"',
    "studies readmit": "studies readmit https://pacs.example.org/dicom 1.2.840",
    "data": "data prepare flare22 download prepared",
    "data prepare": "data prepare flare22 download prepared --partial",
    "dicom": "dicom seg organs.nii.gz series organs.dcm",
    "dicom seg": "dicom seg organs.nii.gz series organs.dcm --made MANUAL",
    "dicom rtstruct": "dicom rtstruct organs.nii.gz series organs.dcm",
    "dicom send": "dicom send export.zip http://127.0.0.1:8042/dicom-web",
    "tokens": "tokens add tokens.yaml kim --role reviewer",
    "tokens add": "tokens add tokens.yaml kim --expires 2027-01-31",
    "tokens check": "tokens check tokens.yaml",
    "check": "check references --report findings.json",
    "thresholds": "thresholds atlas --references references",
    "segment": "segment ct.nii.gz -o organs.nii.gz --preview ct.png",
    "propagate": "propagate ct.nii.gz --prompts p.json --logits l.npz",
    "phantoms": "phantoms patients --count 4 --spacing 3",
    "train": "train unet studies run",
    "train unet": "train unet studies run --epochs 100 --device cuda",
    "train demo": "train demo demo.pt --steps 2000",
    "compare": "compare studies -o comparison --atlas atlas",
    "evaluate": "evaluate --images ct --labels truth -o results",
    "doctor": "doctor --atlas atlas",
    "batch": "batch cts results --atlas atlas",
    "cluster": "cluster script cluster.yaml",
    "cluster certificates": "cluster certificates /shared/certificates",
    "cluster script": "cluster script cluster.yaml",
    "serve": "serve studies --atlas atlas --port 8000",
    "demo": "demo demo-output --keep",
    "practice": "practice truth --cases 5",
    "version": "version",
}
"""By full name of the command or group without `medsam2-atlas`. With it, each line fits a terminal of 80 columns."""


def example(name: str) -> str:
    """Returns the line of a command's help with its example.

    Args:
        name: full name of the command or group without `medsam2-atlas`; empty for the program itself.

    >>> example("weights")
    'Example: medsam2-atlas weights fetch'
    """
    return f"Example: {PROGRAM} {EXAMPLES[name]}"


def summary(text: str) -> str:
    """Returns the beginning of a help text, for the list of commands; click would cut the text off within a sentence.

    >>> summary("Score segmenters on annotated CTs; write tables and a report. Finished results are kept.")
    'Score segmenters on annotated CTs.'
    """
    begin = re.split(r"[.;:] |\.$", " ".join(inspect.cleandoc(text).split()), maxsplit=1)[0]
    comma = begin.rfind(", ", 0, _SUMMARY)
    return f"{begin[:comma] if len(begin) > _SUMMARY and comma > 0 else begin}."


def add_examples(app: typer.Typer, group: str = "") -> None:
    """Adds an example and a summary to each command and group below an app.

    Args:
        app: the app.
        group: full name of the app's group, without `medsam2-atlas`.

    Raises:
        KeyError: a command has no example.
    """
    for command in app.registered_commands:
        command.epilog = example(f"{group} {command.name}".strip())
        command.short_help = summary((command.callback and command.callback.__doc__) or "")
    for inner in app.registered_groups:
        name = f"{group} {inner.name}".strip()
        inner.epilog = example(name)
        assert inner.typer_instance is not None
        inner.short_help = summary(inner.typer_instance.info.help or "")
        add_examples(inner.typer_instance, name)
