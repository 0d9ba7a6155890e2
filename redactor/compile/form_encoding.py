"""How an OpenAPI document says that the fields of a form are written (rule 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from redactor.compile.applicable_schemas import ApplicableSchemas
from redactor.compile.schema_collector import collect_schemas
from redactor.compile.schema_constraints import ApplicableSchema
from redactor.decode.media_types import is_json
from redactor.openapi.document import OpenApiDocument, Place
from redactor.openapi.marks import is_denied

# A field beyond it counts as a file, of which nothing is recorded: the bound may drop a value, and never keep one.
_FIELDS_SEARCHED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class FormEncoding:
    """The fields of a form that are not simply read as their schema's type."""

    as_json: frozenset[str] = frozenset()
    """Fields that hold JSON text, whatever their schema."""
    dropped: frozenset[str] = frozenset()
    """Files, denied fields, and those written in a style that is not read."""
    deep: frozenset[str] = frozenset()
    """Fields in the style `deepObject`."""
    delimiters: Mapping[str, str] = field(default_factory=dict)
    """By field, what stands between the elements of a list that is written into one field."""

    def combined_with(self, other: FormEncoding) -> FormEncoding:
        """Return what two operations say of the same form. A field that they read differently is dropped.

        So are deep fields: whether such an object is there would depend on what only one of the operations keeps.
        """
        disputed = self.as_json ^ other.as_json
        disputed |= {name for name, _ in self.delimiters.items() ^ other.delimiters.items()}
        dropped = self.dropped | other.dropped | disputed | self.deep | other.deep
        return FormEncoding(self.as_json & other.as_json, dropped, delimiters=self.delimiters)


class _FieldFormat(Enum):
    """How an `encoding` says that a field is written."""

    BY_SCHEMA = auto()
    JSON = auto()
    DEEP = auto()
    COMMAS = auto()
    SPACES = auto()
    PIPES = auto()
    DROPPED = auto()


_DELIMITERS = {_FieldFormat.COMMAS: ",", _FieldFormat.SPACES: " ", _FieldFormat.PIPES: "|"}
_FORMAT_OF_STYLE = {
    ("form", False): _FieldFormat.COMMAS,
    ("spaceDelimited", False): _FieldFormat.SPACES,
    ("pipeDelimited", False): _FieldFormat.PIPES,
    ("deepObject", True): _FieldFormat.DEEP,
    ("deepObject", False): _FieldFormat.DEEP,  # which is written in one way only
}


def read_form_encoding(document: OpenApiDocument, media: Place, schema: ApplicableSchemas) -> FormEncoding:
    """Read a media type's `encoding`, and the formats in its schema that make a field a file."""
    encoding = media.child("encoding").node
    encodings = encoding if isinstance(encoding, dict) else {}
    all_denied = is_denied(encodings)
    formats = {name: _field_format(each, denied=all_denied) for name, each in encodings.items()}

    def names_of(wanted: _FieldFormat) -> frozenset[str]:
        return frozenset(name for name, each in formats.items() if each is wanted)

    as_json, deep = names_of(_FieldFormat.JSON), names_of(_FieldFormat.DEEP)
    dropped = names_of(_FieldFormat.DROPPED) | (_file_fields(document, schema, deep) - as_json)
    dropped |= _claimed_twice(schema, deep)
    dropped |= _claimed_by_exploded(document, schema, encodings)
    delimiters = {name: _DELIMITERS[each] for name, each in formats.items() if each in _DELIMITERS}
    return FormEncoding(as_json, dropped, deep, delimiters)


def _claimed_twice(schema: ApplicableSchemas, deep: frozenset[str]) -> frozenset[str]:
    """Return the properties named like a part of a deep field (`address[city]`), and those deep fields."""
    found: set[str] = set()
    for name in {name for each in schema.schemas for name in each.place.node.get("properties", ())}:
        field_name = name.partition("[")[0]
        if field_name != name and field_name in deep:
            found |= {name, field_name}
    return frozenset(found)


def _claimed_by_exploded(
    document: OpenApiDocument, schema: ApplicableSchemas, encodings: Mapping[str, Any]
) -> frozenset[str]:
    """Return the properties named like a property of an object that is written as several fields.

    So a field's value may be the object's. Only an explicit style says so; without one an object is JSON.
    """
    exploded = {name for name, each in encodings.items() if _is_exploded(each)}
    inner: set[str] = set()
    declared: set[str] = set()
    for each in schema.schemas:
        names = each.place.node.get("properties", ())
        declared.update(names)
        for name in exploded.intersection(names):
            parts = collect_schemas(document, [each.subschema("properties", name)]).schemas
            inner.update(part for one in parts for part in one.place.node.get("properties", ()))
    return frozenset(declared & inner)


def _is_exploded(encoding: Any) -> bool:
    is_explicit = isinstance(encoding, dict) and not {"style", "explode"}.isdisjoint(encoding)
    return is_explicit and (encoding.get("style", "form"), encoding.get("explode", True)) == ("form", True)


def _field_format(encoding: Any, *, denied: bool) -> _FieldFormat:
    if denied or not isinstance(encoding, dict) or is_denied(encoding):
        return _FieldFormat.DROPPED
    style = str(encoding.get("style", "form"))
    exploded = encoding.get("explode", style == "form")
    if not isinstance(exploded, bool):
        return _FieldFormat.DROPPED
    if (style, exploded) != ("form", True):
        # What a content type means beside such a style depends on the version of OpenAPI.
        known = {} if "contentType" in encoding else _FORMAT_OF_STYLE
        return known.get((style, exploded), _FieldFormat.DROPPED)
    if "contentType" not in encoding:
        return _FieldFormat.BY_SCHEMA
    types = [each.partition(";")[0].strip().lower() for each in str(encoding["contentType"]).split(",")]
    if all(map(is_json, types)):
        return _FieldFormat.JSON
    return _FieldFormat.BY_SCHEMA if types == ["text/plain"] else _FieldFormat.DROPPED


def _file_fields(
    document: OpenApiDocument, schema: ApplicableSchemas, deep: frozenset[str]
) -> frozenset[str]:
    """Return the properties that are files, or lists of files; beyond a bound, every property counts as one.

    A deep field is one if it may hold a file anywhere.
    """
    known: dict[int, bool] = {}
    files: set[str] = set()
    for declaring in schema.schemas:
        for name in declaring.place.node.get("properties", ()):
            described = declaring.subschema("properties", name).dereferenced(document)
            key = id(described.place.node)
            if len(known) > _FIELDS_SEARCHED_MAX:
                files.add(name)
                continue
            if key not in known:
                known[key] = _is_file(document, described)
            if known[key] or (name in deep and _may_hold_file(document, described.place.node)):
                files.add(name)
    return frozenset(files)


def _may_hold_file(document: OpenApiDocument, schema: Any) -> bool:
    """Whether a schema, or anything it refers to, describes a file; yes where it is too large to search."""
    seen: set[int] = set()
    pending = [schema]
    while pending:
        node = pending.pop()
        if id(node) in seen or not isinstance(node, dict | list):
            continue
        seen.add(id(node))
        if len(seen) > _FIELDS_SEARCHED_MAX or (isinstance(node, dict) and _is_binary(node)):
            return True
        if isinstance(node, dict) and "$ref" in node:
            target = document.resolve(node["$ref"])
            pending.append(None if target is None else target.node)
        pending.extend(node.values() if isinstance(node, dict) else node)
    return False


def _is_file(document: OpenApiDocument, field: ApplicableSchema) -> bool:
    schemas = collect_schemas(document, [field]).schemas
    items = [each.subschema("items") for each in schemas if "items" in each.place.node]
    elements = collect_schemas(document, items).schemas
    return any(_is_binary(each.place.node) for each in (*schemas, *elements))


def _is_binary(node: Mapping[str, Any]) -> bool:
    content = str(node.get("contentMediaType", "text/plain")).lower()
    return node.get("format") == "binary" or not (content.startswith("text/") or is_json(content))
