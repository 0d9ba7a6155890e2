"""Sample bodies with one token for each field, and the fields of such a body that an event holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from redactor.openapi.operations import LITERAL
from redactor.report.coverage import DEPTH_MAX
from redactor.report.decisions import SCALAR, Step, StepKind, path_text
from redactor.report.operation_fields import OperationFields
from redactor.report.schema_tree import Position
from schemas.capture import Capture, CapturedRequest, CapturedResponse

JSON = "application/json"
FORM, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"
LINES = "application/x-ndjson"
ENTRY_KEY = "undeclared-key"
PATTERN_KEYS: Mapping[str, str] = {"^x-": "x-undeclared"}
"""A key for each pattern that the tests' documents use."""


class Tokens:
    """Makes a distinct value for each field, and remembers all of them as text."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.used: list[str] = []

    def value(self, position: Position, turn: int) -> Any:
        """A value that fits the position's type; `turn` goes through the types where there are several."""
        enumerated = values_listed(position)
        if enumerated:
            return enumerated[turn % len(enumerated)]
        kinds = position.kind.split("|")
        kind = kinds[turn % len(kinds)]
        number = 700_000_000 + len(self.used)
        token = f"{self._prefix}{len(self.used)}"
        if kind in ("integer", "number"):
            self.used.append(str(number))
            return number
        if kind == "boolean":
            return True
        self.used.append(token)
        return {f"{token}-key": token} if kind == "object" else [token] if kind == "array" else token


def values_listed(position: Position) -> list[Any]:
    """The values that any of a position's schemas lists."""
    listed = [each for node in position.nodes for each in node.get("enum", ())]
    return listed + [node["const"] for node in position.nodes if "const" in node]


def instance(root: Position, tokens: Tokens, turn: int = 0) -> Any:
    """A body with a value at every position; of positions that are objects or arrays, one of the two by `turn`."""

    def made(position: Position, above: frozenset[Position]) -> Any:
        if position.is_field:
            return tokens.value(position, turn)
        children = [each for each in position.children if each.position not in above]
        scalar = next((each.position for each in children if each.step == SCALAR), None)
        if scalar is not None and turn % 4 == 2:
            return tokens.value(scalar, turn)
        children = [each for each in children if each.step != SCALAR]
        named = [each for each in children if each.step.kind not in (StepKind.SLOT, StepKind.ITEMS)]
        elements = [each for each in children if each not in named]
        within = above | {position}
        if len(above) > DEPTH_MAX:
            return None
        is_array = elements and (not named or turn % 2 == 1)
        if is_array or (not named and "array" in position.kind):
            return [made(each.position, within) for each in elements]
        return {key_of(each.step): made(each.position, within) for each in named}

    return made(root, frozenset({root}))


def key_of(step: Step) -> str:
    if step.kind is StepKind.PROPERTY:
        return step.text
    return ENTRY_KEY if step.kind is StepKind.ENTRY else PATTERN_KEYS[step.text]


def fields_in(root: Position, recorded: Any) -> Iterator[str]:
    """The paths of the fields that the recorded body of an instance holds."""

    def found(position: Position, value: Any, steps: tuple[Step, ...]) -> Iterator[str]:
        if position.is_field:
            if value not in ({}, []):
                yield path_text(steps)
            return
        for step, child in position.children:
            for part in _parts(position, step, value):
                yield from found(child, part, (*steps, step))

    return found(root, recorded, ())


def _parts(position: Position, step: Step, value: Any) -> list[Any]:
    if step == SCALAR:
        return [] if isinstance(value, dict | list) else [value]
    slots = sum(each.kind is StepKind.SLOT for each, _ in position.children)
    if step.kind is StepKind.ITEMS:
        return value[slots:] if isinstance(value, list) else []
    if step.kind is StepKind.SLOT:
        found = value[int(step.text) : int(step.text) + 1] if isinstance(value, list) else []
        return [each for each in found if each is not None]
    return [value[key_of(step)]] if isinstance(value, dict) and key_of(step) in value else []


def pair_for(
    operation_fields: OperationFields,
    *,
    body: Any = None,
    media_type: str = JSON,
    status: int = 200,
    answer: Any = None,
    value: str = "1",
) -> Capture:
    """A pair that matches the operation, below its first server."""
    operation = operation_fields.operation
    base = "".join(f"/{segment.text}" for segment in operation.servers[0].base)
    texts = [
        segment.text if segment.rank == LITERAL else _filled(segment.text, value)
        for segment in operation.segments
    ]
    url = f"https://{operation.servers[0].host or 'host.example'}{base}/{'/'.join(texts)}"
    content_type = f"{media_type}; boundary=edge" if media_type == MULTIPART else media_type
    return Capture(
        CapturedRequest(operation.method, url, {"Content-Type": content_type}, _text(body, media_type)),
        CapturedResponse(status, {"Content-Type": content_type}, _text(answer, media_type)),
    )


def _filled(text: str, value: str) -> str:
    while "{" in text:
        text = text.partition("{")[0] + value + text.partition("}")[2]
    return text


def _text(body: Any, media_type: str) -> str | None:
    if body is None:
        return None
    if media_type == FORM:
        return urlencode([(name, _field(each)) for name, value in body.items() for each in _each(value)])
    if media_type.startswith("multipart/"):
        return (
            "".join(_part(name, each) for name, value in body.items() for each in _each(value))
            + "--edge--\r\n"
        )
    if media_type == LINES:
        return f"{json.dumps(body)}\n\n{json.dumps(body)}\n"
    return json.dumps(body)


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _field(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _part(name: str, value: Any) -> str:
    return f'--edge\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{_field(value)}\r\n'
