"""The operations of a document as it declares them: paths, methods, servers. What cannot be trusted is left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple
from urllib.parse import unquote

import re2

from redactor.branches import is_denied
from redactor.document import UNTRUSTED, LoadedDocument, Place, Repeated
from redactor.plan import Pattern
from redactor.url import read_host, split_path

METHODS = ("get", "head", "post", "put", "patch", "delete", "options", "trace")
_VARIABLE = re.compile(r"\{([^{}]+)\}")
_SERVER_FORMS_MAX = 64
_ID_LENGTH_MAX = 256

TEMPLATED, PARTLY_LITERAL, LITERAL = 0, 1, 2


class Segment(NamedTuple):
    """One segment of a template."""

    text: str
    """As the document writes it."""
    rank: int
    """How literal it is; more is matched first."""
    names: tuple[str, ...] = ()
    literal: str = ""
    """What a literal one looks like decoded."""
    pattern: Pattern | None = None
    """What a partly literal one matches, a group for each name."""


class Server(NamedTuple):
    """Where an operation is served: a host (None: any) and the base path's segments."""

    host: str | None
    host_pattern: Pattern | None
    base: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One operation as declared. `denied`: nothing of bodies and query; `path_denied`: nor of path parameters."""

    document: LoadedDocument
    id: str
    method: str
    template: str
    segments: tuple[Segment, ...]
    place: Place
    path_items: tuple[Place, ...]
    servers: tuple[Server, ...]
    has_own_id: bool
    """Whether the id is the document's and no other operation has it, so that configuration may name it."""
    denied: bool
    path_denied: bool


class _Found(NamedTuple):
    """An operation where it was found. `denied`: by what stands above its path item."""

    template: str
    method: str
    items: tuple[Place, ...]
    denied: bool
    is_read: bool = True
    """Whether it could be read. One that could not is matched and denied: else a less literal path would speak for it."""


def operations_of(document: LoadedDocument) -> list[Operation]:
    """Return every operation whose path can be read, in document order; of a path that is named twice, those that stand
    in any of its path items.
    """
    paths = Place(document.root, "").child("paths")
    if not isinstance(paths.node, dict):
        return []
    repeated = _repeated_paths(paths.node)
    for pointer in [paths.child(template).pointer for template in repeated]:
        document.findings.add(pointer, "duplicate_keys")
    if UNTRUSTED in paths.node and not repeated:
        document.findings.add(paths.pointer, "duplicate_keys")
    trusted = {name: node for name, node in paths.node.items() if not (repeated and name == UNTRUSTED)}
    above_denied = is_denied(document.root) or is_denied(trusted)
    found = [
        each
        for template in paths.node
        if template.startswith("/")
        for item in (paths.child(template), *_earlier(paths, template, repeated))
        for each in _found(document, template, item, denied=above_denied or template in repeated)
    ]
    ids = Counter(str(each.items[-1].node[each.method].get("operationId", "")) for each in found)
    return [operation for each in found if (operation := _operation(document, each, ids)) is not None]


def _found(document: LoadedDocument, template: str, item: Place, *, denied: bool) -> Iterator[_Found]:
    """Yield the operations of a path item; one for every method where it cannot be read itself."""
    items = document.follow(item)
    for method in METHODS:
        if items and isinstance(items[-1].node.get(method), dict):
            yield _Found(template, method, items, denied)
        elif not items or any(method in each.node for each in items):
            if items:
                document.findings.add(items[-1].child(method).pointer, "unusable_operation")
            *before, last = items or (item,)
            said = last.node if isinstance(last.node, dict) else {}
            unread = Place({**said, method: {}}, last.pointer)
            yield _Found(template, method, (*before, unread), denied, is_read=False)


def _repeated_paths(paths: Mapping[str, Any]) -> Mapping[str, Sequence[Any]]:
    """Return what paths that are named more than once stood for before; nothing where more than that is wrong."""
    told = paths.get(UNTRUSTED)
    if isinstance(told, Repeated) and all(name.startswith("/") for name in told.earlier):
        return told.earlier
    return {}


def _earlier(paths: Place, template: str, repeated: Mapping[str, Sequence[Any]]) -> list[Place]:
    pointer = paths.child(template).pointer
    return [Place(node, pointer) for node in repeated.get(template, ())]


def _operation(document: LoadedDocument, found: _Found, ids: Counter[str]) -> Operation | None:
    template, method, items, item_denied, is_read = found
    place = items[-1].child(method)
    segments = parse_template(template)
    if segments is None:
        document.findings.add(place.pointer, "unusable_path")
        return None
    declared_id = str(place.node.get("operationId", ""))
    is_id = 0 < len(declared_id) <= _ID_LENGTH_MAX
    is_alone = ids[declared_id] == 1
    if is_read and not (is_id and is_alone):
        document.findings.add(place.pointer, "operation_id_repeated" if is_id else "no_operation_id")
    item_denied = item_denied or not is_read or any(is_denied(item.node) for item in items)
    if any(method in item.node for item in items[:-1]):
        # Beside the path item's `$ref` the operation stands a second time, and nobody says which one holds.
        document.findings.add(items[0].child(method).pointer, "operation_repeated")
        item_denied = True
    return Operation(
        document=document,
        id=declared_id if is_id else f"{method.upper()} {template}",
        method=method.upper(),
        template=template,
        segments=segments,
        place=place,
        path_items=items,
        servers=_servers(document, (place, items[-1], Place(document.root, ""))),
        has_own_id=is_id and is_alone,
        denied=item_denied or is_denied(place.node),
        # `x-auditable: false` on an operation says "record that it happened"; any other denial covers its path too.
        path_denied=item_denied or place.node.get("x-sensitive", False) is not False,
    )


def parse_template(template: str) -> tuple[Segment, ...] | None:
    """Return the segments of a path template; None where one could never be matched or read."""
    segments = tuple(map(_segment, template[1:].split("/")))
    if any(segment.text == "" for segment in segments[:-1]):
        return None
    if any(re.search(r"[{}?#]", _VARIABLE.sub("", segment.text)) for segment in segments):
        return None
    literals = "/" + "/".join(segment.text for segment in segments if segment.rank == LITERAL)
    return segments if split_path(literals).are_all else None


def _segment(text: str) -> Segment:
    names = tuple(_VARIABLE.findall(text))
    if not names:
        return Segment(text, LITERAL, literal=unquote(text))
    if _VARIABLE.fullmatch(text):
        return Segment(text, TEMPLATED, names)
    literals = _VARIABLE.split(text)[::2]
    pattern = re2.compile("^" + "(.+)".join(re2.escape(unquote(each)) for each in literals) + "$")
    return Segment(text, PARTLY_LITERAL, names, pattern=pattern)


def _servers(document: LoadedDocument, levels: tuple[Place, ...]) -> tuple[Server, ...]:
    """Return the servers of the nearest level that lists any; the root of any host where none does."""
    for level in levels:
        listed = level.child("servers")
        if isinstance(listed.node, list) and listed.node:
            places = [listed.child(index) for index in range(len(listed.node))]
            return tuple(server for place in places for server in _forms(document, place))
    return (Server(None, None, ()),)


def _forms(document: LoadedDocument, place: Place) -> Iterator[Server]:
    """Yield a server once for each combination of its variables' listed values."""
    url = place.child("url").node
    names = sorted(set(_VARIABLE.findall(url))) if isinstance(url, str) else []
    choices = [_choices(place.child("variables", name)) for name in names]
    for count, values in enumerate(product(*choices)):
        form = _server(url, dict(zip(names, values, strict=True))) if isinstance(url, str) else None
        if form is None or count >= _SERVER_FORMS_MAX:
            document.findings.add(place.pointer, "unusable_server")
            return
        yield form


def _choices(variable: Place) -> list[str | None]:
    """Return a server variable's values; None stands for any text where the document lists none."""
    listed = variable.child("enum").node
    if isinstance(listed, list) and listed:
        return [str(each) for each in listed]
    return [None, ""] if variable.child("default").node == "" else [None]


def _server(url: str, values: dict[str, str | None]) -> Server | None:
    for name, value in values.items():
        if value is not None:
            url = url.replace("{" + name + "}", value)
    scheme, separator, rest = url.partition("//")
    authority, path = (
        rest.partition("/")[::2] if separator and (scheme == "" or scheme.endswith(":")) else ("", url)
    )
    steps = [step for step in path.partition("?")[0].split("/") if step not in ("", ".")]
    base = parse_template("/" + "/".join(steps)) if steps else ()
    if base is None:
        return None
    if "{" in authority:
        host = re.sub(r":[^:]*$", "", authority.rpartition("@")[2]).lower()
        parts = (re2.escape(each) for each in _VARIABLE.split(host)[::2])
        return Server(None, re2.compile("^" + "[a-z0-9_-]+".join(parts) + "$"), base)
    return Server(read_host(authority.rpartition("@")[2]) or None, None, base)
