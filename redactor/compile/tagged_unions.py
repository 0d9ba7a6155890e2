"""Which property may say what alternative an object is: one that is kept itself (rule 7).

Such a tag is named by a discriminator, or has an `enum` or `const` in each of the alternatives. A discriminator comes
first, then a property whose lists share no value, then any other, each in document order. Where the discriminator has
no mapping, the lists win over the names of the schemas, because real documents are written that way.

Alternatives that share a value stay candidates together, unless another tag separates them. A property with the same
values in all alternatives is no tag: nothing is dropped because its value is missing or not listed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from redactor.compile.applicable_schemas import ApplicableSchemas, Choice
from redactor.compile.plan import canonical_text
from redactor.compile.schema_constraints import SchemaConstraints
from redactor.openapi.document import OpenApiDocument, Place

_Values: TypeAlias = list[frozenset[str]]
"""For each alternative, the canonical texts of the tag's values that select it."""


class Tag(NamedTuple):
    """A property whose value selects alternatives."""

    name: str
    selected: Mapping[str, tuple[int, ...]]
    """By the canonical text of a value, the indices of the alternatives that it selects."""


class TagFinder:
    """Finds the tags of one document's choices."""

    def __init__(
        self, document: OpenApiDocument, collect: Callable[[SchemaConstraints], ApplicableSchemas]
    ) -> None:
        self._document = document
        self._collect = collect

    def find(
        self,
        choice: Choice,
        indices: Sequence[int],
        properties: Sequence[Mapping[str, SchemaConstraints]],
        is_kept: Callable[[str], bool],
    ) -> Tag | None:
        """Return the tag of the alternatives at `indices`, or None.

        `properties` holds what each of these alternatives says of its properties; `is_kept` answers whether a property
        is kept whichever alternative applies.
        """
        discriminator = _discriminator_property(choice)
        second_choice: Tag | None = None
        for name in _names_in_all(choice, properties, discriminator):
            is_discriminator = name == discriminator
            values = self._values([each[name] for each in properties])
            if is_discriminator:
                values = self._discriminator_values(choice, indices, values)
            # `is_kept` comes last because it is the expensive check.
            if values is None or not _differ(values, or_empty=is_discriminator) or not is_kept(name):
                continue
            tag = Tag(name, _by_value(values, indices))
            if is_discriminator or _are_disjoint(values):
                return tag
            second_choice = second_choice or tag
        return second_choice

    def _values(self, constraints: Sequence[SchemaConstraints]) -> _Values | None:
        """Return the values that each alternative lists; None where one of them lists none."""
        found: _Values = []
        for each in constraints:
            values = self._collect(each).listed_values()
            if values is None:
                return None
            found.append(values)
        return found

    def _discriminator_values(
        self, choice: Choice, indices: Sequence[int], listed: _Values | None
    ) -> _Values | None:
        """Return the values by which the discriminator selects each alternative, as far as it lists them as well."""
        mapping = choice.discriminator.get("mapping")
        if listed is not None and not mapping:
            return listed
        names: _Values = []
        for index in indices:
            found = self._names_of(choice.places[index], mapping)
            if found is None:
                return listed
            names.append(found)
        if listed is None:
            return names
        return [one & other for one, other in zip(names, listed, strict=True)]

    def _names_of(self, place: Place, mapping: Any) -> frozenset[str] | None:
        """Return the values that select the schema at `place`; None where it is no reference to a named schema."""
        reference = place.node.get("$ref") if isinstance(place.node, dict) else None
        target = self._document.resolve(reference)
        if target is None:
            return None
        names = {str(reference).rpartition("/")[2]}
        for value, name in mapping.items() if isinstance(mapping, dict) else ():
            mapped = self._document.resolve_mapping(name)
            if mapped is not None and mapped.node is target.node:
                names.add(value)
            else:
                names.discard(value)
        return frozenset(map(canonical_text, names))


def _discriminator_property(choice: Choice) -> str | None:
    name = choice.discriminator.get("propertyName") if isinstance(choice.discriminator, dict) else None
    return name if isinstance(name, str) else None


def _names_in_all(
    choice: Choice, properties: Sequence[Mapping[str, SchemaConstraints]], first: str | None
) -> list[str]:
    """Return the properties that all alternatives have and that were no tag of theirs before; `first` goes first."""
    names = [
        name
        for name in properties[0]
        if name not in choice.used_tags and all(name in each for each in properties)
    ]
    return sorted(names, key=lambda name: name != first)


def _differ(values: _Values, *, or_empty: bool) -> bool:
    """Whether the alternatives list different values; with `or_empty`, also whether no value selects any of them."""
    return any(each != values[0] for each in values) or (or_empty and not values[0])


def _by_value(values: _Values, indices: Sequence[int]) -> dict[str, tuple[int, ...]]:
    selected: dict[str, list[int]] = {}
    for index, texts in zip(indices, values, strict=True):
        for text in sorted(texts):
            selected.setdefault(text, []).append(index)
    return {text: tuple(found) for text, found in selected.items()}


def _are_disjoint(values: _Values) -> bool:
    return sum(map(len, values)) == len(frozenset().union(*values))
