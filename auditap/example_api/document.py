"""The example's OpenAPI document, read from the package and taken apart once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import yaml

METHODS = ("get", "head", "post", "put", "patch", "delete")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Operation:
    """One operation of the document, its references to parameters and responses resolved.

    `template` stands below the server's base path. `responses` maps a status key as the document has it to the
    media types of that answer with their schemas; no media types: no body.
    """

    operation_id: str
    method: str
    template: str
    parameters: tuple[Mapping[str, Any], ...]
    request_media: Mapping[str, Mapping[str, Any]]
    responses: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @property
    def success_status(self) -> int:
        """The lowest 2xx status that the document declares."""
        return min(int(status) for status in self.responses if status.startswith("2"))

    def schema_of(self, status: int) -> Mapping[str, Any] | None:
        """Return the JSON schema of an answer with `status`; None where it has no body.

        Raises KeyError where the document declares no such answer.
        """
        for key in (str(status), f"{status // 100}XX", "default"):
            if key in self.responses:
                return self.responses[key].get("application/json")
        raise KeyError(status)


def document_file() -> Traversable:
    """Return the document as package data; `importlib.resources.as_file` gives its path."""
    return files("auditap.example_api") / "openapi.yaml"


@cache
def document() -> dict[str, Any]:
    """Return the parsed document; callers leave it as it is."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    parsed: dict[str, Any] = yaml.load(document_file().read_bytes(), Loader=loader)  # noqa: S506 (a safe loader)
    return parsed


def server_url() -> str:
    """Return the URL that the document's one server names, without a slash at its end."""
    return str(document()["servers"][0]["url"])


def base_path() -> str:
    """Return the path of the server's URL: every template stands below it."""
    return urlsplit(server_url()).path


@cache
def operations() -> tuple[Operation, ...]:
    """Return every operation in the order of the document."""
    return tuple(_operations())


def _operations() -> Iterator[Operation]:
    for template, item in document()["paths"].items():
        for method in METHODS:
            if method in item:
                yield _operation(template, method, item)


def _operation(template: str, method: str, item: Mapping[str, Any]) -> Operation:
    node = item[method]
    responses = {status: resolve(response) for status, response in node["responses"].items()}
    return Operation(
        operation_id=node["operationId"],
        method=method.upper(),
        template=template,
        parameters=tuple(resolve(p) for p in (*item.get("parameters", ()), *node.get("parameters", ()))),
        request_media=_schemas(node.get("requestBody", {})),
        responses={status: _schemas(response) for status, response in responses.items()},
    )


def _schemas(message: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {media: content["schema"] for media, content in message.get("content", {}).items()}


def resolve(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what `node` refers to, or `node` itself; what stands beside a reference comes on top."""
    if "$ref" not in node:
        return node
    target: Any = document()
    for step in node["$ref"].removeprefix("#/").split("/"):
        target = target[step]
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def validator(schema: Mapping[str, Any]) -> jsonschema.Draft202012Validator:
    """Return a validator of one schema of the document, formats left alone."""
    return jsonschema.Draft202012Validator({**schema, "components": document()["components"]})
