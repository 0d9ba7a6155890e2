"""Renders the OpenAPI document as one self-contained HTML page without scripts or external resources."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;"
    "background:#fff}h1,h2,h3{line-height:1.2}h2{margin-top:3rem;border-bottom:1px solid #ddd;padding-bottom:.3rem}"
    "code{font:.9em ui-monospace,monospace;background:#f3f3f3;padding:.1em .3em;border-radius:3px}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.3rem .6rem .3rem 0;"
    "border-bottom:1px solid #eee}summary{cursor:pointer;padding:.4rem 0}nav li{list-style:none}nav ul{padding:0}"
    "@media(prefers-color-scheme:dark){body{background:#161616;color:#e6e6e6}code{background:#2a2a2a}"
    "h2,th,td{border-color:#333}a{color:#8ab4f8}}"
)


def documentation_policy() -> str:
    """Return the page's Content-Security-Policy, which allows its own style sheet alone."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'"


def documentation_page(document: Mapping[str, Any]) -> bytes:
    """Return the OpenAPI document as an HTML page in UTF-8."""
    info = document["info"]
    parts = [
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{escape(info['title'])}</title>",
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<style>{_STYLE}</style></head><body><h1>{escape(info['title'])}</h1><p>{escape(info['description'])}</p>",
        f"<p>Below <code>{escape(document['servers'][0]['url'])}</code>. {_security(document)}</p>",
        *_contents(document),
    ]
    for tag in document["tags"]:
        parts.append(f"<h2>{escape(tag['name'])}</h2><p>{escape(tag['description'])}</p>")
        for path, method, operation in _operations(document):
            if tag["name"] in operation["tags"]:
                parts += _operation(document, path, method, operation)
    parts.append("</body></html>")
    return "".join(parts).encode()


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _security(document: Mapping[str, Any]) -> str:
    schemes = document["components"]["securitySchemes"]
    return " ".join(
        f"<code>{escape(scheme.get('name', 'Authorization: Bearer'))}</code>: {escape(scheme['description'])}"
        for scheme in schemes.values()
    )


def _contents(document: Mapping[str, Any]) -> Iterator[str]:
    yield "<nav><ul>"
    for path, method, operation in _operations(document):
        name = escape(operation["operationId"])
        yield f"<li><a href='#{name}'><code>{method.upper()} {escape(path)}</code></a> {escape(operation['summary'])}</li>"
    yield "</ul></nav>"


def _operation(
    document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]
) -> Iterator[str]:
    yield f"<h3 id='{escape(operation['operationId'])}'>{escape(operation['summary'])}</h3>"
    yield f"<p><code>{method.upper()} {escape(path)}</code></p>"
    if "description" in operation:
        yield f"<p>{escape(operation['description'])}</p>"
    if "x-permission" in operation:
        yield f"<p>Permission: <code>{escape(operation['x-permission'])}</code></p>"
    parameters = [_resolve(document, node) for node in operation.get("parameters", ())]
    if parameters:
        yield "<details><summary>Parameters</summary><table><tr><th>name<th>in<th>allowed<th></tr>"
        for parameter in parameters:
            required = "Required. " if parameter.get("required") else ""
            allowed = _resolve(document, parameter["schema"])["x-allowed"]
            yield f"<tr><td><code>{escape(parameter['name'])}</code><td>{escape(parameter['in'])}"
            yield f"<td>{escape(allowed)}<td>{required}{escape(parameter.get('description', ''))}</tr>"
        yield "</table></details>"
    yield "<details><summary>Responses</summary><table><tr><th>status<th>content<th></tr>"
    for status, node in operation["responses"].items():
        response = _resolve(document, node)
        content = ", ".join(map(escape, response.get("content", ())))
        yield f"<tr><td>{escape(status)}<td>{content}<td>{escape(response['description'])}</tr>"
    yield "</table></details>"


def _resolve(document: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in node:
        return node
    _, _, kind, name = node["$ref"].split("/")
    found: Mapping[str, Any] = document["components"][kind][name]
    return found
