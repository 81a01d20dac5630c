"""`/docs`: a page about all routes, made from `/openapi.json`. It has no scripts and loads no files from other hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.access import role_for
from server.headers import html_page

router = APIRouter()

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;color:#1a202c}
summary{cursor:pointer;padding:.25rem 0}code{font-size:14px}.role{color:#4a5568;font-size:13px}
details{border-bottom:1px solid #e2e8f0}table{border-collapse:collapse;margin:.5rem 0}
td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}"""
_PARAMETER = re.compile(r"\{[^}]+\}")


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> Response:
    """Returns the page about the routes."""
    return html_page(docs_page(request.app.openapi()), template=f"<style>{_STYLE}</style>")


def docs_page(openapi: Mapping[str, Any]) -> str:
    """Returns the HTML page of an OpenAPI document: the routes by tag, each with its role, parameters and body."""
    tags: dict[str, list[str]] = {}
    for path, methods in openapi["paths"].items():
        for method, about in methods.items():
            written = "".join(_operation(method.upper(), path, about, openapi))
            tags.setdefault((about.get("tags") or ["Others"])[0], []).append(written)
    sections = "".join(f"<h2>{escape(tag)}</h2>{''.join(routes)}" for tag, routes in tags.items())
    title = f"{escape(openapi['info']['title'])} {escape(openapi['info']['version'])}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>'
        '<p>Pages: <a href="./">worklist</a>, <a href="figures">figures</a>, <a href="ohif/">viewer</a>. For programs: '
        f'<a href="openapi.json">openapi.json</a>.</p>{sections}</html>'
    )


def _operation(method: str, path: str, about: Mapping[str, Any], openapi: Mapping[str, Any]) -> Iterator[str]:
    role = role_for(method, _PARAMETER.sub("x", path)) or "anybody"
    old = " (deprecated)" if about.get("deprecated") else ""
    yield f"<details><summary><code>{method} {escape(path)}</code> {escape(about.get('summary', ''))}{old}"
    yield f' <span class="role">{role}</span></summary><p>{escape(about.get("description", ""))}</p>'
    fields = [
        (one["name"], one["in"], one.get("required", False), one.get("schema", {})) for one in about.get("parameters", ())
    ]
    for kind, content in about.get("requestBody", {}).get("content", {}).items():
        schema = _resolved(content.get("schema", {}), openapi)
        needed = schema.get("required", ())
        fields += [(name, kind, name in needed, value) for name, value in schema.get("properties", {}).items()]
        if not schema.get("properties"):
            fields.append(("", kind, False, schema))
    if fields:
        yield "<table><tr><th>parameter</th><th>in</th><th>type</th><th>default</th></tr>"
        for name, where, required, schema in fields:
            default = "required" if required else "" if schema.get("default") is None else repr(schema["default"])
            cells = (name, where, _type(_resolved(schema, openapi)), default)
            yield f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>"
        yield "</table>"
    yield "</details>"


def _type(schema: Mapping[str, Any]) -> str:
    """Returns the type of a schema in words."""
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(kind for kind in (_type(one) for one in schema["anyOf"]) if kind != "null")
    return str(schema.get("format") or schema.get("type") or "")


def _resolved(schema: Mapping[str, Any], openapi: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the schema that `$ref` refers to, or else the schema itself."""
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    found: Mapping[str, Any] = openapi.get("components", {}).get("schemas", {}).get(name, schema)
    return found
