"""Keywords that are nearly a mark or a denial: they mean nothing, which nobody would notice."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from redactor.document import LoadedDocument
from redactor.lint_checks import Finding
from redactor.marks import mappings_of, nodes_of

_KEYWORDS = ("x-auditable", "x-sensitive")
_CODES = {"x-auditable": "mark_misspelt", "x-sensitive": "denial_misspelt"}
_BARE = {"auditable": "x-auditable", "sensitive": "x-sensitive"}
_EDITS_MAX = 2


def misspelt_keywords(document: LoadedDocument) -> Iterator[Finding]:
    """Yield what stands where a keyword may and is nearly `x-auditable` or `x-sensitive`."""
    if not any(_meant(name) for node in mappings_of(document.root) for name in node):
        return
    for site in nodes_of(document):
        for name, value in site.place.node.items():
            meant = _meant(name)
            # Without its `x-` it may be anything, unless it says yes or no.
            if meant is not None and (name.lower() not in _BARE or isinstance(value, bool)):
                pointer = site.place.child(name).pointer
                yield Finding(_CODES[meant], pointer, f"{name} means nothing: {meant} may have been meant")


@lru_cache(maxsize=4096)
def _meant(name: str) -> str | None:
    """Return the keyword that a name is nearly, and is not."""
    if name in _KEYWORDS or not 8 <= len(name) <= 14:
        return None
    plain = name.lower().replace("_", "-")
    if plain in _BARE:
        return _BARE[plain]
    if not plain.startswith("x"):
        return None
    return next((each for each in _KEYWORDS if _edits(plain, each) <= _EDITS_MAX), None)


def _edits(one: str, other: str) -> int:
    """Return how many characters must be put in, taken out or exchanged to make one text of the other."""
    row = list(range(len(other) + 1))
    for above, character in enumerate(one, 1):
        before, row[0] = row[0], above
        for column, expected in enumerate(other, 1):
            kept = before + (character != expected)
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, kept)
    return row[-1]
