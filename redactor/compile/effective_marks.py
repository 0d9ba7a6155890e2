"""Which marks on a value count, by the JSON types it may have: composition without ever validating (rules 2, 4 and 7).

A value that `oneOf` or `anyOf` describes is not matched against the alternatives: that would let unmarked values decide
what is kept. Instead every combination of alternatives is a candidate. Scalars, objects and arrays are judged apart, each
by the candidates that can describe them, and a mark counts only if all of those have it.
One whose types exclude one another grants nothing, but what it leaves unmarked stays unmarked: documents are wrong about
types more often than about marks.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum
from typing import NamedTuple

from redactor.compile.json_types import NULL, SCALAR_TYPES, JsonTypes, intersection

_OBJECT = frozenset({"object"})
_ARRAY = frozenset({"array"})


class Mark(IntEnum):
    """How a candidate is marked."""

    NONE = 0
    UNTYPED = 1
    """The marked schema does not name one definite type itself: the mark only shows that a container is present."""
    TYPED = 2


class Candidate(NamedTuple):
    """One combination of alternatives, as far as types and marks go."""

    types: JsonTypes
    mark: Mark
    is_described: bool
    """Whether any schema describes the value; a schema that can only deny does not."""

    def combined_with(self, other: Candidate) -> Candidate:
        """Return the candidate that both describe together: the types of both, the mark of either."""
        return Candidate(
            intersection(self.types, other.types),
            max(self.mark, other.mark),
            self.is_described or other.is_described,
        )

    @property
    def plain_types(self) -> frozenset[str]:
        """The types it admits, without `null`; empty where it names none."""
        return frozenset() if self.types is None else self.types - NULL

    @property
    def is_possible(self) -> bool:
        """Whether any value is of the types."""
        return self.types is None or bool(self.types)

    @property
    def is_scalar(self) -> bool:
        """Whether the value can be nothing but a scalar."""
        return bool(self.types) and self.plain_types <= SCALAR_TYPES

    @property
    def is_definite(self) -> bool:
        """Whether a mark can count: the types are scalars alone, or `object` alone, or `array` alone (rule 4)."""
        return self.is_scalar or self.plain_types in (_OBJECT, _ARRAY)

    def counts_for(self, kind: frozenset[str]) -> bool:
        """Whether it describes values of some of these types, or none that can be valid."""
        return not self.types or not self.types.isdisjoint(kind)

    def admits(self, json_type: str) -> bool:
        return self.types is None or json_type in self.types


class EffectiveMarks(NamedTuple):
    """What the marks on a value itself keep, whatever is kept of its parts."""

    scalar_types: frozenset[str] | None
    """The types of scalars that are kept; None where no scalar is kept, not even null."""
    on_object: Mark
    """A mark shows that an object is present; a typed one may keep a free-form object whole."""
    on_array: Mark
    """A mark shows that an array is present; a typed one covers the scalars in it."""
    keeps_null: bool = True
    """Whether all candidates are marked: `null` may be what any of them means."""


_NO_MARKS = EffectiveMarks(None, Mark.NONE, Mark.NONE)


def effective_marks(
    candidates: Collection[Candidate], *, outside: Mark = Mark.NONE, in_marked_array: bool = False
) -> EffectiveMarks:
    """Return the marks that count for a value with these candidates.

    `outside` is a mark around the schemas, such as one on a parameter. `in_marked_array` says that the value stands in
    an array of scalars whose mark covers it (rule 2).
    """
    deciding = _deciding(candidates, outside)
    if deciding and all(each.is_scalar for each in deciding):
        return _marks_on_scalar(deciding, in_marked_array=in_marked_array)
    keeps_null = all(each.mark and each.is_definite for each in deciding)
    on_object, on_array = _weakest(deciding, _OBJECT), _weakest(deciding, _ARRAY)
    return EffectiveMarks(_marked_scalars(deciding), on_object, on_array, keeps_null)


def _marks_on_scalar(deciding: Collection[Candidate], *, in_marked_array: bool) -> EffectiveMarks:
    if not (in_marked_array or all(each.mark for each in deciding)):
        return _NO_MARKS
    types = frozenset[str]().union(*(each.plain_types for each in deciding))
    return EffectiveMarks(types, Mark.NONE, Mark.NONE)


def _marked_scalars(deciding: Collection[Candidate]) -> frozenset[str] | None:
    """Return the types of scalars that are kept beside containers; None if there are none.

    Scalars are one kind: a text that only some of their candidates mark may be what another one means by a number.
    """
    if _weakest(deciding, SCALAR_TYPES) is not Mark.TYPED:
        return None
    return frozenset[str]().union(*(each.plain_types for each in deciding)) & SCALAR_TYPES


def _deciding(candidates: Collection[Candidate], outside: Mark) -> list[Candidate]:
    """Return the candidates whose marks decide. One that is null alone holds no value, so it decides only by itself."""
    return [
        each._replace(mark=max(each.mark, outside))
        for each in candidates
        if each.is_described and (each.types != NULL or len(candidates) == 1)
    ]


def _weakest(deciding: Collection[Candidate], kind: frozenset[str]) -> Mark:
    """Return how all candidates that count for a kind of value mark it (rule 7)."""
    counting = [each for each in deciding if each.counts_for(kind)]
    if not all(each.is_definite for each in counting):
        return Mark.NONE
    return min((each.mark for each in counting), default=Mark.NONE)
