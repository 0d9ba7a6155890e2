"""Every mark and denial that a document writes, and on what kind of thing it stands. Nothing is followed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from redactor.branches import SCALAR_KINDS, is_denied
from redactor.document import UNTRUSTED, LoadedDocument, Place
from redactor.operations import METHODS

_KEYWORDS = ("x-auditable", "x-sensitive")
_EXAMPLES = frozenset({"example", "examples", "default", "enum", "const"})
_COMPOSITIONS = frozenset({"allOf", "oneOf", "anyOf"})
_ONE, _LIST, _MAP = "one", "list", "map"


class Thing(StrEnum):
    """What a node of a document is."""

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
    keyword: str
    shape: str
    thing: Thing


_OF_PARAMETER = (_Part("schema", _ONE, Thing.SCHEMA), _Part("content", _MAP, Thing.MEDIA_TYPE))
_OF_SCHEMA = (
    *(
        _Part(keyword, _MAP, Thing.SCHEMA)
        for keyword in ("properties", "patternProperties", "$defs", "definitions")
    ),
    *(_Part(keyword, _LIST, Thing.SCHEMA) for keyword in ("allOf", "oneOf", "anyOf", "prefixItems")),
    *(_Part(keyword, _ONE, Thing.SCHEMA) for keyword in ("items", "additionalProperties", "propertyNames")),
    *(
        _Part(keyword, _ONE, Thing.DENYING_SCHEMA)
        for keyword in ("not", "if", "then", "else", "contains", "unevaluatedProperties", "unevaluatedItems")
    ),
    *(_Part(keyword, _MAP, Thing.DENYING_SCHEMA) for keyword in ("dependentSchemas", "dependencies")),
)
_PARTS: Mapping[Thing, tuple[_Part, ...]] = {
    Thing.DOCUMENT: (
        _Part("paths", _MAP, Thing.PATH_ITEM),
        _Part("webhooks", _MAP, Thing.PATH_ITEM),
        _Part("components", _ONE, Thing.COMPONENTS),
    ),
    Thing.COMPONENTS: (
        _Part("schemas", _MAP, Thing.SCHEMA),
        _Part("parameters", _MAP, Thing.PARAMETER),
        _Part("headers", _MAP, Thing.HEADER),
        _Part("requestBodies", _MAP, Thing.REQUEST_BODY),
        _Part("responses", _MAP, Thing.RESPONSE),
        _Part("pathItems", _MAP, Thing.PATH_ITEM),
        _Part("callbacks", _MAP, Thing.CALLBACK),
    ),
    Thing.PATH_ITEM: (
        _Part("parameters", _LIST, Thing.PARAMETER),
        *(_Part(method, _ONE, Thing.OPERATION) for method in METHODS),
    ),
    Thing.OPERATION: (
        _Part("parameters", _LIST, Thing.PARAMETER),
        _Part("requestBody", _ONE, Thing.REQUEST_BODY),
        _Part("responses", _MAP, Thing.RESPONSE),
        _Part("callbacks", _MAP, Thing.CALLBACK),
    ),
    Thing.PARAMETER: _OF_PARAMETER,
    Thing.HEADER: _OF_PARAMETER,
    Thing.REQUEST_BODY: (_Part("content", _MAP, Thing.MEDIA_TYPE),),
    Thing.RESPONSE: (_Part("content", _MAP, Thing.MEDIA_TYPE), _Part("headers", _MAP, Thing.HEADER)),
    Thing.MEDIA_TYPE: (_Part("schema", _ONE, Thing.SCHEMA), _Part("encoding", _MAP, Thing.ENCODING)),
    Thing.ENCODING: (_Part("headers", _MAP, Thing.HEADER),),
    Thing.SCHEMA: _OF_SCHEMA,
    Thing.DENYING_SCHEMA: tuple(part._replace(thing=Thing.DENYING_SCHEMA) for part in _OF_SCHEMA),
}


class Site(NamedTuple):
    """A node of which it is known what it is, such as one that has a mark or a denial written on it."""

    place: Place
    thing: Thing
    in_query: bool
    """Whether it is a query parameter or the schema of one."""

    @property
    def is_mark(self) -> bool:
        """Whether it is marked with JSON true."""
        return self.place.node.get("x-auditable") is True


class _Waiting(NamedTuple):
    place: Place
    thing: Thing
    in_query: bool


def sites_of(document: LoadedDocument) -> list[Site]:
    """Return every node with `x-auditable` or `x-sensitive` written on it, in document order."""
    visited: set[int] = set()
    known = [each for each in _walk(document, visited) if _is_written_on(each.place.node)]
    strays = {id(node) for node in mappings_of(document.root) if _is_written_on(node)} - visited
    if not strays:
        return known
    places = [place for place in _everything(document) if id(place.node) in strays]
    return known + [Site(place, Thing.OTHER, in_query=False) for place in places]


def nodes_of(document: LoadedDocument) -> Iterator[Site]:
    """Yield every node whose keys are keywords, and not names, in document order."""
    return _walk(document, set())


def _walk(document: LoadedDocument, visited: set[int]) -> Iterator[Site]:
    waiting = [_Waiting(Place(document.root, ""), Thing.DOCUMENT, in_query=False)]
    while waiting:
        place, thing, in_query = waiting.pop()
        if not isinstance(place.node, dict) or id(place.node) in visited:
            continue
        visited.add(id(place.node))
        if thing is Thing.PARAMETER:
            in_query = place.node.get("in") == "query"
        yield Site(place, thing, in_query)
        present = [each for each in _PARTS.get(thing, ()) if each.keyword in place.node]
        parts = [part for each in present for part in _parts(place, each, visited)]
        if thing is Thing.CALLBACK:
            parts = [(place.child(name), Thing.PATH_ITEM) for name in place.node]
        waiting.extend(_Waiting(part, kind, in_query) for part, kind in reversed(parts))


def _parts(place: Place, part: _Part, visited: set[int]) -> Iterator[tuple[Place, Thing]]:
    listed = place.child(part.keyword)
    if part.shape == _ONE:
        yield listed, part.thing
    elif part.shape == _LIST and isinstance(listed.node, list):
        for index in range(len(listed.node)):
            yield listed.child(index), part.thing
    elif part.shape == _MAP and isinstance(listed.node, dict):
        # Its keys are names, so that one of them may well be `x-auditable`.
        visited.add(id(listed.node))
        for name in listed.node:
            if name != UNTRUSTED:
                yield listed.child(name), part.thing


def mappings_of(root: Any) -> Iterator[Mapping[str, Any]]:
    """Yield what `_everything` does, without its pointers: a large document seldom needs them."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen or not isinstance(node, dict | list):
            continue
        seen.add(id(node))
        if isinstance(node, dict):
            yield node
            waiting.extend(part for key, part in node.items() if key not in _EXAMPLES)
        else:
            waiting.extend(node)


def _everything(document: LoadedDocument) -> Iterator[Place]:
    """Yield every mapping but those within examples and the like."""
    seen: set[int] = set()
    waiting = [Place(document.root, "")]
    while waiting:
        place = waiting.pop()
        if id(place.node) in seen or not isinstance(place.node, dict | list):
            continue
        seen.add(id(place.node))
        if isinstance(place.node, dict):
            yield place
            waiting.extend(place.child(key) for key in reversed(place.node) if key not in _EXAMPLES)
        else:
            waiting.extend(place.child(index) for index in reversed(range(len(place.node))))


def _is_written_on(node: Mapping[str, Any]) -> bool:
    return any(keyword in node for keyword in _KEYWORDS)


class Shape(StrEnum):
    """What a marked node describes."""

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


def shape_of(document: LoadedDocument, site: Site) -> Shape:
    """Return what a marked node describes, by its own keywords; of an array's items, what they refer to as well."""
    node = site.place.node
    if site.thing is Thing.PARAMETER:
        schema = site.place.child("schema")
        return _shape(document, schema) if isinstance(schema.node, dict) else Shape.UNTYPED
    if site.thing not in (Thing.SCHEMA, Thing.DENYING_SCHEMA):
        return Shape.NO_SCHEMA
    return Shape.REFERENCE if _wraps_reference(node) else _shape(document, site.place)


def _wraps_reference(node: Mapping[str, Any]) -> bool:
    branches = node.get("allOf")
    alone = isinstance(branches, list) and len(branches) == 1 and isinstance(branches[0], dict)
    return "$ref" in node or (alone and "$ref" in node["allOf"][0])


def _shape(document: LoadedDocument, place: Place) -> Shape:
    node = place.node
    kind = _kind(node)
    if kind in SCALAR_KINDS:
        return Shape.ENUM if "enum" in node else Shape.SCALAR
    if kind == "object":
        return _object_shape(node)
    if kind != "array" or not isinstance(node.get("items"), dict):
        return Shape.UNTYPED
    if _COMPOSITIONS & node["items"].keys():
        return Shape.ARRAY_OF_OTHERS
    chain = document.follow(place.child("items"))
    is_scalar = bool(chain) and _kind(chain[-1].node) in SCALAR_KINDS
    return Shape.ARRAY_OF_SCALARS if is_scalar else Shape.ARRAY_OF_OTHERS


def _kind(node: Mapping[str, Any]) -> str | None:
    """Return the one type that a node names, `null` left aside."""
    declared = node.get("type")
    names = {
        name for name in (declared if isinstance(declared, list) else [declared]) if isinstance(name, str)
    }
    names.discard("null")
    return names.pop() if len(names) == 1 else None


def _object_shape(node: Mapping[str, Any]) -> Shape:
    if node.get("properties"):
        return Shape.OBJECT
    is_map = isinstance(node.get("additionalProperties"), dict) or node.get("patternProperties")
    return Shape.MAP if is_map else Shape.FREE_FORM


class Census(NamedTuple):
    """How many marks and denials a document writes, and on what."""

    marks: int
    by_shape: Mapping[Shape, int]
    by_thing: Mapping[Thing, int]
    on_query_parameters: int
    refusals: int
    """`x-auditable` with any other value than true."""
    sensitive: int
    both: int
    """Nodes that are marked and denied at once."""
    recursive: int
    """Named schemas that refer to themselves, directly or through others."""


def census(document: LoadedDocument, sites: list[Site]) -> Census:
    """Count what stands in a document."""
    marks = [each for each in sites if each.is_mark]
    return Census(
        marks=len(marks),
        by_shape=Counter(shape_of(document, each) for each in marks),
        by_thing=Counter(each.thing for each in marks),
        on_query_parameters=sum(each.in_query for each in marks),
        refusals=sum(each.place.node.get("x-auditable", True) is not True for each in sites),
        sensitive=sum(each.place.node.get("x-sensitive", False) is not False for each in sites),
        both=sum(is_denied(each.place.node) for each in marks),
        recursive=len(_recursive(document)),
    )


def _recursive(document: LoadedDocument) -> set[str]:
    """Return the names of the components' schemas that lead back to themselves."""
    listed = Place(document.root, "").child("components", "schemas").node
    schemas: dict[str, Any] = listed if isinstance(listed, dict) else {}
    refers = {name: _names_referred(schema) & schemas.keys() for name, schema in schemas.items()}
    found = set()
    for name in schemas:
        reached: set[str] = set()
        waiting = list(refers[name])
        while waiting and name not in reached:
            following = waiting.pop()
            if following not in reached:
                reached.add(following)
                waiting.extend(refers[following])
        if name in reached:
            found.add(name)
    return found


def _names_referred(schema: Any) -> set[str]:
    references = [node.get("$ref") for node in mappings_of(schema)]
    prefix = "#/components/schemas/"
    return {
        each.removeprefix(prefix).replace("~1", "/").replace("~0", "~")
        for each in references
        if isinstance(each, str) and each.startswith(prefix)
    }
