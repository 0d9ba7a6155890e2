"""The nodes of an OpenAPI document by kind, and a census of its marks and denials.

The document is taken as it is written: no reference is followed, so each mark counts once however often it is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from redactor.compile.json_types import SCALAR_TYPES
from redactor.openapi.document import UNTRUSTED, OpenApiDocument, Place
from redactor.openapi.marks import is_denied
from redactor.openapi.operations import METHODS

_KEYWORDS = ("x-auditable", "x-sensitive")
# The values of these keywords are data: what looks like a mark in them is none.
_EXAMPLES = frozenset({"example", "examples", "default", "enum", "const"})
_COMPOSITIONS = frozenset({"allOf", "oneOf", "anyOf"})
_ONE, _LIST, _MAP = "one", "list", "map"


class NodeKind(StrEnum):
    """What a node of a document is. The values are names in the JSON report."""

    DOCUMENT = "document"
    COMPONENTS = "components"
    PATH_ITEM = "path item"
    OPERATION = "operation"
    PARAMETER = "parameter"
    HEADER = "header"
    REQUEST_BODY = "request body"
    RESPONSE = "response"
    MEDIA_TYPE = "media type"
    ENCODING = "encoding"
    CALLBACK = "callback"
    SCHEMA = "schema"
    DENYING_SCHEMA = "schema that only denies"
    """Under `not`, in a conditional, in `contains`, `unevaluated…` or a dependent schema."""
    OTHER = "other"


class _Part(NamedTuple):
    """A keyword whose value is one node, a list of nodes, or a map of names to nodes of a kind."""

    keyword: str
    container: str
    kind: NodeKind


def _ones(kind: NodeKind, *keywords: str) -> tuple[_Part, ...]:
    return tuple(_Part(keyword, _ONE, kind) for keyword in keywords)


def _lists(kind: NodeKind, *keywords: str) -> tuple[_Part, ...]:
    return tuple(_Part(keyword, _LIST, kind) for keyword in keywords)


def _maps(kind: NodeKind, *keywords: str) -> tuple[_Part, ...]:
    return tuple(_Part(keyword, _MAP, kind) for keyword in keywords)


# The fields of each object of the OpenAPI specification, and of JSON Schema 2020-12, that hold further nodes.
_OF_PARAMETER = (*_ones(NodeKind.SCHEMA, "schema"), *_maps(NodeKind.MEDIA_TYPE, "content"))
_OF_SCHEMA = (
    *_maps(NodeKind.SCHEMA, "properties", "patternProperties", "$defs", "definitions"),
    *_lists(NodeKind.SCHEMA, "allOf", "oneOf", "anyOf", "prefixItems"),
    *_ones(NodeKind.SCHEMA, "items", "additionalProperties", "propertyNames"),
    *_ones(NodeKind.DENYING_SCHEMA, "not", "if", "then", "else", "contains"),
    *_ones(NodeKind.DENYING_SCHEMA, "unevaluatedProperties", "unevaluatedItems"),
    *_maps(NodeKind.DENYING_SCHEMA, "dependentSchemas", "dependencies"),
)
_PARTS: Mapping[NodeKind, tuple[_Part, ...]] = {
    NodeKind.DOCUMENT: (
        *_maps(NodeKind.PATH_ITEM, "paths", "webhooks"),
        *_ones(NodeKind.COMPONENTS, "components"),
    ),
    NodeKind.COMPONENTS: (
        *_maps(NodeKind.SCHEMA, "schemas"),
        *_maps(NodeKind.PARAMETER, "parameters"),
        *_maps(NodeKind.HEADER, "headers"),
        *_maps(NodeKind.REQUEST_BODY, "requestBodies"),
        *_maps(NodeKind.RESPONSE, "responses"),
        *_maps(NodeKind.PATH_ITEM, "pathItems"),
        *_maps(NodeKind.CALLBACK, "callbacks"),
    ),
    NodeKind.PATH_ITEM: (
        *_lists(NodeKind.PARAMETER, "parameters"),
        *_ones(NodeKind.OPERATION, *METHODS),
    ),
    NodeKind.OPERATION: (
        *_lists(NodeKind.PARAMETER, "parameters"),
        *_ones(NodeKind.REQUEST_BODY, "requestBody"),
        *_maps(NodeKind.RESPONSE, "responses"),
        *_maps(NodeKind.CALLBACK, "callbacks"),
    ),
    NodeKind.PARAMETER: _OF_PARAMETER,
    NodeKind.HEADER: _OF_PARAMETER,
    NodeKind.REQUEST_BODY: _maps(NodeKind.MEDIA_TYPE, "content"),
    NodeKind.RESPONSE: (*_maps(NodeKind.MEDIA_TYPE, "content"), *_maps(NodeKind.HEADER, "headers")),
    NodeKind.MEDIA_TYPE: (*_ones(NodeKind.SCHEMA, "schema"), *_maps(NodeKind.ENCODING, "encoding")),
    NodeKind.ENCODING: _maps(NodeKind.HEADER, "headers"),
    NodeKind.SCHEMA: _OF_SCHEMA,
    # Below a schema that only denies, nothing can grant.
    NodeKind.DENYING_SCHEMA: tuple(part._replace(kind=NodeKind.DENYING_SCHEMA) for part in _OF_SCHEMA),
}


class DocumentNode(NamedTuple):
    """A mapping of the document whose keys are keywords, and what kind of node it is."""

    place: Place
    kind: NodeKind
    in_query: bool
    """Whether it is a query parameter or part of one."""
    in_header: bool = False
    """Whether it is a header or cookie, or part of one: no mark there has an effect."""

    @property
    def is_mark(self) -> bool:
        """Whether it is marked with JSON true."""
        return self.place.node.get("x-auditable") is True


def annotated_nodes(document: OpenApiDocument) -> list[DocumentNode]:
    """Return every node that has `x-auditable` or `x-sensitive`, in document order.

    Nodes in places that OpenAPI does not define come last, with the kind OTHER.
    """
    visited: set[int] = set()
    known = [each for each in _walk(document, visited) if _is_annotated(each.place.node)]
    elsewhere = {id(node) for node in mappings_of(document.root) if _is_annotated(node)} - visited
    if not elsewhere:
        return known
    places = [place for place in _every_mapping(document) if id(place.node) in elsewhere]
    return known + [DocumentNode(place, NodeKind.OTHER, in_query=False) for place in places]


def document_nodes(document: OpenApiDocument) -> Iterator[DocumentNode]:
    """Yield every node that OpenAPI and JSON Schema define, in document order."""
    return _walk(document, set())


def _walk(document: OpenApiDocument, visited: set[int]) -> Iterator[DocumentNode]:
    """Yield the nodes of a document; the ids of all mappings passed, nodes or not, are added to `visited`."""
    waiting = [DocumentNode(Place(document.root, ""), NodeKind.DOCUMENT, in_query=False)]
    while waiting:
        place, kind, in_query, in_header = waiting.pop()
        if not isinstance(place.node, dict) or id(place.node) in visited:
            continue
        visited.add(id(place.node))
        if kind is NodeKind.PARAMETER:
            in_query = place.node.get("in") == "query"
            in_header = place.node.get("in") in ("header", "cookie")
        elif kind is NodeKind.HEADER:
            in_header = True
        yield DocumentNode(place, kind, in_query, in_header)
        # A stack returns the last first, so the parts are added in reverse to come out in document order.
        parts = [
            DocumentNode(part, part_kind, in_query, in_header)
            for part, part_kind in _parts_of(place, kind, visited)
        ]
        waiting.extend(reversed(parts))


def _parts_of(place: Place, kind: NodeKind, visited: set[int]) -> Iterator[tuple[Place, NodeKind]]:
    if kind is NodeKind.CALLBACK:
        # Its keys are expressions for URLs, so no keyword can be looked up.
        for expression in place.node:
            yield place.child(expression), NodeKind.PATH_ITEM
    for part in _PARTS.get(kind, ()):
        if part.keyword in place.node:
            for child in _values_of(place.child(part.keyword), part.container, visited):
                yield child, part.kind


def _values_of(value: Place, container: str, visited: set[int]) -> Iterator[Place]:
    if container == _ONE:
        yield value
    elif container == _LIST and isinstance(value.node, list):
        for index in range(len(value.node)):
            yield value.child(index)
    elif container == _MAP and isinstance(value.node, dict):
        # The keys of a map are names: a property may well be called `x-auditable`, and that is no mark.
        visited.add(id(value.node))
        for name in value.node:
            # The loader adds this key to a mapping that it does not trust.
            if name != UNTRUSTED:
                yield value.child(name)


def mappings_of(root: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every mapping of a document but those in examples and the like, in no particular order.

    Without pointers this is several times as fast as `_every_mapping`, and most documents need no more.
    """
    visited: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in visited or not isinstance(node, dict | list):
            continue
        visited.add(id(node))
        if isinstance(node, dict):
            yield node
            waiting.extend(part for key, part in node.items() if key not in _EXAMPLES)
        else:
            waiting.extend(node)


def _every_mapping(document: OpenApiDocument) -> Iterator[Place]:
    """Yield what `mappings_of` yields, with pointers and in document order."""
    visited: set[int] = set()
    waiting = [Place(document.root, "")]
    while waiting:
        place = waiting.pop()
        if id(place.node) in visited or not isinstance(place.node, dict | list):
            continue
        visited.add(id(place.node))
        if isinstance(place.node, dict):
            yield place
            waiting.extend(place.child(key) for key in reversed(place.node) if key not in _EXAMPLES)
        else:
            waiting.extend(place.child(index) for index in reversed(range(len(place.node))))


def _is_annotated(node: Mapping[str, Any]) -> bool:
    return any(keyword in node for keyword in _KEYWORDS)


class Shape(StrEnum):
    """What a marked node describes. The values are names in the JSON report."""

    SCALAR = "scalars"
    ENUM = "enumerated scalars"
    OBJECT = "objects with properties"
    MAP = "maps"
    FREE_FORM = "free-form objects"
    ARRAY_OF_SCALARS = "arrays of scalars"
    ARRAY_OF_OTHERS = "arrays of objects or compositions"
    REFERENCE = "wrappers around a reference"
    UNTYPED = "without one definite type"
    NO_SCHEMA = "not on a schema"


def shape_of(document: OpenApiDocument, marked: DocumentNode) -> Shape:
    """Return what a marked node describes, judged by its own keywords.

    Only for the items of an array are references followed.
    """
    if marked.kind is NodeKind.PARAMETER:
        schema = marked.place.child("schema")
        return _schema_shape(document, schema) if isinstance(schema.node, dict) else Shape.UNTYPED
    if marked.kind not in (NodeKind.SCHEMA, NodeKind.DENYING_SCHEMA):
        return Shape.NO_SCHEMA
    if _wraps_reference(marked.place.node):
        return Shape.REFERENCE
    return _schema_shape(document, marked.place)


def _wraps_reference(node: Mapping[str, Any]) -> bool:
    """Whether a schema is a `$ref`, or an `allOf` of one reference, as OpenAPI 3.0 needs it to add keywords."""
    if "$ref" in node:
        return True
    branches = node.get("allOf")
    if not isinstance(branches, list) or len(branches) != 1:
        return False
    return isinstance(branches[0], dict) and "$ref" in branches[0]


def _schema_shape(document: OpenApiDocument, place: Place) -> Shape:
    node = place.node
    kind = _only_type(node)
    if kind in SCALAR_TYPES:
        return Shape.ENUM if "enum" in node else Shape.SCALAR
    if kind == "object":
        return _object_shape(node)
    if kind == "array" and isinstance(node.get("items"), dict):
        return _array_shape(document, place.child("items"))
    return Shape.UNTYPED


def _array_shape(document: OpenApiDocument, items: Place) -> Shape:
    if _COMPOSITIONS & items.node.keys():
        return Shape.ARRAY_OF_OTHERS
    chain = document.follow(items)
    is_scalar = bool(chain) and _only_type(chain[-1].node) in SCALAR_TYPES
    return Shape.ARRAY_OF_SCALARS if is_scalar else Shape.ARRAY_OF_OTHERS


def _object_shape(node: Mapping[str, Any]) -> Shape:
    if node.get("properties"):
        return Shape.OBJECT
    is_map = isinstance(node.get("additionalProperties"), dict) or node.get("patternProperties")
    return Shape.MAP if is_map else Shape.FREE_FORM


def _only_type(node: Mapping[str, Any]) -> str | None:
    """Return the one type that a schema names besides `null`; None if it names several or none."""
    declared = node.get("type")
    listed = declared if isinstance(declared, list) else [declared]
    names = {name for name in listed if isinstance(name, str)} - {"null"}
    return names.pop() if len(names) == 1 else None


class Census(NamedTuple):
    """How many marks and denials a document has, and on what."""

    marks: int
    by_shape: Mapping[Shape, int]
    by_kind: Mapping[NodeKind, int]
    on_query_parameters: int
    denials: int
    """Nodes whose `x-auditable` has any value but true."""
    sensitive: int
    marked_and_denied: int
    recursive: int
    """Named schemas that refer to themselves, directly or through others."""


def census_of(document: OpenApiDocument, annotated: Sequence[DocumentNode]) -> Census:
    """Count the marks and denials of a document; `annotated` is what `annotated_nodes` returns for it."""
    marks = [each for each in annotated if each.is_mark]
    return Census(
        marks=len(marks),
        by_shape=Counter(shape_of(document, each) for each in marks),
        by_kind=Counter(each.kind for each in marks),
        on_query_parameters=sum(each.in_query for each in marks),
        denials=sum(each.place.node.get("x-auditable", True) is not True for each in annotated),
        sensitive=sum(each.place.node.get("x-sensitive", False) is not False for each in annotated),
        marked_and_denied=sum(is_denied(each.place.node) for each in marks),
        recursive=len(_recursive_schemas(document)),
    )


def _recursive_schemas(document: OpenApiDocument) -> list[str]:
    """Return the names of the schemas in components that refer back to themselves."""
    listed = Place(document.root, "").child("components", "schemas").node
    schemas: dict[str, Any] = listed if isinstance(listed, dict) else {}
    references = {name: _names_referenced(schema) & schemas.keys() for name, schema in schemas.items()}
    return [name for name in schemas if _reaches_itself(name, references)]


def _reaches_itself(name: str, references: Mapping[str, set[str]]) -> bool:
    visited: set[str] = set()
    waiting = list(references[name])
    while waiting and name not in visited:
        reached = waiting.pop()
        if reached not in visited:
            visited.add(reached)
            waiting.extend(references[reached])
    return name in visited


def _names_referenced(schema: Any) -> set[str]:
    prefix = "#/components/schemas/"
    names: set[str] = set()
    for node in mappings_of(schema):
        reference = node.get("$ref")
        if isinstance(reference, str) and reference.startswith(prefix):
            names.add(reference.removeprefix(prefix).replace("~1", "/").replace("~0", "~"))
    return names
