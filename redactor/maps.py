"""What schemas say of an object's undeclared keys: they are data, and only a marked map's are kept (rule 4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redactor.branches import Branch, Speech, Voices
from redactor.document import LoadedDocument
from redactor.key_patterns import KeyPattern

_MAP_KEYWORDS = ("patternProperties", "additionalProperties", "unevaluatedProperties")


def is_free_form(heard: Iterable[Branch]) -> bool:
    """Tell whether no branch declares anything about an object's parts."""
    nodes = [branch.place.node for branch in heard]
    if any(node.get("properties") for node in nodes):
        return False
    return not any(node.get(keyword, True) is not True for node in nodes for keyword in _MAP_KEYWORDS)


class PropertyNames:
    """What `propertyNames` says about an object's keys, marked or denied like values."""

    def __init__(self, document: LoadedDocument, voices: Speech) -> None:
        certain = {id(branch) for branch in voices.own}
        said = [
            (branch.grants and id(branch) in certain, Voices(document, [branch.part("propertyNames")]))
            for branch in voices.heard
            if "propertyNames" in branch.place.node
        ]
        self.denied = any(each.denied for _, each in said)
        self.marked = any(grants and each.marked and not each.composed for grants, each in said)


def is_map(branch: Branch) -> bool:
    """Tell whether a branch says anything of keys that it does not declare."""
    return any(isinstance(branch.place.node.get(keyword), dict) for keyword in _MAP_KEYWORDS)


class Map:
    """What one branch says of the keys that it does not declare."""

    def __init__(self, branch: Branch, document: LoadedDocument) -> None:
        node = branch.place.node
        self._branch = branch
        self.patterns: list[tuple[KeyPattern, Branch]] = []
        self._unknown: list[Branch] = []
        for text in node.get("patternProperties", ()):
            part = branch.part("patternProperties", text)
            pattern = KeyPattern.of(text)
            if pattern is None:
                document.findings.add(part.place.pointer, "unusable_pattern")
                self._unknown.append(part)
            else:
                self.patterns.append((pattern, part))
        self.others = (
            branch.part("additionalProperties") if _is_schema(node, "additionalProperties") else None
        )
        self._unevaluated = _is_schema(node, "unevaluatedProperties") and self.others is None
        self.denies_undeclared = bool(self._unknown) or self._unevaluated or not branch.grants

    def branches_for(self, name: str, *, grants: bool) -> list[Branch]:
        """Return what speaks, beside its declaration elsewhere, about a declared property."""
        part = self._branch.part
        found = [each._replace(grants=False) for each in self._unknown]
        said = [(pattern.matches(name), each) for pattern, each in self.patterns]
        in_doubt = any(matches is None for matches, _ in said)
        matched = [each for matches, each in said if matches is not False]
        found += [each._replace(grants=each.grants and grants and not in_doubt) for each in matched]
        if name in self._branch.place.node.get("properties", ()) or (matched and not in_doubt):
            return found
        if self.others is not None:
            found.append(part("additionalProperties", grants=grants and not in_doubt))
        elif self._unevaluated:
            found.append(part("unevaluatedProperties", grants=False))
        return found


def _is_schema(node: dict[str, Any], keyword: str) -> bool:
    return isinstance(node.get(keyword), dict)
