"""What a value may be, and which of its marks count: composition without ever validating (rules 4 and 7)."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from redactor.kinds import NULL, SCALAR_KINDS, Kinds, both

UNMARKED, STRAY, OWN = 0, 1, 2
"""How a candidate is marked: a stray mark stands on a schema that does not say the type itself."""

_OBJECT = frozenset({"object"})
_ARRAY = frozenset({"array"})


class Candidate(NamedTuple):
    """One combination of alternatives, as far as types and marks go."""

    kinds: Kinds
    mark: int
    is_declared: bool
    """Whether it says anything of the value at all."""

    def beside(self, other: Candidate) -> Candidate:
        """Return what both say together: types of both, marks of either."""
        return Candidate(
            both(self.kinds, other.kinds),
            max(self.mark, other.mark),
            self.is_declared or other.is_declared,
        )

    @property
    def plain_kinds(self) -> frozenset[str]:
        """The types it admits, `null` left aside; empty where it says none."""
        return frozenset() if self.kinds is None else self.kinds - NULL

    @property
    def is_scalar(self) -> bool:
        """Tell whether it is a scalar for sure."""
        return self.kinds is not None and self.plain_kinds <= SCALAR_KINDS

    @property
    def is_definite(self) -> bool:
        """Tell whether a mark on it can count: it is scalars, or objects, or arrays, and not a mixture (rule 4)."""
        return self.is_scalar or self.plain_kinds in (_OBJECT, _ARRAY)

    def admits(self, kind: str) -> bool:
        """Tell whether the value may be of this type."""
        return self.kinds is None or kind in self.kinds


class Standing(NamedTuple):
    """What the marks on a value itself keep, whatever is kept of its parts."""

    scalar_kinds: frozenset[str] | None
    """The types of scalars that are kept; None where none is, not even null."""
    of_object: int
    """The mark that an object has: a stray one shows its presence, its own may keep a free-form one whole."""
    of_array: int
    """The mark that an array has: its own covers the scalars in it."""


def standing(
    candidates: Collection[Candidate], *, outside: int = UNMARKED, in_marked_array: bool = False
) -> Standing:
    """Return what counts: a mark that every candidate has, on scalars if all are scalars, else where it stands.

    `outside`: a mark that stands around the schemas; `in_marked_array`: one on the array of this scalar.
    """
    told = [
        each._replace(mark=max(each.mark, outside))
        for each in candidates
        if each.is_declared and (each.kinds != NULL or len(candidates) == 1)
    ]
    every = bool(told) and all(each.mark for each in told)
    if told and all(each.is_scalar for each in told):
        kinds = frozenset[str]().union(*(each.plain_kinds for each in told))
        return Standing(kinds if every or in_marked_array else None, UNMARKED, UNMARKED)
    if not every or not all(each.is_definite for each in told):
        return Standing(None, UNMARKED, UNMARKED)
    scalars = frozenset(
        kind
        for kind in SCALAR_KINDS
        if (able := [each for each in told if kind in each.plain_kinds])
        and all(each.mark == OWN for each in able)
    )
    return Standing(scalars or None, _weakest(told, "object"), _weakest(told, "array"))


def _weakest(told: Collection[Candidate], kind: str) -> int:
    return min((each.mark for each in told if each.admits(kind)), default=UNMARKED)
