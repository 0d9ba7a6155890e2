"""What a change of the document makes visible or hides: leaves that are kept, compared operation by operation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from redactor.coverage import OperationCoverage

CHANGES_MAX = 10_000
_VARIABLE = re.compile(r"\{[^{}]*\}")


class Change(NamedTuple):
    """One leaf that is kept in one document and not in the other. `where`: side, status and media type."""

    exposed: bool
    operation: str
    pointer: str
    where: str
    path: str


def changes_between(old: Sequence[OperationCoverage], new: Sequence[OperationCoverage]) -> Iterator[Change]:
    """Yield what `new` keeps and `old` does not, then the reverse; operations are told by method and path.

    The names of a path's variables do not count, so that renaming one changes nothing but the variable itself.
    """
    before, after = ({_key(each): each for each in documents} for documents in (old, new))
    for key, operation in after.items():
        known = set(before[key].kept_paths()) if key in before else set()
        yield from _missing(operation, known, exposed=True)
    for key, operation in before.items():
        known = set(after[key].kept_paths()) if key in after else set()
        at = after.get(key)
        yield from _missing(operation, known, exposed=False, pointer=None if at else "/paths")


def _key(operation: OperationCoverage) -> str:
    return _VARIABLE.sub("{}", operation.name)


def _missing(
    operation: OperationCoverage, known: set[tuple[str, str]], *, exposed: bool, pointer: str | None = None
) -> Iterator[Change]:
    at = operation.operation.place.pointer if pointer is None else pointer
    for where, path in dict.fromkeys(operation.kept_paths()):
        if (where, path) not in known:
            yield Change(exposed, operation.name, at, where, path)
