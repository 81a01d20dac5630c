"""What a team sees of its cases: state, measures, pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medsam2_atlas.errors import NotFoundError
from medsam2_atlas.learning import ScoreTable
from medsam2_atlas.preview import write_preview
from medsam2_atlas.storage import FINAL, Label, StudyStore
from medsam2_atlas.studies import PredictionStore
from medsam2_atlas.volume import read_labels, read_volume
from study_datastore import StudyDatastore

_LOOK_FIRST = 3


@dataclass(frozen=True)
class CaseState:
    """A case. state: `signed off`, `predicted` or `new`. by, made, version: of the final label. models: that have predicted.

    disagreement, uncertainty, novelty: measures, 0..1, None where they have not been taken; why: in words. viewer: where
    OHIF shows it, empty for studies of a folder. tag: whose label map the picture shows.
    look_first: organs whose prompts are the least sure, with their confidence, 0..1.
    """

    study: str
    state: str
    by: str
    made: str
    version: int
    models: tuple[str, ...]
    disagreement: float | None
    uncertainty: float | None
    novelty: float | None
    why: str
    problem: str
    viewer: str
    tag: str
    look_first: tuple[tuple[str, float], ...]


def case_states(datastore: StudyDatastore, table: ScoreTable, models: tuple[str, ...]) -> list[dict[str, Any]]:
    """All cases: those not signed off first, the most disputed of them first."""
    rows, labels = table.rows(), datastore.store.labels()
    reports = PredictionStore(datastore.store.work, datastore.store)
    cases = []
    for study in datastore.list_images():
        tags, row = labels.get(study, {}), rows.get(study)
        final = tags.get(FINAL)
        predicted = tuple(tag for tag in models if tag in tags)
        values = row.values if row else {}
        cases.append(
            CaseState(
                study,
                "signed off" if final else "predicted" if predicted else "new",
                final.version.author if final else "",
                final.version.made if final else "",
                final.version.number if final else 0,
                predicted,
                disagreement=values.get("disagreement"),
                uncertainty=values.get("uncertainty"),
                novelty=values.get("novelty"),
                why=(row.why.get("disagreement") or row.why.get("uncertainty") or "") if row else "",
                problem=row.problem if row else "",
                viewer=_viewer(datastore, study),
                tag=FINAL if final else predicted[0] if predicted else "",
                look_first=() if final else _least_sure(reports, study, predicted),
            )
        )
    cases.sort(key=lambda case: (case.state == "signed off", -(case.disagreement or 0.0), case.study))
    return [asdict(case) for case in cases]


def picture(datastore: StudyDatastore, study: str, models: tuple[str, ...]) -> Path:
    """A case with its final label map, or else the first model's; drawn once for each version.

    Raises:
        NotFoundError: no such case, or it has no label map.
    """
    label = _shown(datastore.store, study, models)
    folder = datastore.store.work.folder("pictures")
    name = hashlib.sha256(f"{study}/{label.tag}/{label.version.sha256}".encode()).hexdigest()[:24]
    file = folder / f"{name}.png"
    if not file.exists():
        image = read_volume(datastore.get_image_uri(study))
        write_preview(image, read_labels(label.file, image).array, file)
    return file


def _least_sure(reports: PredictionStore, study: str, models: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    for model in models:
        known = reports.report(model, study).get("confidence") or {}
        if known:
            return tuple(sorted(known.items(), key=lambda entry: float(entry[1]))[:_LOOK_FIRST])
    return ()


def _shown(store: StudyStore, study: str, models: tuple[str, ...]) -> Label:
    tags: Mapping[str, Label] = store.labels().get(study, {})
    for tag in (FINAL, *models):
        if tag in tags:
            return tags[tag]
    raise NotFoundError(repr(study[:80]), "has no label map to show yet.", "Run a model on it.")


def _viewer(datastore: StudyDatastore, study: str) -> str:
    uid = str(datastore.get_image_info(study).get("StudyInstanceUID", ""))
    return f"/ohif/monai-label?StudyInstanceUIDs={uid}" if uid else ""
