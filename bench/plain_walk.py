"""A baseline, the simplest that works: orjson, a recursive walk of the same rules, orjson again.

It keeps the same fields of ordinary pairs and gives no guarantee for others: it does not know duplicate keys, number
tokens, denials in alternatives or limits, reads JSON alone, and accepts whatever orjson accepts.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import orjson

from redactor.compile.compiled_operation import CompiledOperation
from redactor.compile.compiler import Compiler
from redactor.compile.plan import (
    ArrayPlan,
    DropPlan,
    FreeFormPlan,
    ObjectPlan,
    Plan,
    RefPlan,
    ScalarPlan,
    TaggedUnionPlan,
    TypeSwitchPlan,
)
from redactor.config import RedactionConfig
from redactor.decode.json import JsonInteger, JsonNumber
from redactor.openapi.document import OpenApiDocument
from redactor.openapi.operations import LITERAL, operations_of

_MISSING = object()
_TYPES = {str: (str,), bool: (bool,), JsonInteger: (int,), JsonNumber: (float, int)}
_IDS = re.compile(r".*(id|uuid|identifier|tag)$", re.IGNORECASE)
_REFS_MAX = 8


def rules_of(plan: Plan, depth: int = 0) -> Any:
    """The plan as plain data: a dict of properties, a list of one, a tuple of types, True, or None."""
    if depth > _REFS_MAX or isinstance(plan, DropPlan):
        return None
    if isinstance(plan, RefPlan):
        return rules_of(plan.target, depth + 1)
    if isinstance(plan, ObjectPlan):
        parts = {name: rules_of(each, depth + 1) for name, each in plan.properties.items()}
        return {name: each for name, each in parts.items() if each is not None}
    if isinstance(plan, ArrayPlan):
        return [rules_of(plan.items, depth + 1)]
    if isinstance(plan, ScalarPlan):
        return tuple(kind for each in plan.types for kind in _TYPES[each])
    if isinstance(plan, TaggedUnionPlan):
        variants = [rules_of(each, depth + 1) or {} for each in plan.variants.values()]
        return {name: rule for variant in variants for name, rule in variant.items()}
    if isinstance(plan, TypeSwitchPlan):
        return rules_of(plan.as_object, depth + 1) or rules_of(plan.as_array, depth + 1)
    return True if isinstance(plan, FreeFormPlan) else None


def walk(rule: Any, value: Any) -> Any:
    """Return the part of a value that the rule keeps."""
    if rule is True:
        return value if isinstance(value, dict) else _MISSING
    if isinstance(rule, tuple):
        return value if value is None or type(value) in rule else _MISSING
    if isinstance(rule, dict):
        if not isinstance(value, dict):
            return _MISSING
        kept = {}
        for name, part in rule.items():
            if name in value:
                found = walk(part, value[name])
                if found is not _MISSING:
                    kept[name] = found
        return kept or _MISSING
    if isinstance(rule, list) and isinstance(value, list):
        elements = [found for each in value if (found := walk(rule[0], each)) is not _MISSING]
        return elements or _MISSING
    return _MISSING


class PlainWalk:
    """Makes an event of a capture line, in the simplest way."""

    def __init__(self, document: OpenApiDocument, config: RedactionConfig) -> None:
        self._config = config
        compiler = Compiler(document, config.limits)
        self._routes: dict[Any, Any] = {}
        self._rules: dict[tuple[str, str], Any] = {}
        for operation in operations_of(document):
            compiled = CompiledOperation(operation, compiler, config)
            node = self._routes
            for segment in (*operation.servers[0].base, *operation.segments):
                node = node.setdefault(segment.literal if segment.rank == LITERAL else None, {})
            base = len(operation.servers[0].base)
            node[operation.method,] = (compiled, base, operation.servers[0].host)

    def redact(self, line: bytes) -> bytes:
        capture = orjson.loads(line)
        request, response = capture["request"], capture["response"]
        url = urlsplit(request["url"])
        segments = url.path.split("/")[1:]
        found = self._match(self._routes, segments, 0, request["method"])
        received = {name.lower(): value for name, value in response["headers"].items()}
        sent = {name.lower(): value for name, value in request["headers"].items()}
        at_ms = int(capture["id"][:12], 16)
        event: dict[str, Any] = {
            "id": capture["id"],
            "action": {
                "result": "success" if response["status"] < 400 else "failure",
                "time": datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds"),
            },
            "actor": {
                "id": received.get("x-actor-id"),
                "email": received.get("x-actor-email"),
                "type": received.get("x-actor-type"),
                "context": received.get("x-actor-context"),
                "ip_address": capture.get("client_ip"),
            },
            "raw": {
                "method": request["method"],
                "status_code": response["status"],
                "cf_ray_id": received.get("cf-ray"),
                "user_agent": sent.get("user-agent"),
            },
            "tap": capture.get("tap"),
        }
        if found is not None:
            compiled, base, _ = found
            self._fill(event, compiled, segments[base:], request, response, sent, received)
        return orjson.dumps(event)

    def _fill(
        self,
        event: dict[str, Any],
        compiled: CompiledOperation,
        segments: list[str],
        request: Any,
        response: Any,
        sent: dict[str, str],
        received: dict[str, str],
    ) -> None:
        recorded, ids = [], {}
        for segment, value in zip(compiled.operation.segments, segments, strict=True):
            kept = segment.rank == LITERAL or all(_IDS.match(name) for name in segment.names)
            recorded.append(value if kept else segment.text)
            if kept and segment.names:
                ids[segment.names[0]] = value
        facts = compiled.facts
        event["action"] |= {"type": facts.action_type, "description": facts.description}
        event["account"] = {"id": ids.get("account_id")}
        event["raw"]["uri"] = "/" + "/".join(recorded)
        event["resource"] = {"product": facts.product, "scope": facts.scope, "type": facts.resource_type}
        event["receipt"] = {"operation": compiled.operation.id}
        kept_get = compiled.keeps_get_response
        if request["method"] not in ("GET", "HEAD") and request.get("body"):
            strict = response["status"] >= 400
            self._keep(event, "request", ("request", strict), compiled, request["body"], sent)
        if (request["method"] not in ("GET", "HEAD") or kept_get) and response.get("body"):
            self._keep(
                event, "response", ("response", response["status"]), compiled, response["body"], received
            )

    def _keep(
        self, event: Any, side: str, key: Any, compiled: CompiledOperation, body: str, headers: dict[str, str]
    ) -> None:
        rules = self._rules.get((compiled.operation.id, key))
        if rules is None:
            content = compiled.request(strict=key[1]) if side == "request" else compiled.response(key[1])
            rules = {
                name: (rules_of(media.plan), media.envelope)
                for name, media in content.items()
                if media is not None and name == "application/json"
            }
            self._rules[compiled.operation.id, key] = rules
        rule, envelope = rules.get(headers.get("content-type", "").partition(";")[0], (None, None))
        if rule is None:
            return
        tree = orjson.loads(body)
        kept = walk(rule, tree)
        if envelope is not None and kept is not _MISSING:
            kept = kept.get(envelope, _MISSING)
        if kept is not _MISSING:
            event["resource"][side] = kept

    def _match(self, node: Any, segments: list[str], at: int, method: str) -> Any:
        if at == len(segments):
            return node.get((method,))
        for key in (segments[at], None):
            below = node.get(key)
            if below is not None:
                found = self._match(below, segments, at + 1, method)
                if found is not None:
                    return found
        return None
