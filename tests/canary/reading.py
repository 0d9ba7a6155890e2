"""The rules read a second time, plainly and without the redactor: what may leave of one value, and why.

Slow and short on purpose. It reads the document as it is, a value at a time, and knows three answers: the value must
leave, it must not, or the documents leave it open, and then a name says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

Node = dict[str, Any]

CONTAINERS = {"object", "array"}
SCALARS = {"string", "boolean", "integer", "number"}
DENYING = ("not", "if", "then", "else")


class Verdict(NamedTuple):
    """What becomes of a value. `recorded` is None where it may or may not."""

    recorded: bool | None
    rule: str


UNMARKED = Verdict(False, "1: not marked")
KEYS_UNMARKED = Verdict(False, "4: a key of a map that is not marked itself")
CLOSED = Verdict(False, "4: a key of a map beside a schema that admits none")
INERT = Verdict(False, "5: the mark stands where it counts for nothing")
DENIED = Verdict(False, "5: denied")
UNTYPED = Verdict(False, "4: a mark on no type, or on several kinds")
ANOTHER_TYPE = Verdict(False, "6: of another type")
NOT_LISTED = Verdict(False, "6: not in `enum` at a status of 400 or above")
DISPUTED = Verdict(False, "7: a candidate declares it unmarked")
GET = Verdict(False, "8: a body of GET or HEAD")
MEDIA_TYPE = Verdict(False, "9: a media type, or a file, that is not read")
ENVELOPE = Verdict(False, "12: outside the envelope")
PATH = Verdict(False, "13: a path parameter not recorded")
QUERY = Verdict(False, "13: in the query, not marked")
URL = Verdict(False, "13: userinfo, fragment or host")
HEADER = Verdict(False, "14: a header not listed, or not once")
OPTED_OUT = Verdict(False, "5: the operation opted out")
NO_SCHEMA = Verdict(False, "1: no schema for this status or media type")
KEPT = Verdict(True, "2: marked")
KEPT_FREE_FORM = Verdict(True, "4: in a marked free-form object")
KEPT_MAP_KEY = Verdict(True, "4: a key of a marked map")
KEPT_AGREED = Verdict(True, "7: marked by every candidate that declares it")
KEPT_PATH = Verdict(True, "13: a path parameter recorded by name or mark")
KEPT_QUERY = Verdict(True, "13: a marked query parameter")
KEPT_HEADER = Verdict(True, "14: a listed header")
OPEN_TAGGED = Verdict(None, "7: the candidates may be a tagged union")
OPEN_COMPOSED = Verdict(None, "7: a composition of several kinds or levels")


def is_denied(node: Node) -> bool:
    """Return whether a node denies what it describes (rules 1 and 5)."""
    auditable = node.get("x-auditable", True)
    return bool(node.get("x-sensitive")) or auditable is not True or node.get("format") == "password"


def is_marked(node: Node) -> bool:
    return node.get("x-auditable") is True


class ApplicableSchema(NamedTuple):
    """A schema that applies to a value. `grants`: its mark counts. `choice`: the branches of oneOf and anyOf, as
    (which list, which of it), that it is a part of.
    """

    node: Node
    grants: bool = True
    choice: tuple[tuple[int, int], ...] = ()


class Document:
    """An OpenAPI document as parsed JSON."""

    def __init__(self, root: Node) -> None:
        self.root = root
        self.is_3_0 = str(root["openapi"]).startswith("3.0")
        self._tagged: dict[int, bool] | None = None

    def resolve(self, node: Any) -> Any:
        """Return what a node's `$ref` leads to, else the node."""
        seen = 0
        while isinstance(node, dict) and isinstance(node.get("$ref"), str) and seen < 50:
            node = self._at(node["$ref"])
            seen += 1
        return node

    def chain(self, node: Any) -> list[Node]:
        """Return a node and all that its `$ref` leads to."""
        found: list[Node] = []
        while isinstance(node, dict) and len(found) < 50:
            found.append(node)
            if "$ref" not in node:
                break
            node = self._at(node["$ref"])
        return found

    def _at(self, reference: str) -> Any:
        node: Any = self.root
        for step in reference.removeprefix("#/").split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(node, list):
                node = node[int(name)] if name.isdecimal() and int(name) < len(node) else None
            else:
                node = node.get(name) if isinstance(node, dict) else None
        return node

    def applicable_schemas(self, starts: Iterable[ApplicableSchema]) -> list[ApplicableSchema]:
        """Return every schema that applies to the value which the first ones describe."""
        found: dict[tuple[int, bool, tuple[tuple[int, int], ...]], ApplicableSchema] = {}
        waiting = list(starts)
        while waiting:
            schema = waiting.pop(0)
            key = (id(schema.node), schema.grants, schema.choice)
            if isinstance(schema.node, dict) and key not in found and len(found) < 2_000:
                found[key] = schema
                waiting.extend(self._beside(schema))
        return list(found.values())

    def _beside(self, schema: ApplicableSchema) -> Iterator[ApplicableSchema]:
        node, grants, choice = schema
        if "$ref" in node:
            yield ApplicableSchema(self._at(node["$ref"]), grants, choice)
            grants = grants and not self.is_3_0
        for part in node.get("allOf", ()):
            yield ApplicableSchema(part, grants, choice)
        for keyword in ("oneOf", "anyOf"):
            listed = node.get(keyword, ())
            for index, part in enumerate(listed):
                yield ApplicableSchema(part, grants, (*choice, (id(listed), index)))
        for keyword in DENYING:
            if keyword in node:
                yield ApplicableSchema(node[keyword], False, choice)

    def may_be_tagged(self, composition: int) -> bool:
        """Return whether a composition, by the identity of its list, might be a union tagged by a property (rule 7)."""
        if self._tagged is None:
            self._tagged = dict(self._tagged_unions())
        return composition in self._tagged

    def _tagged_unions(self) -> Iterator[tuple[int, bool]]:
        waiting: list[Any] = [self.root]
        while waiting:
            node = waiting.pop()
            if isinstance(node, dict):
                for keyword in ("oneOf", "anyOf"):
                    listed = node.get(keyword)
                    if isinstance(listed, list) and ("discriminator" in node or self._all_list(listed)):
                        yield id(listed), True
                waiting.extend(node.values())
            elif isinstance(node, list):
                waiting.extend(node)

    def _all_list(self, branches: Sequence[Any]) -> bool:
        """Return whether every branch declares one and the same property with `enum` or `const`."""
        common: set[str] | None = None
        for branch in branches:
            names = {
                name
                for each in self.applicable_schemas([ApplicableSchema(branch)])
                for name, part in each.node.get("properties", {}).items()
                if any(
                    "enum" in one.node or "const" in one.node
                    for one in self.applicable_schemas([ApplicableSchema(part)])
                )
            }
            common = names if common is None else common & names
        return bool(common)


def _admits(declared: Any, kind: str) -> bool:
    kinds = declared if isinstance(declared, list) else [declared]
    return kind in kinds or (kind == "integer" and "number" in kinds)


class Position:
    """One place in a body: all schemas that apply to the value there."""

    def __init__(
        self,
        document: Document,
        starts: Iterable[ApplicableSchema],
        *,
        denied: bool = False,
        strict: bool = False,
    ) -> None:
        self.document = document
        self.schemas = document.applicable_schemas(starts)
        self.denied = denied or any(is_denied(each.node) for each in self.schemas)
        self.strict = strict
        """The status is 400 or above."""
        self.array: Position | None = None
        """The array that this is an element of."""
        self.in_tagged_union = False
        """Whether a property beside or above this one may be the tag of a union."""

    @property
    def is_composed(self) -> bool:
        return any(each.choice for each in self.schemas)

    @property
    def granting(self) -> list[ApplicableSchema]:
        # Beside a `$ref` nothing grants in 3.0, even where the schema itself would.
        inert = self.document.is_3_0
        return [each for each in self.schemas if each.grants and not (inert and "$ref" in each.node)]

    def kinds(self) -> set[str]:
        """Return the types that every granting schema admits; empty where none names one."""
        admitted: set[str] | None = None
        for each in self.granting:
            if "type" in each.node and not each.choice:
                declared = each.node["type"] if isinstance(each.node["type"], list) else [each.node["type"]]
                wide = {*declared, "integer"} if "number" in declared else set(declared)
                admitted = wide if admitted is None else admitted & wide
        return (admitted or set()) - {"null"}

    def excludes(self, kind: str) -> bool:
        """Return whether no value of type `kind` is described: types that contradict, or no branch that admits it."""
        return self._refuses(kind, ())

    def _refuses(self, kind: str, branch: tuple[tuple[int, int], ...]) -> bool:
        """Return whether one branch of a composition, or the whole, admits no value of type `kind`."""
        below: dict[int, set[int]] = {}
        for each in self.granting:
            if each.choice == branch and "type" in each.node and not _admits(each.node["type"], kind):
                return True
            if len(each.choice) > len(branch) and each.choice[: len(branch)] == branch:
                composition, index = each.choice[len(branch)]
                below.setdefault(composition, set()).add(index)
        return any(
            all(self._refuses(kind, (*branch, (composition, index))) for index in indexes)
            for composition, indexes in below.items()
        )

    def marks(self) -> list[ApplicableSchema]:
        return [each for each in self.granting if is_marked(each.node)]

    def child(self, starts: Iterable[ApplicableSchema]) -> Position:
        return Position(self.document, starts, denied=self.denied, strict=self.strict)

    def properties(self) -> dict[str, Position]:
        """Return the position of every declared property."""
        names = dict.fromkeys(name for each in self.schemas for name in each.node.get("properties", ()))
        found = {name: self.property(name) for name in names}
        tagged = self.in_tagged_union or any(each.may_be_tag() for each in found.values())
        for each in found.values():
            each.in_tagged_union = tagged
        return found

    def may_be_tag(self) -> bool:
        """Return whether more than one branch lists values for this property."""
        listing = [each for each in self.schemas if "enum" in each.node or "const" in each.node]
        return len({each.choice for each in listing if each.choice}) > 1

    def property(self, name: str) -> Position:
        starts: list[ApplicableSchema] = []
        for each in self.schemas:
            if name in each.node.get("properties", ()):
                starts.append(ApplicableSchema(each.node["properties"][name], each.grants, each.choice))
            elif isinstance(each.node.get("additionalProperties"), dict):
                # A key of a map that another branch declares: its schema may deny, its grant is not counted on.
                starts.append(ApplicableSchema(each.node["additionalProperties"], False, each.choice))
        return self.child(starts)

    def entry(self) -> Position | None:
        """Return the position of a map's values; None where no schema is declared for them."""
        starts = [
            ApplicableSchema(each.node["additionalProperties"], each.grants, each.choice)
            for each in self.schemas
            if isinstance(each.node.get("additionalProperties"), dict)
        ]
        return self.child(starts) if starts else None

    def element(self) -> Position | None:
        starts = [
            ApplicableSchema(each.node["items"], each.grants, each.choice)
            for each in self.schemas
            if isinstance(each.node.get("items"), dict)
        ]
        if not starts:
            return None
        element = self.child(starts)
        element.array, element.in_tagged_union = self, self.in_tagged_union
        return element

    def is_free_form(self) -> bool:
        """Return whether a mark here keeps whatever stands in the object (rule 4)."""
        return self.kinds() == {"object"} and not any(
            each.node.get("properties")
            or each.node.get("patternProperties")
            or isinstance(each.node.get("additionalProperties"), dict)
            or each.node.get("additionalProperties") is False
            for each in self.schemas
        )

    def may_be_free_form(self) -> bool:
        """Return whether branches of a composition alone say that this is a free-form object."""
        return self.is_composed and bool(self.marks()) and not self.properties() and self.entry() is None

    def container_verdict(self) -> Verdict:
        """Return whether the mark on an object or array itself counts: for its presence, a free form, or map keys."""
        if self.denied:
            return DENIED
        if not self.marks():
            return UNMARKED
        if self.is_composed:
            return OPEN_COMPOSED
        return KEPT if len(self.kinds()) == 1 else UNTYPED

    def keys_verdict(self) -> Verdict:
        """Return whether the keys of a map are recorded: each map must be marked itself (rule 4)."""
        verdict = self.container_verdict()
        if any(self._admits_no_key(each) for each in self.schemas):
            return CLOSED if verdict.recorded else verdict
        maps = [each for each in self.schemas if isinstance(each.node.get("additionalProperties"), dict)]
        if verdict.recorded is False or all(is_marked(each.node) for each in maps):
            return verdict
        return OPEN_COMPOSED if any("propertyNames" in each.node for each in maps) else KEYS_UNMARKED

    @staticmethod
    def _admits_no_key(schema: ApplicableSchema) -> bool:
        node = schema.node
        is_closed = node.get("additionalProperties") is False and not node.get("patternProperties")
        return schema.grants and not schema.choice and is_closed

    def scalar_verdict(self, kind: str) -> Verdict:
        """Return what becomes of a scalar of type `kind` that stands here."""
        if self.denied:
            return DENIED
        marks = self._scalar_marks()
        if not marks:
            inert = any(is_marked(each.node) for each in self.schemas)
            return INERT if inert else UNMARKED
        if self.is_composed:
            return self._composed_verdict(marks)
        kinds = self.kinds()
        if not kinds or kinds & CONTAINERS:
            return UNTYPED
        if kind not in kinds:
            return ANOTHER_TYPE
        return NOT_LISTED if self.strict and self.lists_values() else KEPT

    def lists_values(self) -> bool:
        return any("enum" in each.node or "const" in each.node for each in self.granting)

    def _scalar_marks(self) -> list[ApplicableSchema]:
        """Return the marks that count for a scalar: its own, and those on the array of scalars that it stands in."""
        marks = self.marks()
        if (
            self.array is not None
            and self.array.kinds() in ({"array"}, set())
            and not self.kinds() & CONTAINERS
        ):
            marks += self.array.marks()
        return marks

    def _composed_verdict(self, marks: Sequence[ApplicableSchema]) -> Verdict:
        """Return what becomes of a scalar that branches of oneOf and anyOf describe (rule 7)."""
        if self.strict or any(not each.choice for each in marks) or self._branches_of_its_own():
            return OPEN_COMPOSED
        if self.in_tagged_union or any(
            self.document.may_be_tagged(composition)
            for each in self.schemas
            for composition, _ in each.choice
        ):
            return OPEN_TAGGED
        declaring = {each.choice for each in self.schemas if each.choice and "$ref" not in each.node}
        granting = {each.choice for each in marks}
        if len({len(choice) for choice in declaring}) > 1:
            return OPEN_COMPOSED
        typed = [each for each in self.schemas if each.choice in granting and "type" in each.node]
        kinds = {str(each.node["type"]) for each in typed}
        if len(kinds) != 1 or kinds & CONTAINERS or len(typed) < len(granting):
            return OPEN_COMPOSED
        counting = {choice for choice in declaring if not self._is_container_alone(choice)}
        return KEPT_AGREED if counting <= granting else DISPUTED

    def _is_container_alone(self, choice: tuple[tuple[int, int], ...]) -> bool:
        """Return whether a branch names objects and arrays alone, so that it says nothing of a scalar."""
        declared = [
            each.node["type"] for each in self.granting if each.choice == choice and "type" in each.node
        ]
        return bool(declared) and all(isinstance(each, str) and each in CONTAINERS for each in declared)

    def _branches_of_its_own(self) -> bool:
        return any(keyword in each.node for each in self.schemas for keyword in ("oneOf", "anyOf"))
