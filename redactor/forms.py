"""Forms read as the objects that their schema describes, before a plan keeps of them what is marked (rule 9)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from redactor.branches import Branch, Speech, Voices, is_denied
from redactor.document import LoadedDocument, Place
from redactor.media_types import is_json
from redactor.multipart import Part
from redactor.plan import (
    DROPPED,
    Array,
    Drop,
    Either,
    Every,
    FreeForm,
    Kept,
    Link,
    Narrowed,
    Object,
    Plan,
    Scalar,
    canonical,
)
from redactor.texts import read_text, readings
from redactor.url import split_query
from redactor.wellformed import Json, Unusable, read_json
from schemas.event import BodyReason

_FOREIGN = frozenset(";")
_BINARY = frozenset({"binary"})
_FIELDS_LOOKED_AT_MAX = 10_000


@dataclass(frozen=True, slots=True)
class FormFields:
    """How the document says that a form's fields are written, where that is neither text nor up to the schema."""

    as_json: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()
    """Files, denied ones, and those written in a way that is not read."""

    def beside(self, other: FormFields) -> FormFields:
        """Return what two documents say of the same form: what they disagree about is dropped."""
        return FormFields(
            self.as_json & other.as_json, self.dropped | other.dropped | (self.as_json ^ other.as_json)
        )


def form_fields(document: LoadedDocument, media: Place, schema: Speech) -> FormFields:
    """Return what a media type's `encoding` and its schema's formats say of a form's fields."""
    encoding = media.child("encoding").node
    encodings = encoding if isinstance(encoding, dict) else {}
    written = {
        name: FieldForm.DROPPED if is_denied(encodings) else _written(said)
        for name, said in encodings.items()
    }
    as_json = {name for name, form in written.items() if form is FieldForm.JSON}
    dropped = {name for name, form in written.items() if form is FieldForm.DROPPED}
    files = _files(document, schema)
    return FormFields(frozenset(as_json), frozenset(dropped | (files - as_json)))


class FieldForm(Enum):
    """How an `encoding` says that a field is written."""

    BY_SCHEMA = "by schema"
    JSON = "json"
    DROPPED = "dropped"


def _written(said: Any) -> FieldForm:
    if not isinstance(said, dict) or is_denied(said):
        return FieldForm.DROPPED
    if said.get("style", "form") != "form" or said.get("explode", True) is not True:
        return FieldForm.DROPPED
    if "contentType" not in said:
        return FieldForm.BY_SCHEMA
    types = [each.partition(";")[0].strip().lower() for each in str(said["contentType"]).split(",")]
    if all(map(is_json, types)):
        return FieldForm.JSON
    return FieldForm.BY_SCHEMA if types == ["text/plain"] else FieldForm.DROPPED


def _files(document: LoadedDocument, schema: Speech) -> set[str]:
    """Return the properties that are, or whose elements are, declared as files."""
    known: dict[int, bool] = {}
    files: set[str] = set()
    for branch in schema.heard:
        for name in branch.place.node.get("properties", ()):
            field = branch.part("properties", name).settled(document)
            if len(known) > _FIELDS_LOOKED_AT_MAX:
                files.add(name)
                continue
            key = id(field.place.node)
            if key not in known:
                known[key] = _is_file(document, field)
            if known[key]:
                files.add(name)
    return files


def _is_file(document: LoadedDocument, field: Branch) -> bool:
    voices = Voices(document, [field])
    elements = [each.part("items") for each in voices.heard if "items" in each.place.node]
    nodes = [each.place.node for each in (*voices.heard, *Voices(document, elements).heard)]
    return any(map(_is_binary, nodes))


def _is_binary(node: Mapping[str, Any]) -> bool:
    content = str(node.get("contentMediaType", "text/plain")).lower()
    return node.get("format") in _BINARY or not (content.startswith("text/") or is_json(content))


def split_urlencoded(body: bytes, fields_max: int) -> Iterator[Part]:
    """Yield the fields of a form in a query's clothes. Raises Unusable: `malformed`, or `too_large` for too many."""
    if body.count(b"&") >= fields_max:
        raise Unusable(BodyReason.TOO_LARGE)
    try:
        text: str | None = body.decode()
    except UnicodeDecodeError:
        text = None
    if text is None or text.startswith("\ufeff"):
        raise Unusable(BodyReason.MALFORMED)
    for name, pairs in split_query(text).items():
        for raw, value in pairs:
            # A bare semicolon separates pairs for some, and what cannot be decoded is nobody's.
            is_read = value is not None and not _FOREIGN & set(raw)
            yield Part(name, (value or "").encode(errors="replace"), is_text=is_read)


class FormReader:
    """Reads one form's parts as the object that a plan expects. What the plan does not keep is not looked at."""

    def __init__(self, parts: Iterable[Part], fields: FormFields, depth_max: int) -> None:
        self._fields = fields
        self._depth_max = depth_max
        self._given: dict[str, list[Part]] = {}
        for part in parts:
            self._given.setdefault(part.name, []).append(part)

    def read(self, plan: Plan) -> dict[str, Json]:
        """Return the object, as far as the plan might keep of it."""
        plan = _decisive(plan)
        if isinstance(plan, Either):
            return self.read(plan.as_object)
        if isinstance(plan, Narrowed):
            return self._told_apart(plan)
        if not isinstance(plan, Object):
            return {}
        values = ((name, self._field(name, part)) for name, part in plan.properties.items())
        return {name: value for name, value in values if value is not DROPPED}

    def _told_apart(self, plan: Narrowed) -> dict[str, Json]:
        """Return the object as that of the schemas which its own property names; empty where it names several."""
        given = self._given.get(plan.name, ())
        text = _text(given[0]) if len(given) == 1 else None
        if text is None:
            return {}
        found: dict[int, dict[str, Json]] = {}
        for value in readings(text):
            way = plan.ways.get(canonical(value))
            tree = {} if way is None else self.read(way)
            if plan.name in tree and canonical(tree[plan.name]) == canonical(value):
                found[id(way)] = tree
        return next(iter(found.values())) if len(found) == 1 else {}

    def _field(self, name: str, plan: Plan) -> Kept:
        given = self._given.get(name, ())
        if not given or name in self._fields.dropped:
            return DROPPED
        plan = _decisive(plan)
        as_json = name in self._fields.as_json
        if isinstance(plan, Either):
            plan = _decisive(_of_count(plan, len(given)))
        if isinstance(plan, Array):
            return self._elements(plan, given, as_json=as_json)
        if len(given) != 1:
            return DROPPED
        return self._value(plan, given[0], as_json=as_json)

    def _elements(self, plan: Array, given: Sequence[Part], *, as_json: bool) -> Kept:
        found = [self._value(_decisive(plan.items), each, as_json=as_json) for each in given]
        if as_json and len(found) == 1 and type(found[0]) is list:
            return found[0]
        return [each for each in found if each is not DROPPED]

    def _value(self, plan: Plan, part: Part, *, as_json: bool) -> Kept:
        """Return one part's value: JSON where the document says so or an object is due, else text."""
        if as_json or isinstance(plan, Object | FreeForm | Narrowed | Array):
            try:
                return read_json(part.content, self._depth_max)
            except Unusable:
                return DROPPED
        text = _text(part)
        return read_text(plan, text) if isinstance(plan, Scalar) and text is not None else DROPPED


def _text(part: Part) -> str | None:
    """Return a field's text; None for a file."""
    if part.has_file_name or not part.is_text:
        return None
    try:
        return part.content.decode()
    except UnicodeDecodeError:
        return None


def _decisive(plan: Plan) -> Plan:
    """Return the plan that says of which types a value is: where several must agree, the first will do."""
    while isinstance(plan, Link | Every):
        plan = plan.target if isinstance(plan, Link) else plan.plans[0]
    return plan


def _of_count(plan: Either, count: int) -> Plan:
    """Return how a field is read that may be of several kinds: one scalar or several, but no text for an object."""
    if isinstance(plan.as_object, Drop) and not isinstance(plan.as_scalar, Drop):
        return plan.as_scalar if count == 1 else plan.as_array
    return plan.as_object if isinstance(plan.as_scalar, Drop) and isinstance(plan.as_array, Drop) else Drop()
