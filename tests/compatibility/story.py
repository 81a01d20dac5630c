"""Writes the files of an installation: users build an atlas, annotate on the real server, train, and connect a PACS."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from app.fake_pacs import fake_pacs, listed
from compatibility.installation import PEOPLE, Installation, Person, token_of, until
from compatibility.patients import stamp_ct, write_ct, write_labels
from medsam2_atlas.imaging.packed_labels import pack
from medsam2_atlas.imaging.volume import read_labels
from series_files import write_series

SMALL_UNETS = {
    "small-unet.yaml": """\
# A network of our own, small enough for the workstation in room 12.
dimensions: 3
spacing: [8.0, 8.0, 8.0]
patch: [16, 16, 16]
filters: [4, 8, 16]
heads: 1
training: {epochs: 500, patches_per_case: 1, validate_every: 1, learning_rate: 0.01, validation_share: 0.34}
""",
    "small-unet-2d.yaml": """\
dimensions: 2
spacing: [8.0, 8.0, 0]
patch: [16, 16]
filters: [4, 8, 16]
heads: 0
window: [-200, 300]
training: {epochs: 1, rotation: 5, early_stop: 0}
""",
}
STUDIES = ("signed", "kept-out", "grown", "changed ä.1", "restored", "fewer", "removed", "second", "open", "aside", "broken")
"""Studies that users copy into the folder: patient numbers by name."""
LINKED, UPLOADED = "linked", "uploaded"
"""The numbers of the next patients: a link within the folder, and an uploaded CT."""
UNSIGNED = {"broken", "open", "removed", "second", UPLOADED}
REVIEWED = "reviewed"
"""Folder with studies of a team that has the review stage on."""
FINISHED_EPOCHS = 3


def tell(here: Installation) -> dict[str, Any]:
    """Writes all files, and returns the notes that are not in them: options of trainings, URL of the PACS, session."""
    _write_settings(here.home / "settings")
    _build_atlas(here)
    _write_studies(here.home / "studies")
    notes: dict[str, Any] = {"session": _annotate(here)}
    _measure(here)
    _review(here)
    _use_command_line(here)
    notes["pacs"] = _annotate_series(here)
    _use_stock_monai_label(here.home / "stock")
    _name_studies(here.home / "studies")
    shutil.copyfile(here.home / "run" / "best.pt", here.home / "models" / "unet_3d.pt")
    shutil.copytree(here.folder / "configs", here.home / "settings" / "configs")
    return notes


def _write_settings(folder: Path) -> None:
    folder.mkdir()
    for name, text in SMALL_UNETS.items():
        (folder / name).write_text(text)
    lines = ["# Tokens of our department."]
    for name, role in PEOPLE.items():
        digest = hashlib.sha256(token_of(name).encode()).hexdigest()
        secret = f"sha256: {digest.upper()}" if name == "lee" else f"token: {token_of(name)}"
        lines.append(f"- {{name: {name}, role: {role}, {secret}}}")
    (folder / "tokens.yaml").write_text("\n".join(lines) + "\n")
    (folder / "tokens.yaml").chmod(0o640)


def _build_atlas(here: Installation) -> None:
    references = here.home / "references"
    for kind in ("images", "labels"):
        (references / kind).mkdir(parents=True)
    for number in range(3):
        write_ct(references / "images" / f"reference {number}.nii.gz", number)
        write_labels(references / "labels" / f"reference {number}.nii.gz", number)
    here.run("atlas", "build", references, here.home / "atlas")
    here.run("thresholds", here.home / "atlas")


def _write_studies(folder: Path) -> None:
    (folder / "archive").mkdir(parents=True)
    for number, study in enumerate(STUDIES):
        suffix = {"restored": ".nrrd", "second": ".mha", "open": ".nii"}.get(study, ".nii.gz")
        write_ct(folder / f"{study}{suffix}", number)
    write_ct(folder / "archive" / "elsewhere.nii.gz", len(STUDIES))
    (folder / f"{LINKED}.nii.gz").symlink_to("archive/elsewhere.nii.gz")


def _annotate(here: Installation) -> str:
    """Uses the server like a team of annotators, and returns the id of a session."""
    studies, made = here.home / "studies", here.folder / "labels"
    made.mkdir()
    with _server(here, learning=False) as url:
        kim, lee, max_ = (Person(url, name) for name in ("kim", "lee", "max"))

        def labels(study: str, suffix: str = ".nii.gz", organs: Sequence[int] = (2, 3, 6, 14), grow: int = 0) -> Path:
            file = made / f"label{suffix}"
            write_labels(file, [*STUDIES, LINKED, UPLOADED].index(study), tuple(organs), grow)
            return file

        _upload(max_, made / "uploaded.nii.gz", studies)
        lee.save("kept-out", labels("kept-out"))
        kim.save("signed", labels("signed"), comment="erster Entwurf")
        _train(max_, "medsam2_atlas", exclude="kept-out")
        kim.save("grown", labels("grown"))
        _train(max_, "medsam2_atlas")
        # A user stops this training; its best weights are served from then on.
        max_.train("unet_3d", max_epochs=500, val_split=0.34, pretrained=False)
        run = studies / ".medsam2_atlas" / "unet_3d"
        until(lambda: _epoch(run) >= FINISHED_EPOCHS, 300, "the U-Net does not train")
        max_.ask("DELETE", "/train/")
        until(max_.training_ended, 60, "the training does not stop")

        lee.save("signed", labels("signed", ".nrrd", grow=1), comment="Leber größer", reviewed=True)
        kim.save("changed ä.1", labels("changed ä.1"))
        write_labels(studies / "labels" / "final" / "changed ä.1.nii.gz", STUDIES.index("changed ä.1"), grow=2)
        kim.save("restored", labels("restored"))
        kim.save("restored", labels("restored", grow=1))
        lee.ask("POST", "/datastore/label/restore", {"label": "restored", "version": 1, "tag": "final"})
        kim.save("fewer", labels("fewer"))
        lee.save("fewer", labels("fewer", organs=(2, 3, 6)), confirm=True)
        max_.ask("POST", "/datastore/label/accept", {"label": "fewer", "version": 2})
        kim.save("removed", labels("removed"))
        lee.ask("DELETE", "/datastore/label", {"id": "removed", "tag": "final"})
        kim.save("second", labels("second", ".mha"), tag="original")
        lee.save("second", labels("second", organs=(6,)), tag="reader-2")
        kim.save(LINKED, labels(LINKED))
        lee.ask("PUT", "/datastore/label/info", {"label": LINKED, "tag": "final"}, data={"info": '{"difficulty": 3}'})
        kim.predict("unet_3d", "aside")
        kim.save("aside", labels("aside"))
        max_.ask("DELETE", "/datastore/image", {"id": "aside"})

        kim.predict("medsam2_atlas", "open", strategy="A")
        for model in ("atlas", "unet_3d"):
            kim.predict(model, "signed")
        kim.predict("compare", "open", first="atlas")
        kim.ask("POST", "/activelearning/first", json={"client_id": "slicer-kim"})
        lee.ask("POST", "/scoring/organs", {"run_sync": True}, json={"y": "final", "y_pred": "atlas"})
        lee.ask("GET", "/worklist/picture", {"study": "signed"})
        edited = read_labels(labels("grown", grow=1), image=studies / "grown.nii.gz").array
        begun = {"image": "grown", "base_tag": "final", "base_version": 1}
        kim.ask("PUT", "/annotation/draft", begun, data=pack(edited))
        with (studies / "signed.nii.gz").open("rb") as stream:
            files = {"files": ("ct.nii.gz", stream)}
            session = kim.ask("PUT", "/session/", {"expiry": 3600}, files=files).json()["session_id"]
    return str(session)


def _measure(here: Installation) -> None:
    """Runs the server until it has measured all cases that are not signed off."""
    studies = here.home / "studies"
    with _server(here, learning=True):
        until(lambda: _measured(studies) == UNSIGNED, 600, "not all studies are measured")


def _review(here: Installation) -> None:
    """Uses a server with the review stage like a reviewer, who returns, accepts and assigns cases."""
    studies, label = here.home / REVIEWED, here.folder / "reviewed.nii.gz"
    studies.mkdir()
    for number, study in enumerate(("accepted", "returned", "assigned")):
        write_ct(studies / f"{study}.nii.gz", number)
    login = ("--tokens", here.home / "settings" / "tokens.yaml")
    with here.server(studies, *login, "--conf", "learning=false", "--conf", "server_review=true") as url:
        kim, lee = (Person(url, name) for name in ("kim", "lee"))
        for number, study in enumerate(("accepted", "returned")):
            write_labels(label, number)
            kim.save(study, label)
            comment = {"comment": "Die Milz endet zu früh."}
            lee.ask("POST", "/datastore/label/return", {"label": study, "version": 1}, json=comment)
        write_labels(label, 1, grow=1)
        corrected = read_labels(label, image=studies / "returned.nii.gz").array
        seen = {"image": "returned", "base_tag": "final", "base_version": 1, "known": 1}
        kim.ask("POST", "/annotation/submit", seen | {"active_seconds": 72.5, "organ_seconds": "6:30"}, data=pack(corrected))
        lee.ask("POST", "/datastore/label/accept", {"label": "accepted", "version": 1})
        lee.ask("POST", "/worklist/assign", json={"study": "assigned", "person": "kim"})
        kim.ask("POST", "/worklist/claim", json={"study": "assigned"})


def _server(here: Installation, *, learning: bool) -> AbstractContextManager[str]:
    settings = here.home / "settings"
    conf = {
        "unet_3d_config": str(settings / "small-unet.yaml"),
        "foundation": "atlas",
        "learning": str(learning).lower(),
        "server_upload_mb": "100",
    }
    options = [text for key, value in conf.items() for text in ("--conf", f"{key}={value}")]
    login = ("--tokens", settings / "tokens.yaml")
    return here.server(here.home / "studies", "--atlas", here.home / "atlas", *login, *options)


def _use_command_line(here: Installation) -> None:
    home = here.home
    studies, dicom = home / "studies", home / "dicom"
    here.run("labels", "check", studies)
    compared = home / "compared"
    (compared / "labels" / "final").mkdir(parents=True)
    write_ct(compared / "one.nii.gz", 4)
    write_labels(compared / "labels" / "final" / "one.nii.gz", 4)
    here.run("compare", compared, "--atlas", home / "atlas", "--strategy", "atlas", "--out", here.folder / "comparison")
    write_ct(here.folder / "ct.nii.gz", 1)
    image = sitk.ReadImage(str(here.folder / "ct.nii.gz"))
    write_series(dicom / "series", image[4:36, 4:26, 8:20])
    write_labels(here.folder / "label.nii.gz", 1)
    sitk.WriteImage(sitk.ReadImage(str(here.folder / "label.nii.gz"))[4:36, 4:26, 8:20], str(dicom / "label.nii.gz"), True)
    for kind in ("seg", "rtstruct"):
        here.run("dicom", kind, dicom / "label.nii.gz", dicom / "series", dicom / f"{kind}.dcm")
    (home / "models").mkdir(exist_ok=True)
    train = ("train", "unet", home / "references")
    flat = (
        "--config",
        home / "settings" / "small-unet-2d.yaml",
        "--mark",
        "for tests",
        "--half",
        home / "models" / "unet_2d.pt",
    )
    here.run(*train, here.folder / "run-2d", *flat, "--device", "cpu")
    # A power cut ends this training.
    solid = ("--config", home / "settings" / "small-unet.yaml", "--device", "cpu")
    process = here.start(*train, home / "run", *solid, log=here.folder / "train.log")
    try:
        until(lambda: _epoch(home / "run") >= FINISHED_EPOCHS or process.poll() is not None, 300, "nothing is trained")
        assert process.poll() is None, (here.folder / "train.log").read_text()[-3000:]
    finally:
        process.kill()
        process.wait()


def _annotate_series(here: Installation) -> dict[str, Any]:
    """Runs the server with a PACS; returns its URL, and the series that are listed, fetched, sent and pending."""
    with fake_pacs() as pacs:
        image = sitk.ReadImage(str(here.folder / "ct.nii.gz"))[4:36, 4:26, 8:20]
        sent, pending = (pacs.add(write_series(here.folder / name, image)) for name in ("series 1", "series 2"))
        pacs.series.append(listed("1.2.3.4.5"))
        settings = here.home / "settings"
        with here.server(pacs.url, "--tokens", settings / "tokens.yaml", "--conf", "learning=false") as url:
            kim = Person(url, "kim")
            for series, status in ((sent, 200), (pending, 500)):
                pacs.store_status = status
                kim.ask("GET", "/datastore/image", {"image": series})
                kim.save(series, here.home / "dicom" / "label.nii.gz")
        return {"url": pacs.url, "sent": sent, "pending": pending, "listed": "1.2.3.4.5"}


def _use_stock_monai_label(folder: Path) -> None:
    """Creates a folder with MONAI Label's own datastore."""
    from monailabel.datastore.local import LocalDatastore

    folder.mkdir()
    for number, study in enumerate(("one", "two")):
        write_ct(folder / f"{study}.nii.gz", number)
    stock = LocalDatastore(str(folder), extensions=["*.nii.gz"])
    label = folder.parent / "label.nii.gz"
    write_labels(label, 0)
    stock.save_label("one", str(label), "final", {"client_id": "kim"})
    write_labels(label, 0, (6,))
    stock.save_label("one", str(label), "original", {"model": "deepedit"})
    label.unlink()
    stock.update_image_info("two", {"strategy": {"first": {"ts": 1_790_000_000, "client_id": "kim"}}})


def _name_studies(folder: Path) -> None:
    """Sets name and description of the studies folder, and lists a file that has crashed its reader process."""
    from datastores.study_datastore import StudyDatastore
    from medsam2_atlas.imaging.decoding.unreadable import Unreadable

    datastore = StudyDatastore(folder)
    datastore.set_name("Oberbauch 2026")
    datastore.set_description("CTs with contrast, portal-venous phase")
    Unreadable(folder / ".medsam2_atlas" / "unreadable.json").add(
        folder / "broken.nii.gz", "ended the process that read it.", lasting=True
    )


def _upload(person: Person, file: Path, studies: Path) -> None:
    number = len(STUDIES) + 1
    write_ct(file, number)
    with file.open("rb") as stream:
        person.ask(
            "PUT",
            "/datastore/image",
            {"image": UPLOADED},
            data={"params": json.dumps({"ward": "B 3"})},
            files={"file": (file.name, stream)},
        )
    stamp_ct(studies / f"{UPLOADED}.nii.gz", number)


def _train(person: Person, model: str, **options: Any) -> None:
    person.train(model, **options)
    until(person.training_ended, 600, f"the training of {model} does not end")


def _epoch(run: Path) -> int:
    try:
        return int(json.loads((run / "stats.json").read_text())["epoch"])
    except (OSError, ValueError):
        return 0


def _measured(studies: Path) -> set[str]:
    """Returns the studies that were measured with the current models."""
    work = studies / ".medsam2_atlas"
    atlas = (work / "atlas" / "current").read_text().strip()
    unet = hashlib.sha256((work / "unet_3d" / "best.pt").read_bytes()).hexdigest()[:12]
    with closing(sqlite3.connect(f"{(work / 'learning.sqlite').as_uri()}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT study, versions, scores FROM measures").fetchall()
    current = [(study, json.loads(versions), json.loads(scores)) for study, versions, scores in rows]
    return {study for study, made, scores in current if (made.get("atlas"), made.get("unet")) == (atlas, unet) and scores}
