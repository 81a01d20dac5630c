"""Collects the content of an installation: `make.py` records it once, and the tests collect it again with today's code.

The answers are plain JSON. If a function is renamed, change its call here; never change recorded answers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
import typer

from compatibility.installation import PEOPLE, renew_tokens, token_of
from datastores.label_sender import is_sent
from datastores.pacs_datastore import PacsDatastore
from datastores.study_datastore import StudyDatastore
from listed_cases import case_states
from medsam2_atlas.active_learning import ScoreTable, choose
from medsam2_atlas.atlas import Atlas
from medsam2_atlas.base.choices import PROMPTS
from medsam2_atlas.cli.main import app as command_line
from medsam2_atlas.dicom.web import DicomWeb
from medsam2_atlas.imaging.decoding import run_task
from medsam2_atlas.imaging.labels import organ_table
from medsam2_atlas.imaging.volume import read_labels, read_volume
from medsam2_atlas.medsam2 import load_config, parameter_shapes
from medsam2_atlas.prompting.confidence import confidence_config
from medsam2_atlas.registration import registration_config
from medsam2_atlas.scoremaps import ScoreMaps, fusion_config, score_maps, thresholds_of
from medsam2_atlas.segmenters.base import Options
from medsam2_atlas.segmenters.registry import vocabulary
from medsam2_atlas.segmenters.resources import LoadedResources
from medsam2_atlas.storage import Drafts, StudyStore, Version, WorkFolder
from medsam2_atlas.storage.drafts import read_draft
from medsam2_atlas.studies import (
    PredictionStore,
    atlas_store,
    excluded_references,
    file_stamp,
    grown_atlas,
)
from medsam2_atlas.studies.models import Models
from medsam2_atlas.unet import load_unet, unet_config
from server.access import Access
from server.application import create_app
from server.config import ServerConfig, server_config
from tasks.learner import Learner
from tasks.predictions import Predictions

MODELS = ("medsam2_atlas", "atlas", "unet_3d", "unet_2d")
UNETS = ("studies/.medsam2_atlas/unet_3d/best.pt", "run/best.pt", "models/unet_2d.pt", "models/unet_3d.pt")
NETWORKS = ("demo", "sam2.1_hiera_t512")
AWAY = "http://127.0.0.1:9/dicom-web"
"""An address without a PACS."""


def answers(home: Path, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the answers to all questions; see `QUESTIONS`."""
    return {part: ask(home, notes) for part, ask in QUESTIONS.items()}


def models_of(home: Path) -> Models:
    """Returns the server's models."""
    return Models({"atlas": str(home / "atlas"), "device": "cpu"}, WorkFolder.of(home / "studies"))


def studies_facts(store: StudyStore) -> dict[str, Any]:
    """Returns images, all versions of all label maps with their voxels, and the current ones."""
    current, found = store.labels(), {}
    for study, image in store.images().items():
        tags = {}
        for tag in store.tags(study):
            versions = []
            for version in store.versions(study, tag):
                file = None if version.removed else store.version_file(study, tag, version.number)
                versions.append(version_facts(version) | {"voxels": file and label_digest(file, image.file)})
            now = current.get(study, {}).get(tag)
            shown = now and {"number": now.version.number, "file": now.file.name, "voxels": label_digest(now.file, image.file)}
            tags[tag] = {"versions": versions, "current": shown}
        found[study] = {"file": image.file.name, "info": dict(image.info), "voxels": image_digest(image.file), "tags": tags}
    problems = {study: sorted(texts) for study, texts in store.problems().items()}
    return {"images": found, "counts": list(store.counts()), "problems": problems}


def version_facts(version: Version) -> dict[str, Any]:
    """Returns the record of a version; fields that earlier programs did not record are included only if present."""
    later = {
        "author_id": version.author_id,
        "accepted": dict(version.accepted),
        "returns": [dict(one) for one in version.returns],
    }
    return {key: value for key, value in later.items() if value} | {
        "number": version.number,
        "file": version.file,
        "sha256": version.sha256,
        "origin": version.origin,
        "author": version.author,
        "made": version.made,
        "info": dict(version.info),
        "image_sha256": version.image_sha256,
        "organs": None if version.organs is None else list(version.organs),
    }


def prediction_facts(home: Path) -> dict[str, Any]:
    """Returns the stored predictions, and whether each is still valid, by model and study."""
    models, store = models_of(home), StudyStore(home / "studies")
    kept = PredictionStore(models.work, store)
    found: dict[str, Any] = {}
    for model in MODELS:
        for study, image in store.images().items():
            prediction = kept.latest(model, study)
            if prediction is None:
                continue
            was = prediction.provenance
            name = was.get("strategy", model)
            # This pretends that the weights of the prediction are present.
            given: Any = SimpleNamespace(sha256=was.get("weights"), version=was.get("unet"))
            unets = {} if model.startswith("unet") else {"unet_3d": given}
            resources = LoadedResources(
                models.atlas(), given, {model: models.unet(model)} if model.startswith("unet") else unets
            )
            provenance = resources.segmenter(name).provenance(Options(prompts=was.get("prompts", "atlas")))
            found.setdefault(model, {})[study] = {
                "file": prediction.label.name,
                "made": prediction.made,
                "report": {key: prediction.report.to_json()[key] for key in ("organs", "volumes_ml", "seconds")},
                "voxels": array_digest(prediction.segmentation(image.file).labels.array),
                "up to date": kept.find(model, study, image.file, provenance) is not None,
            }
    return found


def draft_facts(home: Path) -> dict[str, Any]:
    """Returns the drafts of people by study and file name, and whether each can still be loaded."""
    store = StudyStore(home / "studies")
    drafts, found = Drafts(store, 10**9), dict[str, Any]()
    for file in sorted((store.work.path / "drafts").glob("*/*.draft")):
        draft = read_draft(file)
        assert draft is not None
        found.setdefault(file.parent.name, {})[file.name] = {
            "base": draft.base and list(draft.base),
            "made": draft.made,
            "usable": drafts.usable(file.parent.name, draft),
            "voxels": array_digest(draft.labels()),
        }
    return found


def measure_facts(home: Path) -> dict[str, Any]:
    """Returns the measures of all studies, whether they are still current, and the next case of each strategy."""
    models, store = models_of(home), StudyDatastore(home / "studies", MODELS)
    table, predictions = ScoreTable(models.work.folder(".") / "learning.sqlite"), Predictions(models, lambda: store)
    versions = Learner(models, predictions, table, lambda: store, "atlas").versions()
    rows, left = table.rows(), store.get_unlabeled_images()
    measures = {}
    for study, row in rows.items():
        image = store.store.images().get(study)
        current = image is not None and row.image == file_stamp(image.file) and row.current(versions)
        measures[study] = {"values": row.values, "why": row.why, "made": row.made, "up to date": current}
    chosen = {name: choose(name, left, rows, versions=versions) for name in ("first", "disagreement", "uncertainty", "novelty")}
    return {
        "versions": versions,
        "studies": measures,
        "unlabelled": sorted(left),
        "next": {name: [choice.study, choice.weight] for name, choice in chosen.items() if choice is not None},
    }


def review_facts(home: Path) -> dict[str, Any]:
    """Returns the state of each case, and the names of the studies."""
    store, work = StudyDatastore(home / "studies", MODELS), WorkFolder.of(home / "studies")
    cases = case_states(store, ScoreTable(work.folder(".") / "learning.sqlite"), MODELS)
    kept = ("state", "by", "made", "version", "models", "disagreement", "uncertainty", "novelty", "tag", "look_first")
    states = {case["study"]: {key: case[key] for key in kept} for case in cases}
    return {"name": store.name(), "description": store.description(), "cases": json.loads(json.dumps(states))}


def team_facts(folder: Path) -> dict[str, Any]:
    """Returns the studies of a team with the review stage on, and who is assigned to which study.

    Raises:
        FileNotFoundError: the generation has no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    store = StudyStore(folder)
    assigned = {study: vars(assignment) for study, assignment in store.assignments.all().items()}
    return {"studies": studies_facts(store), "assigned": assigned, "review": store.review.on}


def atlas_facts(atlas: Atlas) -> dict[str, Any]:
    """Returns versions, references, options and thresholds of an atlas, and statistics of its maps."""
    references = [reference.describe() for reference in atlas.references]
    maps = {organ_table()[k].name: {"count": m.count, "sum": int(m.values.sum())} for k, m in atlas.maps.items()}
    return {
        "version": atlas.version,
        "template": atlas.template_version,
        "options": atlas.options,
        "references": references,
        "maps": maps,
        "thresholds": {organ_table()[k].name: value for k, value in thresholds_of(atlas, fusion_config()).items()},
    }


def grown_facts(home: Path) -> dict[str, Any]:
    """Returns the atlas that grew with the studies, its versions, and its excluded studies."""
    work = WorkFolder.of(home / "studies")
    atlas, store = grown_atlas(work, Atlas.load(home / "atlas")), atlas_store(work)
    assert atlas is not None, "the grown atlas belongs to another base"
    return {
        "versions": store.versions,
        "current": store.current.name if store.current else "",
        "excluded": sorted(excluded_references(work)),
        "atlas": atlas_facts(atlas),
        "used by the server": models_of(home).atlas().version,
    }


def maps_of(home: Path, study: str) -> ScoreMaps:
    """Returns the score maps of a study from its stored registration."""
    models = models_of(home)
    image = read_volume(StudyStore(home / "studies").image(study).file)
    return score_maps(image, models.atlas(), cache=models.registrations)


def dense_maps(scores: ScoreMaps) -> dict[str, np.ndarray]:
    """Returns score maps `[z, y, x]`, uint8, on the full grid of the target, by organ."""
    found = {}
    for k, score in scores.maps.items():
        dense = np.zeros(scores.geometry.shape, np.uint8)
        dense[tuple(slice(a, a + n) for a, n in zip(score.lower, score.values.shape, strict=True))] = score.values
        found[organ_table()[k].name] = dense
    return found


def unet_facts(file: Path) -> dict[str, Any]:
    """Returns the metadata of a U-Net's weights, and the network's output for a ramp."""
    unet = load_unet(file, torch.device("cpu"))
    ramp = torch.linspace(0, 1, 16**unet.config.dimensions).reshape(1, 1, *[16] * unet.config.dimensions)
    with torch.inference_mode():
        output = unet.network(ramp)
    return {
        "version": unet.version,
        "mark": unet.mark,
        "config": unet.config.model_dump(mode="json"),
        "validation": {str(k): v for k, v in unet.validation.items()},
        "cases": {str(k): v for k, v in unet.cases.items()},
        "output": output.flatten(2).mean(2)[0].tolist(),
    }


def pacs_facts(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the stored data of a PACS's series while the PACS does not answer; `notes` contains its URL and series."""
    store = PacsDatastore(DicomWeb(AWAY), WorkFolder.of(notes["url"]).folder("."), MODELS)
    found: dict[str, Any] = {"listed": store.list_images(), "kept": studies_facts(store.store), "sent": {}}
    for study, tags in store.store.labels().items():
        found["sent"][study] = is_sent(tags["final"].version)
    found["info"] = {study: store.get_image_info(study) for study in found["listed"]}
    return found


def stock_facts(folder: Path) -> dict[str, Any]:
    """Returns images and label maps of a folder that MONAI Label's own datastore has created."""
    store = StudyStore(folder)
    images, labels = store.images(), store.labels()
    return {
        study: {
            "info": dict(image.info),
            "labels": {
                tag: {"info": dict(label.version.info), "voxels": label_digest(label.file, image.file)}
                for tag, label in labels.get(study, {}).items()
            },
        }
        for study, image in images.items()
    }


def segmentation_facts(folder: Path) -> dict[str, Any]:
    """Returns the voxels of a label map and of the DICOM SEG that was made from it."""
    file = folder / "seg.dcm"
    _, (array,) = run_task("dicom_seg", file, path=str(file), folder=str(folder / "series"))
    return {"label map": label_digest(folder / "label.nii.gz", folder / "series"), "seg": array_digest(array)}


_METHODS = {"dense": "convex_adam"}
"""The names of registrations in the first generations."""


def settings_facts(folder: Path) -> dict[str, Any]:
    """Returns the values of all settings; those in `configs/` are the ones in use."""
    unets = ("unet_3d", "unet_2d", "unet_3d_large", folder / "small-unet.yaml", folder / "small-unet-2d.yaml")
    found = {
        "registration": registration_config(),
        "fusion": fusion_config(),
        "labels": organ_table(),
        "confidence": confidence_config(),
        "server": server_config({}),
        **{Path(name).stem: unet_config(name) for name in unets},
    }
    settings = {name: config.model_dump(mode="json") for name, config in found.items()}
    settings["fusion"] = fusion_config().provenance()  # with the names of the first generations
    settings["registration"]["method"] = _METHODS.get(settings["registration"]["method"], settings["registration"]["method"])
    for organ in settings["labels"]["organs"]:
        organ["threshold"] = organ["published_threshold"]
    return settings


def people_facts(tokens: Path) -> dict[str, Any]:
    """Returns the people in the token file, with their roles."""
    with TemporaryDirectory() as folder:
        file = renew_tokens(Path(shutil.copy(tokens, folder)))
        access = Access(ServerConfig(tokens=str(file)))  # type: ignore[call-arg]
    users = [access.known_user(token_of(name)) for name in (*PEOPLE, "nobody")]
    return {user.name: user.role for user in users if user is not None}


def network_facts(name: str) -> dict[str, Any]:
    """Returns the number of tensors in a MedSAM2 checkpoint of a network, and a checksum of their names and shapes."""
    shapes = parameter_shapes(load_config(name))
    return {"tensors": len(shapes), "sha256": hashlib.sha256(json.dumps(sorted(shapes.items())).encode()).hexdigest()}


def command_facts() -> dict[str, Any]:
    """Returns the options of each command, and the values that can be chosen."""
    found: dict[str, Any] = {}

    def walk(command: Any, path: str) -> None:
        hints = get_type_hints(command.callback) if command.callback is not None else {}
        options = [option for option in command.params if option.opts[0].startswith("-")]
        found[path] = {
            name: dict.fromkeys(_choices(hints.get(option.name)) or _OPEN.get(option.name, ()), True)
            for option in options
            for name in (*option.opts, *option.secondary_opts)
        }
        for name, part in getattr(command, "commands", {}).items():
            walk(part, f"{path} {name}".strip())

    walk(typer.main.get_command(command_line), "")
    return found


_OPEN = {"strategy": vocabulary(), "segmenter": vocabulary(), "prompts": PROMPTS}
"""Values of options that also accept other values, such as names that users give to folders."""


def _choices(kind: Any) -> list[str]:
    """Returns the possible values of an option's type, or of its parts."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [str(member.value) for member in kind]
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return [value for part in get_args(kind) for value in _choices(part)]


def route_facts() -> dict[str, Any]:
    """Returns the methods and parameters of the server's routes."""
    paths = create_app(ServerConfig()).openapi()["paths"]  # type: ignore[call-arg]
    return {
        path: {
            method: dict.fromkeys((parameter["name"] for parameter in about.get("parameters", ())), True)
            for method, about in methods.items()
        }
        for path, methods in paths.items()
    }


def image_digest(file: Path) -> str:
    """Returns a checksum of an image's voxels and grid."""
    volume = read_volume(file)
    grid = json.loads(json.dumps(asdict(volume.geometry)))
    rounded = {key: [round(float(value), 4) for value in grid[key]] for key in ("size", "spacing", "origin", "direction")}
    return array_digest(volume.array.astype(np.float32)) + hashlib.sha256(json.dumps(rounded).encode()).hexdigest()[:8]


def label_digest(file: Path, image: Path) -> str:
    """Returns a checksum of a label map's voxels on the grid of its image."""
    return array_digest(read_labels(file, read_volume(image)).array)


def array_digest(array: np.ndarray) -> str:
    """Returns a checksum of an array."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes() + repr(array.shape).encode()).hexdigest()[:16]


Question = Callable[[Path, Mapping[str, Any]], Any]

QUESTIONS: dict[str, Question] = {
    "studies": lambda home, _: studies_facts(StudyStore(home / "studies")),
    "studies with links": lambda home, _: studies_facts(StudyStore(home / "studies", roots=[Path("/data/cts")]))["counts"],
    "predictions": lambda home, _: prediction_facts(home),
    "measures": lambda home, _: measure_facts(home),
    "review": lambda home, _: review_facts(home),
    "drafts": lambda home, _: draft_facts(home),
    "team": lambda home, _: team_facts(home / "reviewed"),
    "atlas": lambda home, _: atlas_facts(Atlas.load(home / "atlas")),
    "grown atlas": lambda home, _: grown_facts(home),
    "U-Nets": lambda home, _: {name: unet_facts(home / name) for name in UNETS},
    "PACS": lambda _, notes: pacs_facts(notes["pacs"]),
    "stock MONAI Label": lambda home, _: stock_facts(home / "stock"),
    "segmentation": lambda home, _: segmentation_facts(home / "dicom"),
    "settings": lambda home, _: settings_facts(home / "settings"),
    "people": lambda home, _: people_facts(home / "settings" / "tokens.yaml"),
    "networks": lambda *_: {name: network_facts(name) for name in NETWORKS},
    "command line": lambda *_: command_facts(),
    "routes": lambda *_: route_facts(),
}
"""The questions about an installation: functions of its folder and of the notes made when it was created."""
