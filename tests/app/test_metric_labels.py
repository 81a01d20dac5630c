"""Labels of `/metrics` have fixed sets of values: clients can neither add values nor write names into them."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from server.metrics import Metrics

MODELS = ("unet_3d", "atlas")


def metrics(tags: dict[str, int] | None = None) -> Metrics:
    status = {"total": 2, "completed": 1, "label_tags": tags or {}}
    return Metrics(lambda: {"running": 0, "waiting": 0}, lambda: status, lambda: MODELS)


def job(model: str, seconds: dict[str, float]) -> Any:
    return SimpleNamespace(kind=model, state="done", seconds=seconds)


def series(counted: Metrics, name: str) -> list[str]:
    return re.findall(rf"^{name}{{(.*)}}", counted.text().decode(), re.M)


def test_1000_unknown_requests_do_not_create_1000_time_series() -> None:
    counted = metrics()
    for number in range(1000):
        scope: dict[str, Any] = {
            "method": f"BREW{number}",
            "path": f"/Mueller-{number}",
            "medsam2_atlas.path": f"/ohif{number}",
        }
        counted.served(scope, number, 0.1)
        counted.served(scope | {"route": SimpleNamespace(path="/infer/{model}"), "method": "POST"}, 599, 0.1)
    assert len(series(counted, "medsam2_atlas_requests_total")) < 80
    assert 'method="POST",route="/infer/{model}",status="other"' in series(counted, "medsam2_atlas_requests_total")
    assert "Mueller" not in counted.text().decode()
    assert "BREW" not in counted.text().decode()


def test_1000_unknown_models_and_stages_do_not_create_1000_time_series() -> None:
    counted = metrics()
    for number in range(1000):
        counted.ended(job(f"m{number}", {f"s{number}": 1.0}))
    counted.ended(job("unet_3d", {}))
    assert series(counted, "medsam2_atlas_jobs_total") == ['model="other",state="done"', 'model="unet_3d",state="done"']
    assert len(series(counted, "medsam2_atlas_stage_seconds_count")) <= 65


def test_tags_chosen_by_users_are_counted_without_their_names() -> None:
    counted = metrics({"final": 3, "unet_3d": 2, **{f"Mueller-{number}": 1 for number in range(1000)}})
    found = dict(re.findall(r'medsam2_atlas_labels\{tag="(.*)"\} (.*)', counted.text().decode()))
    assert found == {"final": "3.0", "unet_3d": "2.0", "other": "1000.0"}
