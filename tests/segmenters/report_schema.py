"""Writes the JSON schema of reports to docs/report.schema.json. `make report-schema` runs it; a test compares the file."""

from __future__ import annotations

import json
from pathlib import Path

from medsam2_atlas.segmenters.report import Report

FILE = Path(__file__).resolve().parents[2] / "docs" / "report.schema.json"


def text() -> str:
    """Returns the schema as text of the file."""
    schema = Report.model_json_schema(mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Report of medsam2_atlas on a label map"
    for field in schema["properties"].values():
        field.pop("title", None)
        field.pop("default", None)
    return json.dumps(schema, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
