"""The fast path for JSON bodies: a plan as a type, so that msgspec skips in C what is not kept.

The reference (`bodies`, `decode/json`, `compile/plan`) defines what is kept. A typed body gives the same bytes, or nothing
where only the reference can decide. What makes that hold:

- msgspec refuses what `read_json` refuses, skipped values included, for text that is a `str` (so it is UTF-8) in
  which it finds no lone surrogates; nesting is measured here.
- A kept value that is not of its type is refused, so the reference reads the whole body.
- Strings are read and written by the same codec on both paths. Of integers only `-0` would be written otherwise, and
  a text that may hold it is left to the reference. Other numbers, and whatever is no plain object, array or scalar,
  stay text (`msgspec.Raw`) and are kept by their own plan.
- Of duplicate keys the last counts, and properties are written in document order, whatever order they came in.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from redactor.compile.plan import (
    DROP,
    ArrayPlan,
    DropPlan,
    ObjectPlan,
    Plan,
    ScalarPlan,
    TaggedUnionPlan,
    is_too_complex,
    resolved,
)
from redactor.decode.json import JsonInteger, JsonNumber, Unusable, read_json
from redactor.pipeline.kept_body import KeptBody
from redactor.pipeline.typed_parts import (
    EXACT_TYPES,
    DroppedPart,
    EnumPart,
    ExactPart,
    MapPart,
    NeedsFallback,
    NumberPart,
    ObjectListPart,
    ObjectPart,
    Part,
    PlannedPart,
    ScalarListPart,
    TaggedUnionPart,
)
from schemas.event import BodyReceipt

_NESTING_MAX = 32  # deeper parts of a plan are left to their plan
_TYPES_MAX = 20_000  # of one process
_FIELDS_MAX = 400  # of one object
# In longer texts the brackets are likely to outnumber the allowed depth, and counting them would be wasted.
_COUNTED_CHARS_MAX = 2_048
_RECEIPTS_MAX: Final = 256
# One by one, because most texts with `-0` have it in a few dates; a text with more is searched as a whole.
_MINUS_ZEROS_CHECKED_MAX = 8
_NUMBERS = frozenset({JsonInteger, JsonNumber})
_BEFORE_NUMBERS = ":,[ \n\t\r"
_MINUS_ZEROS = tuple(each + "-0" for each in _BEFORE_NUMBERS)
_NOT_OUTLINE = bytes(set(range(256)) - set(b'[]{}"\\'))
_AS_ARRAYS = bytes.maketrans(b"{}", b"[]")

_encode = msgspec.json.Encoder().encode


class TypedBody:
    """Reads the bodies of one plan, within the reference's limits on nesting and bytes."""

    def __init__(self, part: Part, envelope: str | None, depth_max: int, bytes_max: int) -> None:
        self._enveloped = envelope is not None
        whole: Any = part.type
        if envelope is not None:
            fields = [("content", part.type | UnsetType, UNSET)]
            whole = msgspec.defstruct("Enveloped", fields, rename={"content": envelope}, gc=False)
        self._decode = msgspec.json.Decoder(whole).decode
        self._finalize = part.finalize
        self._holds_integers = part.holds_integers
        self._id_field = part.fields.get("id") if isinstance(part, ObjectPart) else None
        self._depth_max = depth_max
        self._shallow_chars_max = 2 * depth_max
        self._bytes_max = bytes_max

    def read(self, text: str, reads_id: bool) -> KeptBody | None:
        """Return what is kept of a body; None where only the reference can decide.

        `reads_id`: whether the value of the root's `id` is wanted as well.
        """
        try:
            value = self._decode(text)
            if self._needs_fallback(text):
                return None
            if self._enveloped:
                value = value.content
                if value is UNSET:
                    return _NOTHING
            kept, scalars = self._finalize(value)
            if kept is UNSET:
                return _NOTHING
            encoded = Raw(_encode(kept))
            found = self._id_of(kept) if reads_id and self._id_field else None
        except (msgspec.MsgspecError, OverflowError, RecursionError, UnicodeError, Unusable, NeedsFallback):
            return None
        receipt = _RECEIPTS[scalars] if scalars < _RECEIPTS_MAX else BodyReceipt(scalars)
        return KeptBody(encoded, receipt, found)

    def _needs_fallback(self, text: str) -> bool:
        """Whether a text that was decoded may be beyond the limits, or hold a number that is written otherwise."""
        chars = len(text)
        # A character takes four bytes at most, so only long texts are encoded to be measured.
        if chars * 4 > self._bytes_max and len(text.encode()) > self._bytes_max:
            return True
        if self._holds_integers and "-0" in text and _may_hold_minus_zero(text):
            return True
        # Each level takes two brackets. Counting is cheaper than measuring, where it is likely to be enough.
        if chars <= self._shallow_chars_max:
            return False
        if chars <= _COUNTED_CHARS_MAX and text.count("{") + text.count("[") <= self._depth_max:
            return False
        return is_nested_deeper(text, self._depth_max)

    def _id_of(self, kept: Any) -> str | None:
        """Return the id if it is a text or a whole number."""
        found = getattr(kept, self._id_field or "", None)
        if type(found) is int:
            return JsonInteger(found)
        if isinstance(found, Raw):
            kept = read_json(bytes(found), self._depth_max)
            return kept if type(kept) is str or isinstance(kept, JsonInteger) else None
        return found if type(found) is str else None


_NOTHING: Final = KeptBody(UNSET, BodyReceipt(0))
# Made beforehand: most bodies keep few values.
_RECEIPTS: Final = tuple(map(BodyReceipt, range(_RECEIPTS_MAX)))


def _may_hold_minus_zero(text: str) -> bool:
    """Whether a number in a JSON text may be written `-0`. Most occurrences of these characters belong to dates."""
    at = -1
    for _ in range(_MINUS_ZEROS_CHECKED_MAX):
        at = text.find("-0", at + 1)
        if at < 0:
            return False
        if text[at - 1] in _BEFORE_NUMBERS:
            return True
    return any(each in text for each in _MINUS_ZEROS)


def is_nested_deeper(text: str, depth_max: int) -> bool:
    """Whether well-formed JSON may nest deeper than `depth_max`; may be true also where a string holds brackets.

    Reduces the text to its brackets, quotes and backslashes, then removes matching brackets level by level, innermost
    first: what is left after `depth_max` rounds is deeper.
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
    """Makes types of plans, each once, so that bodies share them.

    What is no plain object, array or scalar becomes a `PlannedPart`, and so does a plan within itself. Which plan of a
    circle that is depends on where making them began; it changes the speed of reading, never the result.
    """

    def __init__(self, depth_max: int, bytes_max: int) -> None:
        self._depth_max = depth_max
        self._bytes_max = bytes_max
        self._known: dict[int, Part] = {}
        self._bodies: dict[tuple[int, str | None], TypedBody | None] = {}
        # The keys above are ids, which are used again once a plan is gone.
        self._alive: list[Plan] = []
        self._open: set[int] = set()
        self._made = 0

    def body(self, plan: Plan, envelope: str | None) -> TypedBody | None:
        """Return what reads the bodies of a plan; None where the reference is no slower."""
        key = id(plan), envelope
        if key not in self._bodies:
            self._alive.append(plan)
            self._bodies[key] = self._body(plan, envelope)
        return self._bodies[key]

    def _body(self, plan: Plan, envelope: str | None) -> TypedBody | None:
        root = resolved(plan)
        if is_too_complex(root):
            return None  # the receipt says so, but only of a body that is well-formed
        if isinstance(root, DropPlan):
            # Decoded although nothing is kept, because a malformed body has a reason of its own (rule 10).
            return TypedBody(DroppedPart(), None, self._depth_max, self._bytes_max)
        if envelope is not None:
            if not isinstance(root, ObjectPlan) or root.map_entries or envelope not in root.properties:
                return None
            root = resolved(root.properties[envelope])
        part = self._part(root)
        if not isinstance(part, ObjectPart | ScalarListPart | ObjectListPart):
            return None
        try:
            return TypedBody(part, envelope, self._depth_max, self._bytes_max)
        except (TypeError, ValueError):
            return None  # a name that msgspec cannot write as it is

    def _part(self, plan: Plan) -> Part:
        plan = resolved(plan)
        known = self._known.get(id(plan))
        if known is not None:
            return known
        if id(plan) in self._open or len(self._open) >= _NESTING_MAX or self._made >= _TYPES_MAX:
            return PlannedPart(plan, self._depth_max)  # elsewhere it may have a type
        part = self._typed(plan) or PlannedPart(plan, self._depth_max)
        self._alive.append(plan)
        self._known[id(plan)] = part
        return part

    def _typed(self, plan: Plan) -> Part | None:
        if isinstance(plan, ScalarPlan):
            return _scalar(plan)
        self._made += 1
        self._open.add(id(plan))
        try:
            if isinstance(plan, ArrayPlan) and not plan.slots:
                return self._array(plan)
            if isinstance(plan, ObjectPlan):
                return self._map(plan) if plan.map_entries else self._object(plan)
            return self._tagged_union(plan) if isinstance(plan, TaggedUnionPlan) else None
        finally:
            self._open.discard(id(plan))

    def _array(self, plan: ArrayPlan) -> Part | None:
        element = self._part(plan.items)
        if isinstance(element, ExactPart):
            return ScalarListPart(element, marked=plan.marked)
        return ObjectListPart(element, marked=plan.marked) if isinstance(element, ObjectPart) else None

    def _tagged_union(self, plan: TaggedUnionPlan) -> Part | None:
        variants: dict[str, ObjectPart] = {}
        for text, variant in plan.variants.items():
            part = self._part(variant)
            if not (isinstance(part, ObjectPart) and plan.tag in part.fields and text[:1] == '"'):
                return None
            variants[text[1:]] = part
        try:
            return TaggedUnionPart(plan.tag, variants, marked=plan.marked)
        except (TypeError, ValueError):
            return None

    def _map(self, plan: ObjectPlan) -> Part | None:
        if plan.declared or len(plan.map_entries) != 1 or plan.map_entries[0].plans:
            return None
        entry = self._part(plan.map_entries[0].additional or DROP)
        return MapPart(entry, marked=plan.marked) if isinstance(entry, ExactPart) else None

    def _object(self, plan: ObjectPlan) -> Part | None:
        if len(plan.properties) > _FIELDS_MAX:
            return None
        try:
            return ObjectPart(
                {name: self._part(part) for name, part in plan.properties.items()}, marked=plan.marked
            )
        except (TypeError, ValueError):
            return None  # a name that msgspec cannot write as it is


def _scalar(plan: ScalarPlan) -> Part | None:
    if plan.allowed_values is not None:
        return EnumPart(plan) if plan.types == {str} else None
    if not plan.types:
        return None
    if plan.types == _NUMBERS:
        return NumberPart(plan.number_chars_max)
    return ExactPart(plan.types, plan.number_chars_max) if plan.types <= EXACT_TYPES.keys() else None
