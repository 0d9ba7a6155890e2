"""The fast reading of JSON bodies: a plan as a type, so that msgspec skips in C what is not kept.

The general reading (`wellformed`, `plan`) is the definition. A typed body gives the same bytes, or nothing at all:
then whoever asked takes the general one. What makes that hold:

- msgspec refuses what `read_json` refuses, skipped values included, for text that is a `str` (so it is UTF-8) in
  which it finds no lone surrogates; nesting is measured here.
- A kept value that is not of its type is refused, so the whole body goes the general way.
- Strings are read and written by the same codec on both ways. Of integers only `-0` would be written otherwise, and
  a text that may hold it is left to the general way. Other numbers, and whatever is no plain object, array or scalar,
  stay text (`msgspec.Raw`) and are kept by their own plan.
- Of duplicate keys the last counts, and properties are written in document order, whatever order they came in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final, Protocol

import msgspec
from msgspec import UNSET, Raw, UnsetType

from redactor.plan import (
    DROP,
    DROPPED,
    Array,
    Drop,
    Link,
    Narrowed,
    Object,
    Plan,
    Scalar,
    count_scalars,
    encode_json,
)
from redactor.wellformed import Json, JsonInteger, JsonNumber, Unusable, read_json

_NESTING_MAX = 12  # deeper parts of a plan are read generally
_TYPES_MAX = 20_000  # of one process
_TYPES_OF_BODY_MAX = 1_000  # schemas that refer to each other are typed anew on each way to them
_FIELDS_MAX = 400  # of one object
_LINKS_MAX = 64
_COUNTED_CHARS_MAX = 2_048
_SETTLED_SINGLY_MAX = 3  # of the elements of a list; more of them are looked at column by column first
_LOOKED_AT_MAX = 8
_EXACT_TYPES: dict[type, type] = {str: str, bool: bool, JsonInteger: int}
_NUMBERS = frozenset({JsonInteger, JsonNumber})
_NUMBER_STARTS = frozenset(b"-0123456789")
_BEFORE_NUMBERS = ":,[ \n\t\r"
_MINUS_ZEROS = tuple(each + "-0" for each in _BEFORE_NUMBERS)
_NOT_OUTLINE = bytes(set(range(256)) - set(b'[]{}"\\'))
_AS_ARRAYS = bytes.maketrans(b"{}", b"[]")

_encode = msgspec.json.Encoder().encode
_astuple = msgspec.structs.astuple

Settled = tuple[Any, int]
"""A value as it is written, UNSET where nothing of it is kept; and the scalars in it."""


Outcome = int | str | None
"""What a receipt says of a body: scalars kept, why it is not in the event, or that there was none."""

KeptText = tuple[bytes | None, Outcome, Json]
"""What was kept of a body: its JSON text (None: nothing), what the receipt says, and the value at `id`."""


class _Part(Protocol):
    """How a part of a body is read, and what is done to it afterwards."""

    @property
    def type(self) -> Any:
        """What msgspec decodes it as."""
        ...

    @property
    def holds_integers(self) -> bool:
        """Whether a `-0` may stand in it."""
        ...

    def settle(self, value: Any) -> Settled:
        """Return what is written of a value of `type`."""
        ...

    def scalars_in(self, values: Sequence[Any]) -> int | None:
        """Return how many scalars are written of several values of `type` together, if each of them is written as
        it stands; None where one is not, or where that takes looking at them one by one.
        """
        ...


class _Exact:
    """Scalars that need no look at them once they are of their type."""

    def __init__(self, types: frozenset[type]) -> None:
        union: Any = None
        for each in sorted((_EXACT_TYPES[each] for each in types), key=str):
            union = each if union is None else union | each
        self.type = union | None
        self.holds_integers = JsonInteger in types

    def settle(self, value: Any) -> Settled:
        return value, 1

    def scalars_in(self, values: Sequence[Any]) -> int | None:
        return len(values)


class _Number:
    """A number of any kind, kept as it is written; anything else is left out."""

    type = Raw
    holds_integers = False

    def settle(self, value: Any) -> Settled:
        text = bytes(value)
        return (value, 1) if text[0] in _NUMBER_STARTS or text == b"null" else (UNSET, 0)

    def scalars_in(self, values: Sequence[Any]) -> int | None:
        starts = {text[0] for text in map(bytes, values)}
        return len(values) if starts <= _NUMBER_STARTS else None


class _Listed:
    """Texts of which only some are kept."""

    type: Any = str | None
    holds_integers = False

    def __init__(self, plan: Scalar) -> None:
        self._keep = plan.keep

    def settle(self, value: Any) -> Settled:
        return (UNSET, 0) if self._keep(value) is DROPPED else (value, 1)

    def scalars_in(self, values: Sequence[Any]) -> int | None:
        is_each_kept = all(self._keep(each) is not DROPPED for each in set(values))
        return len(values) if is_each_kept else None


class _Nothing:
    """A value of any kind of which nothing is kept."""

    type = Raw
    holds_integers = False

    def settle(self, value: Any) -> Settled:  # noqa: ARG002
        return UNSET, 0

    def scalars_in(self, values: Sequence[Any]) -> int | None:  # noqa: ARG002
        return None


class _General:
    """A part that the general way keeps: its text is parsed and walked by its own plan."""

    type = Raw
    holds_integers = False

    def __init__(self, plan: Plan, depth_max: int) -> None:
        self._plan = plan
        self._depth_max = depth_max

    def settle(self, value: Any) -> Settled:
        kept = self._plan.keep(read_json(bytes(value), self._depth_max))
        return (UNSET, 0) if kept is DROPPED else (Raw(encode_json(kept)), count_scalars(kept))

    def scalars_in(self, values: Sequence[Any]) -> int | None:  # noqa: ARG002
        return None


class _List:
    """An array of scalars."""

    def __init__(self, element: _Exact, *, marked: bool) -> None:
        self.type = list[element.type] | None  # type: ignore[name-defined]
        self.holds_integers = element.holds_integers
        self._marked = marked

    def settle(self, value: Any) -> Settled:
        if value is None:
            return (None, 1) if self._marked else (UNSET, 0)
        return (value, len(value)) if value or self._marked else (UNSET, 0)

    def scalars_in(self, values: Sequence[Any]) -> int | None:
        return sum(map(len, values)) if all(values) else None  # a null, or an empty one, may vanish


class _ListOfObjects:
    """An array of objects."""

    def __init__(self, element: _Struct, *, marked: bool) -> None:
        self.type = list[element.type] | None  # type: ignore[name-defined]
        self.holds_integers = element.holds_integers
        self._element = element
        self._marked = marked

    def settle(self, value: Any) -> Settled:
        if value is None:
            return (None, 1) if self._marked else (UNSET, 0)
        if len(value) > _SETTLED_SINGLY_MAX:
            whole = self._element.scalars_in(value)
            if whole is not None:
                return value, whole
        settle, scalars, kept = self._element.settle, 0, []
        for each in value:
            one, count = settle(each)
            if one is not UNSET:
                kept.append(one)
                scalars += count
        return (kept, scalars) if kept or self._marked else (UNSET, 0)

    def scalars_in(self, values: Sequence[Any]) -> int | None:
        return self._element.scalars_in(list(chain.from_iterable(values))) if all(values) else None


class _Map:
    """An object without declared properties, whose entries are scalars."""

    def __init__(self, entry: _Exact, *, marked: bool) -> None:
        self.type = dict[str, entry.type] | None  # type: ignore[name-defined]
        self.holds_integers = entry.holds_integers
        self._marked = marked

    def settle(self, value: Any) -> Settled:
        if value is None:
            return (None, 1) if self._marked else (UNSET, 0)
        kept = {key: value[key] for key in sorted(value)}
        return (kept, len(kept)) if kept or self._marked else (UNSET, 0)

    def scalars_in(self, values: Sequence[Any]) -> int | None:  # noqa: ARG002  they are written anew, sorted
        return None


class _Struct:
    """An object: a field for each property of which something may be kept, in document order."""

    def __init__(self, parts: dict[str, _Part], *, marked: bool) -> None:
        names = {f"f{index}": name for index, name in enumerate(parts)}
        fields = [
            (field, part.type | UnsetType, UNSET) for field, part in zip(names, parts.values(), strict=True)
        ]
        self.struct = msgspec.defstruct("Kept", fields, rename=names, gc=False)
        self.type = self.struct | None
        self.holds_integers = any(part.holds_integers for part in parts.values())
        self.fields = dict(zip(parts, names, strict=True))
        self._width = len(fields)
        self._settled = tuple(
            (index, field, part.settle)
            for index, (field, part) in enumerate(zip(names, parts.values(), strict=True))
            if not isinstance(part, _Exact)
        )
        self._columns: Final[tuple[Callable[[Sequence[Any]], int | None] | None, ...]] = tuple(
            None if isinstance(part, _Exact) else part.scalars_in for part in parts.values()
        )
        self._marked = marked

    def settle(self, value: Any) -> Settled:
        if value is None:
            return (None, 1) if self._marked else (UNSET, 0)
        before_all = _astuple(value)
        present = self._width - before_all.count(UNSET)
        if not present:
            return (value, 0) if self._marked else (UNSET, 0)
        scalars = present
        for index, field, settle in self._settled:
            before = before_all[index]
            if before is not UNSET:
                after, count = settle(before)
                scalars += count - 1
                if after is not before:
                    setattr(value, field, after)
                    present -= after is UNSET
        return (value, scalars) if present or self._marked else (UNSET, 0)

    def scalars_in(self, values: Sequence[Any]) -> int | None:
        if not all(values):
            return None
        scalars, shows_all = 0, self._marked
        columns = zip(*map(_astuple, values), strict=True)
        for scalars_in, column in zip(self._columns, columns, strict=bool(values)):
            absent = column.count(UNSET)
            shows_all = shows_all or not absent
            if scalars_in is None:
                scalars += len(column) - absent
                continue
            found = scalars_in([each for each in column if each is not UNSET] if absent else column)
            if found is None:
                return None
            scalars += found
        return scalars if shows_all else None  # one of which nothing is left may vanish


class _Doubt(Exception):
    """A part is not as its type has it: only the general way can tell what is kept of the body."""


class _Told:
    """An object that one of several types describes; which one, a text in it tells (`Narrowed`)."""

    type = Raw

    def __init__(self, name: str, ways: dict[str, _Struct], *, marked: bool) -> None:
        self.holds_integers = any(way.holds_integers for way in ways.values())
        tag = msgspec.defstruct("Told", [("tag", str | UnsetType, UNSET)], rename={"tag": name}, gc=False)
        self._tag = msgspec.json.Decoder(tag).decode
        self._ways = {
            text: (msgspec.json.Decoder(way.struct).decode, way.settle, way.fields[name])
            for text, way in ways.items()
        }
        self._marked = marked

    def settle(self, value: Any) -> Settled:
        if bytes(value) == b"null":
            return (None, 1) if self._marked else (UNSET, 0)
        try:
            told: Any = self._tag(value)
            way = self._ways.get(told.tag)
            if way is None:
                return UNSET, 0
            decode, settle, field = way
            found = decode(value)
        except (msgspec.MsgspecError, RecursionError):
            found = None
        if found is None:
            raise _Doubt
        kept, scalars = settle(found)
        return (UNSET, 0) if kept is UNSET or getattr(kept, field) is UNSET else (kept, scalars)

    def scalars_in(self, values: Sequence[Any]) -> int | None:  # noqa: ARG002
        return None


class TypedBody:
    """Reads the bodies of one plan. `depth_max` and `bytes_max` are those of the general way."""

    def __init__(self, part: _Part, envelope: str | None, depth_max: int, bytes_max: int) -> None:
        self._enveloped = envelope is not None
        whole: Any = part.type
        if envelope is not None:
            fields = [("content", part.type | UnsetType, UNSET)]
            whole = msgspec.defstruct("Enveloped", fields, rename={"content": envelope}, gc=False)
        self._decode = msgspec.json.Decoder(whole).decode
        self._settle = part.settle
        self._holds_integers = part.holds_integers
        self._id_field = part.fields.get("id") if isinstance(part, _Struct) else None
        self._depth_max = depth_max
        self._shallow_chars_max = 2 * depth_max
        self._bytes_max = bytes_max

    def read(self, text: str) -> KeptText | None:  # noqa: PLR0911  each check that fails ends it
        """Return what is kept of a body; None where only the general way can tell."""
        if len(text) * 4 > self._bytes_max and len(text.encode()) > self._bytes_max:
            return None
        try:
            value = self._decode(text)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return None
        if self._holds_integers and "-0" in text and _may_hold_minus_zero(text):
            return None
        # Counting is cheaper than measuring, where it is likely to be enough; each level takes two brackets.
        chars = len(text)
        if chars > self._shallow_chars_max:
            few = chars <= _COUNTED_CHARS_MAX and text.count("{") + text.count("[") <= self._depth_max
            if not few and is_nested_deeper(text, self._depth_max):
                return None
        if self._enveloped:
            value = value.content
            if value is UNSET:
                return _NOTHING
        try:
            kept, scalars = self._settle(value)
            if kept is UNSET:
                return _NOTHING
            return _encode(kept), scalars, self._id_of(kept) if self._id_field else None
        except (OverflowError, Unusable, _Doubt):
            return None

    def _id_of(self, kept: Any) -> Json:
        found = getattr(kept, self._id_field or "", None)
        if type(found) is int:
            return JsonInteger(found)
        if isinstance(found, Raw):
            return read_json(bytes(found), self._depth_max)
        return found if type(found) is str else None


_NOTHING: KeptText = (None, 0, None)


def _may_hold_minus_zero(text: str) -> bool:
    """Tell whether a number in a JSON text may be written `-0`; most that look so belong to a date."""
    at = -1
    for _ in range(_LOOKED_AT_MAX):
        at = text.find("-0", at + 1)
        if at < 0:
            return False
        if text[at - 1] in _BEFORE_NUMBERS:
            return True
    return any(each in text for each in _MINUS_ZEROS)


def is_nested_deeper(text: str, depth_max: int) -> bool:
    """Tell whether well-formed JSON may nest deeper; also true where a string holds brackets and hides it.

    What is left without all but brackets, quotes and backslashes is taken away pair by pair, innermost first.
    """
    outline = text.encode().translate(_AS_ARRAYS, _NOT_OUTLINE)
    if b"\\" in outline:
        outline = outline.replace(b"\\\\", b"").replace(b'\\"', b"").replace(b"\\", b"")
    outline = outline.replace(b'""', b"")
    for _ in range(depth_max):
        if not outline:
            return False
        outline = outline.replace(b"[]", b"")
    return bool(outline)


class BodyTypes:
    """Makes types of plans, each once. What is no plain object, array or scalar becomes a part read generally."""

    def __init__(self, depth_max: int, bytes_max: int) -> None:
        self._depth_max = depth_max
        self._bytes_max = bytes_max
        self._known: dict[int, _Part] = {}
        self._bodies: dict[tuple[int, str | None], TypedBody | None] = {}
        self._alive: list[Plan] = []
        self._open: set[int] = set()
        self._cuts = 0
        self._made = 0
        self._made_max = 0

    def body(self, plan: Plan, envelope: str | None) -> TypedBody | None:
        """Return the typed reading of a body's root; None where the general way is the better one."""
        key = id(plan), envelope
        if key not in self._bodies:
            self._made_max = min(self._made + _TYPES_OF_BODY_MAX, _TYPES_MAX)
            self._alive.append(plan)
            self._bodies[key] = self._body(plan, envelope)
        return self._bodies[key]

    def _body(self, plan: Plan, envelope: str | None) -> TypedBody | None:
        root = _resolved(plan)
        if isinstance(root, Drop):
            return TypedBody(_Nothing(), None, self._depth_max, self._bytes_max)
        if envelope is not None:
            if not isinstance(root, Object) or root.branches or envelope not in root.properties:
                return None
            root = _resolved(root.properties[envelope])
        part = self._part(root)
        if not isinstance(part, _Struct | _List | _ListOfObjects):
            return None
        try:
            return TypedBody(part, envelope, self._depth_max, self._bytes_max)
        except (TypeError, ValueError):
            return None  # a name that msgspec cannot write as it is

    def _part(self, plan: Plan) -> _Part:
        plan = _resolved(plan)
        known = self._known.get(id(plan))
        if known is None:
            cuts = self._cuts
            known = self._typed(plan) or _General(plan, self._depth_max)
            # What had to be cut off here may be typed elsewhere.
            if cuts == self._cuts or not self._open:
                self._alive.append(plan)
                self._known[id(plan)] = known
        return known

    def _typed(self, plan: Plan) -> _Part | None:
        if isinstance(plan, Scalar):
            return _scalar(plan)
        if id(plan) in self._open or len(self._open) >= _NESTING_MAX or self._made >= self._made_max:
            self._cuts += 1
            return None
        self._made += 1
        self._open.add(id(plan))
        try:
            if isinstance(plan, Array) and not plan.slots:
                return self._array(plan)
            if isinstance(plan, Object):
                return self._map(plan) if plan.branches else self._object(plan)
            return self._told(plan) if isinstance(plan, Narrowed) else None
        finally:
            self._open.discard(id(plan))

    def _array(self, plan: Array) -> _Part | None:
        element = self._part(plan.items)
        if isinstance(element, _Exact):
            return _List(element, marked=plan.marked)
        return _ListOfObjects(element, marked=plan.marked) if isinstance(element, _Struct) else None

    def _told(self, plan: Narrowed) -> _Part | None:
        ways: dict[str, _Struct] = {}
        for text, way in plan.ways.items():
            part = self._part(way)
            if not (isinstance(part, _Struct) and plan.name in part.fields and text[:1] == '"'):
                return None
            ways[text[1:]] = part
        try:
            return _Told(plan.name, ways, marked=plan.marked)
        except (TypeError, ValueError):
            return None

    def _map(self, plan: Object) -> _Part | None:
        if plan.declared or len(plan.branches) != 1 or plan.branches[0].plans:
            return None
        entry = self._part(plan.branches[0].others or DROP)
        return _Map(entry, marked=plan.marked) if isinstance(entry, _Exact) else None

    def _object(self, plan: Object) -> _Part | None:
        if len(plan.properties) > _FIELDS_MAX:
            return None
        try:
            return _Struct(
                {name: self._part(part) for name, part in plan.properties.items()}, marked=plan.marked
            )
        except (TypeError, ValueError):
            return None  # a name that msgspec cannot write as it is


def _scalar(plan: Scalar) -> _Part | None:
    if plan.only is not None:
        return _Listed(plan) if plan.types == {str} else None
    if not plan.types:
        return None
    if plan.types == _NUMBERS:
        return _Number()
    return _Exact(plan.types) if plan.types <= _EXACT_TYPES.keys() else None


def _resolved(plan: Plan) -> Plan:
    for _ in range(_LINKS_MAX):
        if not isinstance(plan, Link):
            return plan
        plan = plan.target
    return plan
