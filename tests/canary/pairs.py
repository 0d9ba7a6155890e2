"""Captured pairs for the operations of a document, with a token in everything that a client or service may choose."""

from __future__ import annotations

import base64
import gzip
import json
import random
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import cramjam

from tests.canary.reading import (
    ANOTHER_TYPE,
    DENIED,
    ENVELOPE,
    GET,
    HEADER,
    KEPT_HEADER,
    KEPT_PATH,
    KEPT_QUERY,
    MEDIA_TYPE,
    NO_SCHEMA,
    NOT_LISTED,
    OPEN_COMPOSED,
    OPTED_OUT,
    PATH,
    QUERY,
    SCALARS,
    UNMARKED,
    UNTYPED,
    URL,
    Document,
    Node,
    Position,
    Verdict,
    is_denied,
    is_marked,
)
from tests.canary.tokens import Mint
from tests.canary.values import Writer, position_of

METHODS = ("get", "head", "post", "put", "patch", "delete", "options", "trace")
OPEN_ARRAY_IN_FORM = Verdict(None, "9: an array in a form")
OPEN_CLAIMED = Verdict(None, "13: a name that several parameters claim")
OPEN_ACCOUNT = Verdict(None, "15: the account in the path counts before the header's")
_JSON = "application/json"
_NAMES_KEPT = ("id", "uuid", "identifier", "tag")
_CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda text: bytes(cramjam.brotli.compress(text)),
    "zstd": lambda text: bytes(cramjam.zstd.compress(text)),
}
_DELIMITERS = {"form": ",", "spaceDelimited": "%20", "pipeDelimited": "|"}


class Operation(NamedTuple):
    """One operation of a document."""

    id: str
    method: str
    template: str
    node: Node
    item: Node


class Pair(NamedTuple):
    """A capture as a tap would send it, and how many scalars of each body must leave (None: open, or no body)."""

    operation: Operation
    capture: Node
    request_kept: int | None
    response_kept: int | None
    fitting: bool


def operations_of(root: Node) -> list[Operation]:
    """Return the operations of a document in its order."""
    return [
        Operation(
            item[method].get("operationId", f"{method.upper()} {template}"),
            method,
            template,
            item[method],
            item,
        )
        for template, item in root["paths"].items()
        for method in METHODS
        if method in item
    ]


class PairWriter:
    """Writes the pairs of one document."""

    def __init__(
        self, root: Node, mint: Mint, seed: int, *, envelope: str | None, accounts: Sequence[str] = ()
    ) -> None:
        """`accounts`: ids that stand for every account, in turn, in place of tokens."""
        self._document = Document(root)
        self._mint = mint
        self._rng = random.Random(seed)
        self._envelope = envelope
        self._base = str(root["servers"][0]["url"]).removesuffix("/")
        self._accounts = accounts

    def pairs(self, operation: Operation) -> Iterator[Pair]:
        """Yield pairs for every status and media type that the operation declares, and one that does not fit."""
        statuses = list(operation.node.get("responses", {})) or ["200"]
        request = self._document.resolve(operation.node.get("requestBody", {}))
        contents = list(request.get("content", {})) or [None]
        for index in range(max(len(statuses), len(contents))):
            status, media = statuses[index % len(statuses)], contents[index % len(contents)]
            yield self._pair(operation, status, media, fitting=True)
        yield self._pair(operation, statuses[0], contents[0], fitting=False)

    def _pair(self, operation: Operation, status_key: str, media: str | None, *, fitting: bool) -> Pair:
        status = self._status(status_key, operation.node.get("responses", {}))
        strict = status >= 400
        request, request_kept = self._request(operation, media, strict=strict, fitting=fitting)
        response, response_kept = self._response(operation, status_key, strict=strict, fitting=fitting)
        capture = {
            "captured_at": "2026-01-23T18:25:14.749Z",
            "client_ip": "203.0.113.9",
            "request": {
                "method": operation.method.upper(),
                "url": self._url(operation, strict=strict, fitting=fitting),
            }
            | request,
            "response": {"status": status} | response,
        }
        return Pair(operation, capture, request_kept, response_kept, fitting)

    def _status(self, key: str, declared: Mapping[str, Any]) -> int:
        if key.isdecimal():
            return int(key)
        if key.lower().endswith("xx"):
            hundred = int(key[0]) * 100
            return next(each for each in range(hundred + 18, hundred + 99) if str(each) not in declared)
        return next(
            each for each in (299, 418, 599, 399) if not {str(each), f"{each // 100}XX"} & set(declared)
        )

    # ── URL ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _url(self, operation: Operation, *, strict: bool, fitting: bool) -> str:
        scheme, _, rest = self._base.partition("://")
        path = "/".join(
            self._segment(operation, each, strict=strict, fitting=fitting)
            for each in re.split(r"[?#]", operation.template)[0].split("/")
        )
        query = "&".join(self._query(operation, strict=strict))
        userinfo = f"{self._secret(URL)}:{self._secret(URL)}@"
        return f"{scheme}://{userinfo}{rest}{path}?{query}#{self._secret(URL)}"

    def _segment(self, operation: Operation, template: str, *, strict: bool, fitting: bool) -> str:
        names = re.findall(r"\{([^{}]+)\}", template)
        by_name = all(self._is_kept_by_name(operation, name) for name in names)
        if names and by_name and self._accounts and "account" in template:
            return self._rng.choice(self._accounts)
        verdict = self._segment_verdict(operation, names, strict=strict)
        parameters = [self._path_position(operation, name) for name in names]
        if not fitting and any(each.excludes("string") for each in parameters):
            return re.sub(r"\{[^{}]+\}", lambda _: self._secret(ANOTHER_TYPE), template)
        kinds = iter([self._parameter_kind(each) for each in parameters])
        return re.sub(r"\{[^{}]+\}", lambda _: self._text(verdict, next(kinds)), template)

    def _segment_verdict(self, operation: Operation, names: Sequence[str], *, strict: bool) -> Verdict:
        """Return what becomes of a segment's variables: several in one segment are recorded together."""
        verdicts = [self._variable_verdict(operation, name, strict=strict) for name in names]
        return next((each for each in verdicts if each.recorded is not True), KEPT_PATH)

    def _variable_verdict(self, operation: Operation, name: str, *, strict: bool) -> Verdict:
        if self._is_kept_by_name(operation, name):
            listed = strict and self._path_position(operation, name).lists_values()
            return NOT_LISTED if listed else KEPT_PATH
        return self._path_verdict(operation, name, strict=strict)

    def _is_kept_by_name(self, operation: Operation, name: str) -> bool:
        named = name.lower().endswith(_NAMES_KEPT)
        return (
            named
            and not self._path_is_denied(operation)
            and not self._denied_parameter(operation, "path", name)
        )

    def _path_is_denied(self, operation: Operation) -> bool:
        return is_denied(operation.item) or bool(operation.node.get("x-sensitive"))

    def _path_verdict(self, operation: Operation, name: str, *, strict: bool) -> Verdict:
        parameter = self._parameters(operation).get(("path", name))
        if parameter is None:
            return PATH
        if self._path_is_denied(operation) or self._denied_parameter(operation, "path", name):
            return DENIED
        verdict = self._parameter_verdict(parameter, strict=strict)
        return KEPT_PATH if verdict.recorded else PATH if verdict.recorded is False else verdict

    def _parameters(self, operation: Operation) -> dict[tuple[str, str], Node]:
        listed = [*operation.item.get("parameters", ()), *operation.node.get("parameters", ())]
        resolved = [self._document.resolve(each) for each in listed]
        return {
            (each["in"], each["name"]): each for each in resolved if isinstance(each, dict) and "in" in each
        }

    def _denied_parameter(self, operation: Operation, location: str, name: str) -> bool:
        listed = [*operation.item.get("parameters", ()), *operation.node.get("parameters", ())]
        for each in listed:
            chain = self._document.chain(each)
            if chain and (chain[-1].get("in"), chain[-1].get("name")) == (location, name):
                schema = chain[-1].get("schema")
                position = position_of(self._document, schema, denied=False, strict=False)
                if any(map(is_denied, chain)) or position.denied:
                    return True
        return False

    def _parameter_verdict(self, parameter: Node, *, strict: bool) -> Verdict:
        """Return what becomes of a scalar parameter, or of an array's elements."""
        position = position_of(self._document, parameter.get("schema"), denied=False, strict=strict)
        if "content" in parameter or "schema" not in parameter:
            return UNMARKED
        element = position.element() if position.kinds() == {"array"} else None
        value = element or position
        kind = next(iter(sorted(value.kinds() & SCALARS)), None)
        if value.denied:
            return DENIED
        if is_marked(parameter):
            if position.is_composed or kind is None or value.is_composed:
                return OPEN_COMPOSED
            listed = strict and any("enum" in each.node for each in value.granting)
            return QUERY if listed else KEPT_QUERY
        if kind is None:
            return OPEN_COMPOSED if value.is_composed and value.marks() else UNMARKED
        return value.scalar_verdict(kind)

    def _path_position(self, operation: Operation, name: str) -> Position:
        parameter = self._parameters(operation).get(("path", name), {})
        return position_of(self._document, parameter.get("schema"), denied=False, strict=False)

    @staticmethod
    def _parameter_kind(position: Position) -> str:
        return next(iter(sorted(position.kinds() & SCALARS)), "string")

    def _query(self, operation: Operation, *, strict: bool) -> Iterator[str]:
        yield f"{self._secret(QUERY)}={self._secret(QUERY)}"
        yield self._secret(QUERY)
        opted_out = is_denied(operation.node) or is_denied(operation.item)
        for (location, name), parameter in self._parameters(operation).items():
            if location != "query":
                continue
            position = position_of(self._document, parameter.get("schema"), denied=False, strict=strict)
            ruled = OPTED_OUT if opted_out else None
            if self._denied_parameter(operation, "query", name):
                ruled = ruled or DENIED
            elif self._is_claimed_twice(operation, name, position):
                ruled = ruled or OPEN_CLAIMED
            if position.properties() or position.kinds() == {"object"}:
                yield from self._object_parameter(name, parameter, position, ruled)
            else:
                verdict = ruled or self._parameter_verdict(parameter, strict=strict)
                yield from self._query_pairs(name, parameter, verdict)

    def _is_claimed_twice(self, operation: Operation, name: str, position: Position) -> bool:
        claims = [
            each
            for (location, other), parameter in self._parameters(operation).items()
            if location == "query"
            for each in (
                other,
                *position_of(
                    self._document, parameter.get("schema"), denied=False, strict=False
                ).properties(),
            )
        ]
        return any(claims.count(each) > 1 for each in (name, *position.properties()))

    def _object_parameter(
        self, name: str, parameter: Node, position: Position, ruled: Verdict | None
    ) -> Iterator[str]:
        """Yield an object's properties, and one that is not declared, as its style has them."""
        style = parameter.get("style", "form")
        exploded = parameter.get("explode", style == "form")
        written = {quote(self._secret(QUERY)): self._secret(QUERY)}
        for each, part in position.properties().items():
            kind = next(iter(sorted(part.kinds() & SCALARS)), None)
            verdict = part.scalar_verdict(kind) if kind else UNTYPED
            if is_marked(parameter) or part.is_composed:
                verdict = OPEN_COMPOSED
            written[quote(each)] = self._text(ruled or verdict, kind or "string")
        if style == "deepObject":
            yield from (f"{quote(name)}[{each}]={value}" for each, value in written.items())
        elif exploded:
            yield from (f"{each}={value}" for each, value in written.items())
        else:
            yield f"{quote(name)}=" + ",".join(f"{each},{value}" for each, value in written.items())

    def _query_pairs(self, name: str, parameter: Node, verdict: Verdict) -> Iterator[str]:
        position = position_of(self._document, parameter.get("schema"), denied=False, strict=False)
        style = parameter.get("style", "form")
        key = quote(name, safe="[]")
        element = position.element()
        kind = next(iter(sorted((element or position).kinds() & SCALARS)), "string")
        if element is not None and style == "deepObject":
            # Of a query only objects are read in this style.
            verdict = verdict if verdict.recorded is False else QUERY
        values = [self._text(verdict, kind) for _ in range(2 if element else 1)]
        if element is not None and style == "deepObject":
            yield from (f"{key}[{index}]={value}" for index, value in enumerate(values))
        elif element is None or parameter.get("explode", style == "form"):
            yield from (f"{key}={value}" for value in values)
        else:
            yield f"{key}={_DELIMITERS.get(style, ',').join(values)}"

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _request(
        self, operation: Operation, media: str | None, *, strict: bool, fitting: bool
    ) -> tuple[Node, int | None]:
        agent = DENIED if self._denied_parameter(operation, "header", "User-Agent") else KEPT_HEADER
        headers = {
            "User-Agent": self._text(agent, "string"),
            "CF-Ray": self._shown(KEPT_HEADER),
            "X-Request-Id": self._secret(HEADER),
            "Authorization": f"Bearer {self._secret(HEADER)}",
            "Cookie": [f"{self._secret(HEADER)}={self._secret(HEADER)}", self._secret(HEADER)],
            "X-Actor-Id": self._secret(HEADER),
            "X-Actor-Email": f"{self._secret(HEADER)}@example.com",
            f"X-{self._secret(HEADER)}": self._secret(HEADER),
            "Referer": f"https://example.com/{self._secret(HEADER)}",
        }
        chain = self._document.chain(operation.node.get("requestBody"))
        ruled = self._ruled_out(operation, chain)
        return self._message(headers, chain, media, ruled, None, strict=strict, fitting=fitting)

    def _response(
        self, operation: Operation, status_key: str, *, strict: bool, fitting: bool
    ) -> tuple[Node, int | None]:
        chain = self._document.chain(operation.node.get("responses", {}).get(status_key))
        declared = chain[-1].get("headers", {}) if chain else {}
        name = DENIED if self._is_denied_header(declared.get("X-Actor-Token-Name")) else KEPT_HEADER
        headers: dict[str, Any] = {
            "Set-Cookie": [self._secret(HEADER), self._secret(HEADER)],
            "Location": f"/{self._secret(HEADER)}",
            "ETag": self._secret(HEADER),
            "X-Actor-Id": self._shown(KEPT_HEADER)
            if fitting
            else [self._secret(HEADER), self._secret(HEADER)],
            "X-Actor-Email": f"{self._shown(KEPT_HEADER)}@example.com",
            "X-Actor-Token-Id": self._shown(KEPT_HEADER),
            "X-Actor-Token-Name": self._text(name, "string"),
            "X-Actor-Type": self._secret(HEADER),
            "X-Actor-Context": self._secret(HEADER),
            "X-Account-Id": self._rng.choice(self._accounts or [self._shown(OPEN_ACCOUNT)]),
            f"X-{self._secret(HEADER)}": self._secret(HEADER),
        }
        content = chain[-1].get("content", {}) if chain else {}
        media = next(iter(content), None)
        ruled = self._ruled_out(operation, chain)
        return self._message(headers, chain, media, ruled, self._envelope, strict=strict, fitting=fitting)

    def _is_denied_header(self, header: Any) -> bool:
        chain = self._document.chain(header)
        position = position_of(
            self._document, chain[-1].get("schema") if chain else None, denied=False, strict=False
        )
        return any(map(is_denied, chain)) or position.denied

    def _ruled_out(self, operation: Operation, chain: list[Node]) -> Verdict | None:
        """Return the rule that takes a whole body away, if one does."""
        if operation.method in ("get", "head", "options", "trace"):
            return GET
        if is_denied(operation.node) or is_denied(operation.item):
            return OPTED_OUT
        if any(map(is_denied, chain)) or any(is_denied(each.get("content", {})) for each in chain):
            return DENIED
        return None

    def _message(
        self,
        headers: Node,
        chain: list[Node],
        media: str | None,
        ruled: Verdict | None,
        envelope: str | None,
        *,
        strict: bool,
        fitting: bool,
    ) -> tuple[Node, int | None]:
        node = chain[-1].get("content", {}).get(media, {}) if chain and media is not None else {}
        writer = Writer(self._mint, self._rng, fitting=fitting)
        if is_denied(node):
            ruled = ruled or DENIED
        boundary = self._secret(HEADER)
        body = _Body(self._document, self._mint, self._rng, writer, boundary, strict=strict)
        written = body.write(media, node, ruled, envelope)
        if media is not None:
            headers = headers | {"Content-Type": f"{media}; charset=utf-8; boundary={boundary}"}
        if body.coding != "identity":
            headers = headers | {"Content-Encoding": body.coding}
        counted = None if ruled or not body.is_read or writer.is_open or not fitting else writer.kept
        return {"headers": headers} | written, counted

    def _secret(self, verdict: Verdict) -> str:
        return self._mint.secret_text(verdict.rule)

    def _shown(self, verdict: Verdict) -> str:
        return self._mint.shown_text(verdict.rule)

    def _text(self, verdict: Verdict, kind: str) -> str:
        if kind == "boolean":
            return "true"
        if verdict.recorded is False:
            return self._secret(verdict) if kind == "string" else str(self._mint.secret_number(verdict.rule))
        return self._shown(verdict) if kind == "string" else str(self._mint.shown_number(verdict.rule))


@dataclass
class _Body:
    """Writes one body in its media type."""

    document: Document
    mint: Mint
    rng: random.Random
    writer: Writer
    boundary: str
    strict: bool
    is_read: bool = False
    """Whether the redactor must read the body."""
    coding: str = "identity"

    def write(self, media: str | None, node: Node, ruled: Verdict | None, envelope: str | None) -> Node:
        """Return the capture's `body`, or `body_base64` in its place."""
        essence = (media or "").lower().partition(";")[0]
        if "schema" not in node:
            return {"body": json.dumps({self._secret(NO_SCHEMA): self._secret(NO_SCHEMA)})}
        position = position_of(self.document, node["schema"], denied=False, strict=self.strict)
        if essence == _JSON or essence.endswith("+json"):
            self.is_read = True
            return self._packed(json.dumps(self._json(position, ruled, envelope)).encode())
        if essence == "application/x-ndjson":
            lines = [json.dumps(self._json(position, ruled, envelope)) for _ in range(2)]
            return {"body": "\n".join(lines) + "\n"}
        if essence == "application/x-www-form-urlencoded":
            return {"body": urlencode(list(self._fields(position, node.get("encoding", {}), ruled)))}
        if essence == "multipart/form-data":
            return {"body": "".join(self._parts(position, node.get("encoding", {}), ruled))}
        return {"body_base64": base64.b64encode(self._secret(MEDIA_TYPE).encode() + b"\0\xff").decode()}

    def _packed(self, text: bytes) -> Node:
        if self.rng.random() > 0.1:
            return {"body": text.decode()}
        self.coding = self.rng.choice(list(_CODINGS))
        return {"body_base64": base64.b64encode(_CODINGS[self.coding](text)).decode()}

    def _json(self, position: Position, ruled: Verdict | None, envelope: str | None) -> Any:
        if ruled is not None:
            return (
                self.writer.body(position, lambda _: ruled)
                if position.properties()
                else {self._secret(ruled): self._secret(ruled)}
            )
        declaring = [each for each in position.granting if envelope in each.node.get("properties", ())]
        if envelope is None or not declaring:
            return self.writer.body(position, lambda _: None)
        inside = OPEN_COMPOSED if all(each.choice for each in declaring) else None
        return self.writer.body(position, lambda name: inside if name == envelope or inside else ENVELOPE)

    def _fields(self, position: Position, encoding: Node, ruled: Verdict | None) -> Iterator[tuple[str, str]]:
        yield self._secret(UNMARKED), self._secret(UNMARKED)
        for name, part in position.properties().items():
            if encoding.get(name, {}).get("style") == "deepObject":
                yield from self._deep(name, part, ruled)
            else:
                verdict = ruled or self._scalar_verdict(part)
                yield name, self._field(part, verdict)

    def _deep(self, name: str, part: Position, ruled: Verdict | None) -> Iterator[tuple[str, str]]:
        self.writer.names_show_type = False
        yield from deep_fields(name, self.writer.value(part, 1, ruled))
        self.writer.names_show_type = True

    def _parts(self, position: Position, encoding: Node, ruled: Verdict | None) -> Iterator[str]:
        undeclared = self._secret(UNMARKED)
        yield self._part(f'"{undeclared}"; filename="{self._secret(UNMARKED)}"', self._secret(UNMARKED))
        for name, part in position.properties().items():
            as_json = "json" in str(encoding.get(name, {}).get("contentType", ""))
            if encoding.get(name, {}).get("style") == "deepObject":
                yield from (self._part(f'"{field}"', text) for field, text in self._deep(name, part, ruled))
            elif part.kinds() == {"object"} or as_json:
                value = self.writer.value(part, 1, ruled)
                yield self._part(f'"{name}"; filename="{self._secret(MEDIA_TYPE)}"', json.dumps(value), _JSON)
            elif part.properties() or part.element() is not None or part.is_composed:
                verdict = ruled or (OPEN_ARRAY_IN_FORM if _any_mark(part) else UNMARKED)
                yield self._part(f'"{name}"', self._text(verdict))
            else:
                is_file = any(each.node.get("format") == "binary" for each in part.schemas)
                verdict = ruled or (MEDIA_TYPE if is_file else self._scalar_verdict(part))
                yield self._part(f'"{name}"', self._field(part, verdict))
        yield f"--{self.boundary}--\r\n"

    def _part(self, disposition: str, content: str, media: str = "") -> str:
        headers = f"Content-Type: {media}; {self._secret(HEADER)}=1\r\n" if media else ""
        return (
            f"--{self.boundary}\r\nContent-Disposition: form-data; name={disposition}\r\n"
            f"{headers}X-{self._secret(HEADER)}: 1\r\n\r\n{content}\r\n"
        )

    def _scalar_verdict(self, part: Position) -> Verdict:
        kind = next(iter(sorted(part.kinds() & SCALARS)), None)
        if part.element() is not None or part.is_composed or part.properties():
            return OPEN_ARRAY_IN_FORM if _any_mark(part) else UNMARKED
        return part.scalar_verdict(kind or "string")

    def _field(self, part: Position, verdict: Verdict) -> str:
        kind = next(iter(sorted(part.kinds() & SCALARS)), "string")
        if kind == "string":
            return self._text(verdict)
        if kind == "boolean":
            return "true"
        secret = self.mint.secret_number if verdict.recorded is False else self.mint.shown_number
        return str(secret(verdict.rule))

    def _text(self, verdict: Verdict) -> str:
        return self._secret(verdict) if verdict.recorded is False else self.mint.shown_text(verdict.rule)

    def _secret(self, verdict: Verdict) -> str:
        return self.mint.secret_text(verdict.rule)


def deep_fields(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the fields in which a JSON value is written in the style `deepObject`; none for an empty container."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from deep_fields(f"{name}[{key}]", part)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from deep_fields(f"{name}[{index}]", part)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value)


def _any_mark(part: Position) -> bool:
    element = part.element()
    return bool(part.marks() or (element is not None and _any_mark(element)) or part.properties())
