"""Which property may tell a choice's alternatives apart: one that is kept itself (rule 7).

It is a discriminator, or has an `enum` or `const` in each of the alternatives. A discriminator goes before a property
whose lists share no value, and that before any other, each in document order. Where the discriminator has no mapping,
the lists go before the schemas' names, as documents have it. Alternatives that one value admits together stay candidates
together, unless another property tells these apart. A property whose values are the same in all of them tells nothing:
its value is not looked at, so that one that lags behind, or is left out, drops nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from redactor.branches import Choice, Voices
from redactor.document import LoadedDocument, Place
from redactor.plan import canonical
from redactor.said import Said, mapped_place


class Tag(NamedTuple):
    """A property that tells alternatives apart, and which of them each of its values admits."""

    name: str
    ways: Mapping[str, tuple[int, ...]]


class Tags:
    """Finds the tags of a document's choices."""

    def __init__(self, document: LoadedDocument, hear: Callable[[Said], Voices]) -> None:
        self._document = document
        self._hear = hear

    def tag(
        self,
        choice: Choice,
        indices: Sequence[int],
        parts: Sequence[Mapping[str, Said]],
        is_kept: Callable[[str], bool],
    ) -> Tag | None:
        """Return what tells apart the alternatives at `indices`, whose properties `parts` holds.

        `is_kept` says whether the property of a name is kept whichever alternative it is.
        """
        shared = [
            name for name in parts[0] if name not in choice.told and all(name in each for each in parts)
        ]
        named = self._discriminator(choice)
        shared.sort(key=lambda name: name != named)
        second_best: Tag | None = None
        for name in shared:
            values = self._listed([each[name] for each in parts])
            if name == named:
                values = self._named(choice, indices, values)
            if values is None or not _tell_apart(values, or_nothing=name == named) or not is_kept(name):
                continue
            tag = Tag(name, _inverted(values, indices))
            if name == named or _are_disjoint(values):
                return tag
            second_best = second_best or tag
        return second_best

    def _discriminator(self, choice: Choice) -> str | None:
        name = choice.discriminator.get("propertyName") if isinstance(choice.discriminator, dict) else None
        return name if isinstance(name, str) else None

    def _listed(self, said: Sequence[Said]) -> list[frozenset[str]] | None:
        """Return the values that each alternative lists; None where one lists none."""
        found: list[frozenset[str]] = []
        for each in said:
            values = self._hear(each).listed_values()
            if values is None:
                return None
            found.append(values)
        return found

    def _named(
        self, choice: Choice, indices: Sequence[int], listed: list[frozenset[str]] | None
    ) -> list[frozenset[str]] | None:
        """Return the values by which the discriminator names each alternative, as far as it lists them, too."""
        mapping = choice.discriminator.get("mapping")
        if listed is not None and not mapping:
            return listed
        names: list[frozenset[str]] = []
        for index in indices:
            found = self._names(choice.places[index], mapping)
            if found is None:
                return listed
            names.append(found)
        if listed is None:
            return names
        return [one & other for one, other in zip(names, listed, strict=True)]

    def _names(self, place: Place, mapping: Any) -> frozenset[str] | None:
        """Return the values that name the schema at `place`; None where it has no name of its own."""
        reference = place.node.get("$ref") if isinstance(place.node, dict) else None
        target = self._document.resolve(reference)
        if target is None:
            return None
        names = {str(reference).rpartition("/")[2]}
        for value, name in mapping.items() if isinstance(mapping, dict) else ():
            mapped = mapped_place(self._document, name)
            if mapped is not None and mapped.node is target.node:
                names.add(value)
            else:
                names.discard(value)
        return frozenset(map(canonical, names))


def _tell_apart(values: Sequence[frozenset[str]], *, or_nothing: bool) -> bool:
    """Tell whether values differ between alternatives; `or_nothing`: or whether no value is any alternative's."""
    return any(each != values[0] for each in values) or (or_nothing and not values[0])


def _inverted(values: Sequence[frozenset[str]], indices: Sequence[int]) -> dict[str, tuple[int, ...]]:
    ways: dict[str, list[int]] = {}
    for index, texts in zip(indices, values, strict=True):
        for text in sorted(texts):
            ways.setdefault(text, []).append(index)
    return {text: tuple(admitted) for text, admitted in ways.items()}


def _are_disjoint(values: Sequence[frozenset[str]]) -> bool:
    return sum(map(len, values)) == len(frozenset().union(*values))
