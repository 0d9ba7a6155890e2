"""The operations that a document declares: their paths, methods and servers.

An operation that cannot be read is matched all the same, and denied: otherwise a less literal path would answer for it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple
from urllib.parse import unquote

import re2

from redactor.decode.url import parse_host, split_path
from redactor.openapi.document import UNTRUSTED, OpenApiDocument, Place, RepeatedKeys
from redactor.openapi.marks import is_denied
from redactor.openapi.pattern import Pattern
from schemas.errors import StartupError

METHODS = ("get", "head", "post", "put", "patch", "delete", "options", "trace")
VARIABLE = re.compile(r"\{([^{}]+)\}")
_END_OF_PATH = re.compile(r"\{?[?#]")  # `{?page}` is how RFC 6570 writes a query
_SERVER_FORMS_MAX = 64  # combinations of one server's variables, each a base path of its own
_ID_LENGTH_MAX = 256  # the id stands in every event
_CONTROL_CHARS = re.compile(r"[\x00-\x1f\x7f-\x9f]")

TEMPLATED, PARTLY_LITERAL, LITERAL = 0, 1, 2
"""How literal a segment is. A higher rank is matched first."""


class Segment(NamedTuple):
    """One segment of a path template."""

    text: str
    """As the document writes it."""
    rank: int
    names: tuple[str, ...] = ()
    """The variables in it."""
    literal: str = ""
    """For a literal segment, its decoded text."""
    pattern: Pattern | None = None
    """For a partly literal segment, what it matches, with a group for each variable."""


class Server(NamedTuple):
    """Where an operation is served."""

    host: str | None
    """In lower case; None where any host will do or `host_pattern` says which."""
    host_pattern: Pattern | None
    base: tuple[Segment, ...]
    """The segments of the base path."""


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One operation as declared."""

    document: OpenApiDocument
    id: str
    """Its `operationId`, or method and template where that is missing, too long or holds a control character."""
    method: str
    template: str
    """The key in `paths`."""
    segments: tuple[Segment, ...]
    """Those of the template's path: where a query or fragment follows it, that is no part of it."""
    place: Place
    path_items: tuple[Place, ...]
    """The path item, after each `$ref` that leads to it."""
    servers: tuple[Server, ...]
    has_own_id: bool
    """Whether the id is the document's and no other operation has it, so that the configuration may name it."""
    denied: bool
    """Nothing of bodies and query is kept."""
    path_denied: bool
    """No path parameter is kept either."""


class _FoundOperation(NamedTuple):
    """An operation as it was found below a path item."""

    template: str
    method: str
    path_items: tuple[Place, ...]
    denied: bool
    """By something above its path item."""
    is_read: bool = True

    @property
    def place(self) -> Place:
        return self.path_items[-1].child(self.method)

    @property
    def declared_id(self) -> str:
        return str(self.place.node.get("operationId", ""))


def operations_of(document: OpenApiDocument) -> list[Operation]:
    """Return the operations of every path template that can be read, in document order.

    A path that the document holds twice is denied, and has the operations of each of its path items. Operations below
    an unreadable template are left out, with a finding.
    """
    paths = Place(document.root, "").child("paths")
    if not isinstance(paths.node, dict):
        return []
    repeated = _repeated_paths(document, paths)
    all_denied = is_denied(document.root) or _are_denied(paths.node, repeated)
    found: list[_FoundOperation] = []
    for template in filter(_is_path, paths.node):
        denied = all_denied or template in repeated
        for path_item in _path_items(paths, template, repeated):
            found.extend(_operations_in(document, template, path_item, denied=denied))
    uses_of_id = Counter(each.declared_id for each in found)
    operations = [_operation(document, each, uses_of_id) for each in found]
    return list(_without_lone_variants([each for each in operations if each is not None]))


def _without_lone_variants(operations: Sequence[Operation]) -> Iterator[Operation]:
    """Yield the operations; those of a key with a query or fragment are denied where the path alone is not declared.

    Otherwise such a key is a twin of its path. But what it allows says nothing of requests without that query.
    """
    declared = {(each.method, _shape(each)) for each in operations if path_of(each.template) == each.template}
    for each in operations:
        if (each.method, _shape(each)) in declared:
            yield each
        else:
            each.document.findings.add(each.place.pointer, "path_not_declared")
            yield replace(each, denied=True)


def _shape(operation: Operation) -> tuple[str, ...]:
    return tuple(
        each.literal if each.rank == LITERAL else VARIABLE.sub("{}", each.text) for each in operation.segments
    )


def path_of(template: str) -> str:
    """Return what stands before a query or fragment in a key of `paths`. Services distinguish such keys, paths do not."""
    masked = VARIABLE.sub(lambda found: found[0] if found[1][0] in "?#" else "_" * len(found[0]), template)
    end = _END_OF_PATH.search(masked)
    return template if end is None else template[: end.start()]


def _is_path(name: str) -> bool:
    return name.startswith("/")


def _repeated_paths(document: OpenApiDocument, paths: Place) -> Mapping[str, Sequence[Any]]:
    """Return the earlier path items of templates that the document holds more than once.

    The mapping is empty where more than that is wrong with `paths`; then nothing in it can be trusted.
    """
    repeated: Mapping[str, Sequence[Any]] = {}
    untrusted = paths.node.get(UNTRUSTED)
    if isinstance(untrusted, RepeatedKeys) and all(map(_is_path, untrusted.earlier)):
        repeated = untrusted.earlier
    for template in repeated:
        document.findings.add(paths.child(template).pointer, "duplicate_keys")
    if UNTRUSTED in paths.node and not repeated:
        document.findings.add(paths.pointer, "duplicate_keys")
    return repeated


def _are_denied(paths: Mapping[str, Any], repeated: Mapping[str, Sequence[Any]]) -> bool:
    # Where only some paths are repeated, these are denied one by one and the others stay usable.
    ignored = UNTRUSTED if repeated else None
    return is_denied({name: node for name, node in paths.items() if name != ignored})


def _path_items(paths: Place, template: str, repeated: Mapping[str, Sequence[Any]]) -> list[Place]:
    last = paths.child(template)
    return [last, *(Place(node, last.pointer) for node in repeated.get(template, ()))]


def _operations_in(
    document: OpenApiDocument, template: str, path_item: Place, *, denied: bool
) -> Iterator[_FoundOperation]:
    """Yield the operations of a path item; one for each method where the path item itself cannot be read."""
    path_items = document.follow(path_item)
    if not path_items:
        for method in METHODS:
            yield _unread_operation(template, method, (path_item,), denied=denied)
        return
    for method in METHODS:
        if isinstance(path_items[-1].node.get(method), dict):
            yield _FoundOperation(template, method, path_items, denied)
        elif any(method in each.node for each in path_items):
            document.findings.add(path_items[-1].child(method).pointer, "unusable_operation")
            yield _unread_operation(template, method, path_items, denied=denied)


def _unread_operation(
    template: str, method: str, path_items: tuple[Place, ...], *, denied: bool
) -> _FoundOperation:
    """Return an operation that declares nothing, in the place of one that cannot be read."""
    *before, last = path_items
    node = last.node if isinstance(last.node, dict) else {}
    empty = Place({**node, method: {}}, last.pointer)
    return _FoundOperation(template, method, (*before, empty), denied, is_read=False)


def _operation(
    document: OpenApiDocument, found: _FoundOperation, uses_of_id: Counter[str]
) -> Operation | None:
    template, method, path_items = found.template, found.method, found.path_items
    place = found.place
    segments = parse_template(path_of(template))
    if segments is None:
        document.findings.add(place.pointer, "unusable_path")
        return None
    is_printable = _CONTROL_CHARS.search(found.declared_id) is None
    is_id = is_printable and 0 < len(found.declared_id) <= _ID_LENGTH_MAX
    has_own_id = is_id and uses_of_id[found.declared_id] == 1
    if found.is_read and not has_own_id:
        document.findings.add(place.pointer, "operation_id_repeated" if is_id else "no_operation_id")
    denied_above = _is_denied_above(document, found)
    return Operation(
        document=document,
        id=found.declared_id
        if is_id
        else _CONTROL_CHARS.sub("\N{REPLACEMENT CHARACTER}", f"{method.upper()} {template}"),
        method=method.upper(),
        template=template,
        segments=segments,
        place=place,
        path_items=path_items,
        servers=_servers(document, (place, path_items[-1], Place(document.root, ""))),
        has_own_id=has_own_id,
        denied=denied_above or is_denied(place.node),
        # `x-auditable: false` on an operation says "record that it happened"; any other denial covers its path too.
        path_denied=denied_above or place.node.get("x-sensitive", False) is not False,
    )


def _is_denied_above(document: OpenApiDocument, found: _FoundOperation) -> bool:
    """Whether an operation is denied by what stands around it, or because its declaration is uncertain (rule 5)."""
    if any(found.method in each.node for each in found.path_items[:-1]):
        # The operation also stands beside the path item's `$ref`, and OpenAPI does not say which one holds.
        document.findings.add(found.path_items[0].child(found.method).pointer, "operation_repeated")
        return True
    return found.denied or not found.is_read or any(is_denied(each.node) for each in found.path_items)


def parse_template(template: str) -> tuple[Segment, ...] | None:
    """Return the segments of a path template; None where one could never be matched or read."""
    segments = tuple(map(_segment, template[1:].split("/")))
    if any(segment.text == "" for segment in segments[:-1]):
        return None
    if any(re.search(r"[{}]", VARIABLE.sub("", segment.text)) for segment in segments):
        return None
    literals = "/" + "/".join(segment.text for segment in segments if segment.rank == LITERAL)
    return segments if split_path(literals).is_complete else None


def _segment(text: str) -> Segment:
    names = tuple(VARIABLE.findall(text))
    if not names:
        return Segment(text, LITERAL, literal=unquote(text))
    if VARIABLE.fullmatch(text):
        return Segment(text, TEMPLATED, names)
    literals = VARIABLE.split(text)[::2]
    # RE2, because clients choose the text that it searches.
    pattern = re2.compile("^" + "(.+)".join(re2.escape(unquote(each)) for each in literals) + "$")
    return Segment(text, PARTLY_LITERAL, names, pattern=pattern)


def _servers(document: OpenApiDocument, levels: tuple[Place, ...]) -> tuple[Server, ...]:
    """Return the servers of an operation, below the configured base paths where there are any."""
    servers = _declared_servers(document, levels)
    if not document.config.base_paths:
        return servers
    hosts = dict.fromkeys((each.host, each.host_pattern) for each in servers)
    bases = [_configured_base_path(document, each) for each in document.config.base_paths]
    return tuple(Server(host, pattern, base) for host, pattern in hosts for base in bases)


def _configured_base_path(document: OpenApiDocument, path: str) -> tuple[Segment, ...]:
    base = _base_path(path)
    if base is None:
        raise StartupError(
            f"redaction.documents[].base_paths of {document.config.path}: remove the characters that no request's path may hold."
        )
    return base


def _declared_servers(document: OpenApiDocument, levels: tuple[Place, ...]) -> tuple[Server, ...]:
    """Return the servers of the nearest level that lists any; where none does, the root path of any host."""
    for level in levels:
        listed = level.child("servers")
        if isinstance(listed.node, list) and listed.node:
            places = [listed.child(index) for index in range(len(listed.node))]
            return tuple(server for place in places for server in _expanded(document, place))
    return (Server(None, None, ()),)


def _expanded(document: OpenApiDocument, place: Place) -> Iterator[Server]:
    """Yield a server once for each combination of its variables' listed values."""
    url = place.child("url").node
    if not isinstance(url, str):
        document.findings.add(place.pointer, "unusable_server")
        return
    names = sorted(set(VARIABLE.findall(url)))
    values_of_each = [_variable_values(place.child("variables", name)) for name in names]
    for count, values in enumerate(product(*values_of_each)):
        server = _server(url, dict(zip(names, values, strict=True)))
        if server is None or count >= _SERVER_FORMS_MAX:
            document.findings.add(place.pointer, "unusable_server")
            return
        yield server


def _variable_values(variable: Place) -> list[str | None]:
    """Return a server variable's values. None stands for any text of one segment, where the document lists no values.

    What may stand for several segments, or none, is taken literally.
    """
    listed, default = variable.child("enum").node, variable.child("default").node
    if isinstance(listed, list) and listed:
        values = dict.fromkeys(map(str, listed))
        if isinstance(default, str):
            values[default] = None
        return list(values)
    if isinstance(default, str) and "/" in default:
        return [default]
    return [None, ""] if default == "" else [None]


def _server(url: str, values: Mapping[str, str | None]) -> Server | None:
    """Return the server at a URL template; None where its base path cannot be read."""
    for name, value in values.items():
        if value is not None:
            url = url.replace("{" + name + "}", value)
    authority, path = _split_server_url(url)
    base = _base_path(path)
    if base is None:
        return None
    host = authority.rpartition("@")[2]
    if "{" not in authority:
        # A host that cannot be read is no request's.
        return Server(parse_host(host) if host else None, None, base)
    literals = VARIABLE.split(re.sub(r":[^:]*$", "", host).lower())[::2]
    pattern = "[a-z0-9_-]+".join(re2.escape(each) for each in literals)
    return Server(None, re2.compile(f"^{pattern}$"), base)


def _split_server_url(url: str) -> tuple[str, str]:
    """Return authority and path; the authority is empty where the URL is a path alone."""
    scheme, separator, rest = url.partition("//")
    if not separator or not (scheme == "" or scheme.endswith(":")):
        return "", url
    authority, _, path = rest.partition("/")
    return authority, path


def _base_path(path: str) -> tuple[Segment, ...] | None:
    steps = [step for step in path.partition("?")[0].split("/") if step not in ("", ".")]
    return parse_template("/" + "/".join(steps)) if steps else ()
