"""The parts of a typed body: what msgspec decodes each value to, and how what is not kept is removed afterwards.

A part exists for plain objects, arrays, maps and scalars; any other value is left to its plan. An array of many objects is
examined column by column first: where every object is kept unchanged, counting its scalars needs no Python loop over them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Annotated, Any, Final, Protocol

import msgspec
from msgspec import UNSET, Raw, UnsetType

from redactor.compile.plan import DROPPED, Plan, ScalarPlan, count_scalars, encode_json
from redactor.decode.json import JsonInteger, read_json

EXACT_TYPES: Final[dict[type, type]] = {str: str, bool: bool, JsonInteger: int}
_INT64_MAX: Final = 2**63 - 1  # msgspec checks no wider bounds
_FINALIZED_SINGLY_MAX = 3  # elements of a list; longer lists are examined column by column first
_NUMBER_STARTS = frozenset(b"-0123456789")

_astuple = msgspec.structs.astuple

Finalized = tuple[Any, int]
"""A value as it is written, UNSET where nothing of it is kept; and the number of scalars in it."""


class NeedsFallback(Exception):
    """A value is not of its type: only the reference can decide what is kept of the body."""


class Part(Protocol):
    """How one value in a body is decoded, and what is done to it afterwards.

    Decoding refuses what is not of `type`. `finalize` then removes what the plan does not keep; it may change the value
    in place, and raises NeedsFallback or Unusable where only the reference can decide.
    """

    @property
    def type(self) -> Any:
        """The type that msgspec decodes it to."""
        ...

    @property
    def holds_integers(self) -> bool:
        """Whether a `-0` may stand in it."""
        ...

    def finalize(self, value: Any) -> Finalized:
        """Return what is written of a value of `type`."""
        ...

    def scalars_in(self, values: Sequence[Any]) -> int | None:
        """Return the number of scalars in several values of `type`, if each of them is kept unchanged.

        None where one of them is not, or where they have to be finalized one by one to know.
        """
        ...


class ExactPart:
    """Scalars that are kept whenever they are of their type."""

    def __init__(self, types: frozenset[type], number_chars_max: int) -> None:
        union: Any = None
        for each in sorted((EXACT_TYPES[each] for each in types), key=str):
            bounded: Any = _bounded_integer(number_chars_max) if each is int else each
            union = bounded if union is None else union | bounded
        self.type = union | None
        self.holds_integers = JsonInteger in types

    def finalize(self, value: Any) -> Finalized:
        return value, 1

    def scalars_in(self, values: Sequence[Any]) -> int | None:
        return len(values)


def _bounded_integer(chars_max: int) -> Any:
    """Return the type of integers that are short enough to be kept (rule 6). The reference reads all others."""
    highest = min(10**chars_max - 1, _INT64_MAX)
    lowest = max(1 - 10 ** (chars_max - 1), -_INT64_MAX)
    return Annotated[int, msgspec.Meta(ge=lowest, le=highest)]


class NumberPart:
    """Any number, kept as it is written, because a `float` would turn `1.10` into `1.1`; anything else is dropped."""

    type = Raw
    holds_integers = False

    def __init__(self, chars_max: int) -> None:
        self._chars_max = chars_max

    def finalize(self, value: Any) -> Finalized:
        text = bytes(value)
        is_number = text[0] in _NUMBER_STARTS and len(text) <= self._chars_max
        return (value, 1) if is_number or text == b"null" else (UNSET, 0)

    def scalars_in(self, values: Sequence[Any]) -> int | None:
        texts = list(map(bytes, values))
        if max(map(len, texts), default=0) > self._chars_max:
            return None
        starts = {text[0] for text in texts}
        return len(values) if starts <= _NUMBER_STARTS else None


class EnumPart:
    """Texts of which only the allowed ones are kept."""

    type: Any = str | None
    holds_integers = False

    def __init__(self, plan: ScalarPlan) -> None:
        self._keep = plan.keep

    def finalize(self, value: Any) -> Finalized:
        return (UNSET, 0) if self._keep(value) is DROPPED else (value, 1)

    def scalars_in(self, values: Sequence[Any]) -> int | None:
        is_each_kept = all(self._keep(each) is not DROPPED for each in set(values))
        return len(values) if is_each_kept else None


class DroppedPart:
    """A value of any kind of which nothing is kept."""

    type = Raw
    holds_integers = False

    def finalize(self, value: Any) -> Finalized:  # noqa: ARG002
        return UNSET, 0

    def scalars_in(self, values: Sequence[Any]) -> int | None:  # noqa: ARG002
        return None


class PlannedPart:
    """A value that only its plan can judge: its text is parsed to a tree and walked, as the reference does."""

    type = Raw
    holds_integers = False

    def __init__(self, plan: Plan, depth_max: int) -> None:
        self._plan = plan
        self._depth_max = depth_max

    def finalize(self, value: Any) -> Finalized:
        kept = self._plan.keep(read_json(bytes(value), self._depth_max))
        return (UNSET, 0) if kept is DROPPED else (Raw(encode_json(kept)), count_scalars(kept))

    def scalars_in(self, values: Sequence[Any]) -> int | None:  # noqa: ARG002
        return None


class ScalarListPart:
    """An array of scalars."""

    def __init__(self, element: ExactPart, *, marked: bool) -> None:
        self.type = list[element.type] | None  # type: ignore[name-defined]
        self.holds_integers = element.holds_integers
        self._marked = marked

    def finalize(self, value: Any) -> Finalized:
        if value is None:
            return (None, 1) if self._marked else (UNSET, 0)
        return (value, len(value)) if value or self._marked else (UNSET, 0)

    def scalars_in(self, values: Sequence[Any]) -> int | None:
        return sum(map(len, values)) if all(values) else None  # a null, or an empty one, may vanish


class ObjectListPart:
    """An array of objects."""

    def __init__(self, element: ObjectPart, *, marked: bool) -> None:
        self.type = list[element.type] | None  # type: ignore[name-defined]
        self.holds_integers = element.holds_integers
        self._element = element
        self._marked = marked

    def finalize(self, value: Any) -> Finalized:
        if value is None:
            return (None, 1) if self._marked else (UNSET, 0)
        if len(value) > _FINALIZED_SINGLY_MAX:
            whole = self._element.scalars_in(value)
            if whole is not None:
                return value, whole
        finalize, scalars, kept = self._element.finalize, 0, []
        for each in value:
            one, count = finalize(each)
            if one is not UNSET:
                kept.append(one)
                scalars += count
        return (kept, scalars) if kept or self._marked else (UNSET, 0)

    def scalars_in(self, values: Sequence[Any]) -> int | None:
        return self._element.scalars_in(list(chain.from_iterable(values))) if all(values) else None


class MapPart:
    """An object without declared properties, whose entries are scalars."""

    def __init__(self, entry: ExactPart, *, marked: bool) -> None:
        self.type = dict[str, entry.type] | None  # type: ignore[name-defined]
        self.holds_integers = entry.holds_integers
        self._marked = marked

    def finalize(self, value: Any) -> Finalized:
        if value is None:
            return (None, 1) if self._marked else (UNSET, 0)
        kept = {key: value[key] for key in sorted(value)}
        return (kept, len(kept)) if kept or self._marked else (UNSET, 0)

    def scalars_in(self, values: Sequence[Any]) -> int | None:  # noqa: ARG002  their keys are written anew, sorted
        return None


class ObjectPart:
    """An object: a field for each property of which something may be kept, in document order."""

    def __init__(self, parts: dict[str, Part], *, marked: bool) -> None:
        names = {f"f{index}": name for index, name in enumerate(parts)}
        fields = [
            (field, part.type | UnsetType, UNSET) for field, part in zip(names, parts.values(), strict=True)
        ]
        self.struct = msgspec.defstruct("Kept", fields, rename=names, gc=False)
        self.type = self.struct | None
        self.holds_integers = any(part.holds_integers for part in parts.values())
        self.fields = dict(zip(parts, names, strict=True))
        self._width = len(fields)
        self._finalizers = tuple(
            (index, field, part.finalize)
            for index, (field, part) in enumerate(zip(names, parts.values(), strict=True))
            if not isinstance(part, ExactPart)
        )
        self._columns: Final[tuple[Callable[[Sequence[Any]], int | None] | None, ...]] = tuple(
            None if isinstance(part, ExactPart) else part.scalars_in for part in parts.values()
        )
        self._marked = marked

    def finalize(self, value: Any) -> Finalized:
        if value is None:
            return (None, 1) if self._marked else (UNSET, 0)
        before_all = _astuple(value)
        present = self._width - before_all.count(UNSET)
        if not present:
            return (value, 0) if self._marked else (UNSET, 0)
        scalars = present
        for index, field, finalize in self._finalizers:
            before = before_all[index]
            if before is not UNSET:
                after, count = finalize(before)
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
        return scalars if shows_all else None  # an object of which nothing is kept may vanish


class TaggedUnionPart:
    """An object that one of several types describes, chosen by the text at its tag (`TaggedUnionPlan`)."""

    type = Raw

    def __init__(self, name: str, variants: dict[str, ObjectPart], *, marked: bool) -> None:
        self.holds_integers = any(variant.holds_integers for variant in variants.values())
        tag = msgspec.defstruct("Tag", [("tag", str | UnsetType, UNSET)], rename={"tag": name}, gc=False)
        self._tag = msgspec.json.Decoder(tag).decode
        self._variants = {
            text: (msgspec.json.Decoder(variant.struct).decode, variant.finalize, variant.fields[name])
            for text, variant in variants.items()
        }
        self._marked = marked

    def finalize(self, value: Any) -> Finalized:
        if bytes(value) == b"null":
            return (None, 1) if self._marked else (UNSET, 0)
        try:
            tagged: Any = self._tag(value)
            variant = self._variants.get(tagged.tag)
            if variant is None:
                return UNSET, 0
            decode, finalize, field = variant
            found = decode(value)
        except (msgspec.MsgspecError, RecursionError):
            found = None
        if found is None:
            # Raised out here, because msgspec's errors quote the value.
            raise NeedsFallback
        kept, scalars = finalize(found)
        return (UNSET, 0) if kept is UNSET or getattr(kept, field) is UNSET else (kept, scalars)

    def scalars_in(self, values: Sequence[Any]) -> int | None:  # noqa: ARG002
        return None
