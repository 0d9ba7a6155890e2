"""Small OpenAPI documents for the redactor's tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from redactor.config import DocumentConfig
from redactor.openapi.document import OpenApiDocument, parse_document
from tests.unit.redactor.schemas import Node

JSON = "application/json"


def body_of(schema: Any, media_type: str = JSON) -> Node:
    return {"content": {media_type: {"schema": schema}}}


def an_operation(request: Any = None, response: Any = None, **keywords: Any) -> Node:
    """An operation whose bodies have these schemas; the response's is that of status 200."""
    operation: Node = {
        "operationId": "op",
        "responses": {"200": {} if response is None else body_of(response)},
    }
    if request is not None:
        operation["requestBody"] = body_of(request)
    return operation | keywords


def a_document(paths: Node, version: str = "3.0.3", **keywords: Any) -> Node:
    return {"openapi": version, "info": {"title": "T", "version": "1"}, "paths": paths} | keywords


def loaded(document: Node, **settings: Any) -> OpenApiDocument:
    config = DocumentConfig(path=Path("document.json"), **settings)
    return parse_document(config, json.dumps(document).encode())
