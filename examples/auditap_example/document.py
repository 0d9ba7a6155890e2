"""The example's OpenAPI document, read from the package once, and its operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, reduce
from importlib.resources import files
from importlib.resources.abc import Traversable
from operator import getitem
from typing import Any
from urllib.parse import urlsplit

import yaml

JSON = "application/json"
METHODS = ("get", "head", "post", "put", "patch", "delete")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Operation:
    """One operation of the document.

    `template` stands below the server's base path. `media` and `body` are the request's media type and schema, if it has
    a body. `responses` maps a status key as the document has it to the JSON schema of that response; None: no body.
    """

    operation_id: str
    method: str
    template: str
    parameters: tuple[Mapping[str, Any], ...]
    media: str | None
    body: Mapping[str, Any] | None
    responses: Mapping[str, Mapping[str, Any] | None]

    @property
    def success_status(self) -> int:
        """The 2xx status that the document declares."""
        return next(int(status) for status in self.responses if status.startswith("2"))

    def schema_of(self, status: int) -> Mapping[str, Any] | None:
        """Return the JSON schema of the response with `status`; None where it has no body.

        Raises KeyError where the document declares no such response.
        """
        for key in (str(status), f"{status // 100}XX", "default"):
            if key in self.responses:
                return self.responses[key]
        raise KeyError(status)


def document_file() -> Traversable:
    """Return the document as package data; `importlib.resources.as_file` gives its path."""
    return files("auditap_example") / "openapi.yaml"


@cache
def document() -> dict[str, Any]:
    """Return the parsed document, with references and `allOf` resolved. Callers must not change it."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    root = yaml.load(document_file().read_bytes(), Loader=loader)  # noqa: S506 (a safe loader)
    whole: dict[str, Any] = _resolved(root, root)
    return whole


def _resolved(node: Any, root: Any) -> Any:
    if isinstance(node, list):
        return [_resolved(each, root) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = reduce(getitem, node["$ref"].removeprefix("#/").split("/"), root)
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    found = {key: _resolved(value, root) for key, value in node.items()}
    for branch in found.pop("allOf", ()):
        properties = {**found.get("properties", {}), **branch.get("properties", {})}
        required = [*found.get("required", ()), *branch.get("required", ())]
        found |= {"type": "object", "properties": properties, "required": required}
    return found


def server_url() -> str:
    """Return the URL that the document's one server names, without a slash at its end."""
    return str(document()["servers"][0]["url"])


def base_path() -> str:
    """Return the path of the server's URL: every template stands below it."""
    return urlsplit(server_url()).path


@cache
def operations() -> tuple[Operation, ...]:
    """Return every operation in the order of the document."""
    return tuple(
        _operation(template, method, item)
        for template, item in document()["paths"].items()
        for method in METHODS
        if method in item
    )


def _operation(template: str, method: str, item: Mapping[str, Any]) -> Operation:
    node = item[method]
    content = node.get("requestBody", {}).get("content", {})
    media = next(iter(content), None)
    return Operation(
        operation_id=node["operationId"],
        method=method.upper(),
        template=template,
        parameters=(*item.get("parameters", ()), *node.get("parameters", ())),
        media=media,
        body=content[media]["schema"] if media else None,
        responses={
            status: response.get("content", {}).get(JSON, {}).get("schema")
            for status, response in node["responses"].items()
        },
    )
