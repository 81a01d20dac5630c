"""The model that is offered for a case, and the label map that is opened first."""

from __future__ import annotations

from typing import Any

from tasks.annotated_case import offered_model, start_of


def test_on_a_real_ct_the_atlas_is_offered_before_demo_weights() -> None:
    models = dict.fromkeys(("medsam2_atlas", "atlas", "unet_3d"))
    assert offered_model(models, {}, atlas_first=False) == "medsam2_atlas"
    assert offered_model(models, {}, atlas_first=True) == "atlas"
    assert offered_model(models, {"atlas": "no atlas", "medsam2_atlas": "no atlas"}, atlas_first=True) == "unet_3d"
    assert offered_model(models, dict.fromkeys(models, "x"), atlas_first=True) is None


def test_the_newest_usable_final_version_is_opened_first() -> None:
    def version(tag: str, number: int, **more: Any) -> dict[str, Any]:
        model = None if tag in ("final", "mine") else tag
        return {"tag": tag, "version": number, "model": model, "newest": True, "problem": None, **more}

    final, other, atlas, mine = version("final", 2), version("unet_3d", 1), version("atlas", 4), version("mine", 1)
    assert start_of([mine, other, atlas, final], "atlas") == {"tag": "final", "version": 2}
    unfit = {**final, "problem": "its image was replaced"}
    assert start_of([unfit, mine, other, atlas], "atlas") == {"tag": "atlas", "version": 4}
    assert start_of([unfit, mine, other, atlas], None) == {"tag": "unet_3d", "version": 1}
    assert start_of([mine, {**final, "newest": False}], "atlas") is None
