"""Random marked documents with bodies that fit them, and mutations of all that is not marked.

What is allowed is decided here from the shape a document was made of, before it is dressed up as a schema with
references, branches and denials: this does not look at the redactor's idea of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from hypothesis import strategies as st

CANARY = "§"
"""Stands in every text that is not allowed, and in none that is."""

Draw = st.DrawFn
Node = dict[str, Any]
ABSENT: Any = object()

TEXTS = ("string", "either")
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "string": st.text('abcé\u0000"\\\U0001f600', max_size=4),
    "boolean": st.booleans(),
    "integer": st.integers(-(10**20), 10**20),
    "number": st.floats(allow_nan=False, allow_infinity=False),
    "either": st.text("abcé", max_size=4) | st.integers(-9, 9),
}
TAG = "kind"
TAGS = ["one", "two", "three"]
NAMES = st.sampled_from(["a", "b", "c", "id", "x-auditable", "$ref", "properties", "é"])


class Veto(NamedTuple):
    """A branch of a choice that no object can be. What it declares is kept of none."""

    names: frozenset[str]
    is_contradictory: bool
    """Whether its types exclude one another, so that nothing can be it. Then it is an unmarked candidate for objects."""


@dataclass(frozen=True)
class Shape:
    """One value's shape: a scalar's type, or `object`, `array`, `map`, `free` (a free-form object), `untyped`, `closed`
    (a map beside a schema that admits no keys), or `tagged`: one of several objects, and which one its property TAG says.
    """

    kind: str
    marked: bool = False
    denied: bool = False
    parts: dict[str, Shape] = field(default_factory=dict)
    """An object's properties; an array's or map's only part is named `each`; of a tagged one the object by tag."""
    variants: tuple[Shape, ...] = ()
    """The branches of a choice that say together what this says; of a tagged one in the order of its parts."""
    veto: Veto | None = None
    """One more branch of the choice, which no object can be, and which declares some scalars."""

    @property
    def each(self) -> Shape:
        return self.parts["each"]

    def is_silent(self, *, marked_above: bool = False) -> bool:
        """Return whether no value of this shape shows anything."""
        if self.denied or self.kind == "untyped":
            return True
        if self.kind in SCALARS:
            return not (self.marked or marked_above)
        if self.marked or self.kind == "tagged":
            return False
        if self.kind in ("map", "free", "closed"):
            return True
        return all(part.is_silent() for part in self.parts.values())

    def shows(self, value: Any, *, marked_above: bool = False) -> bool:
        """Return whether a fitting value is shown at all."""
        if self.is_silent(marked_above=marked_above):
            return False
        if self.marked or self.kind in SCALARS or self.kind == "tagged":
            return True
        if self.kind == "array":
            return any(self.each.shows(item) for item in value)
        return any(name in value and part.shows(value[name]) for name, part in self.parts.items())


@st.composite
def shapes(draw: Draw, depth: int = 3) -> Shape:
    """Draw a shape with marks and denials of its own."""
    containers = (
        ["object", "object", "array", "map", "closed", "free", "untyped", "tagged"] if depth else ["free"]
    )
    kind = draw(st.sampled_from([*SCALARS, *containers]))
    marked = draw(st.booleans())
    denied = draw(st.integers(0, 9)) == 0
    parts: dict[str, Shape] = {}
    if kind in ("object", "tagged"):
        parts = draw(st.dictionaries(NAMES, shapes(depth - 1), min_size=1, max_size=4))
    elif kind in ("array", "map", "closed"):
        parts = {"each": draw(shapes(depth - 1))}
    if kind == "tagged":
        return draw(tagged(Shape("object", marked, denied, parts)))
    shape = Shape(kind, marked, denied, parts)
    is_choice = kind in ("object", "array", "map", "closed") and draw(st.booleans())
    return draw(choices(shape)) if is_choice else shape


@st.composite
def choices(draw: Draw, base: Shape) -> Shape:
    """Draw a choice between branches of the base's structure: it shows what each branch that has a part shows."""
    variants = tuple(draw(st.lists(variations(base), min_size=2, max_size=3)))
    return chosen(variants, draw(vetoes(base)))


@st.composite
def vetoes(draw: Draw, base: Shape) -> Veto | None:
    """Draw a branch that no object can be, for some choices between objects."""
    names = [name for name, part in base.parts.items() if part.kind in SCALARS]
    if base.kind != "object" or not names or draw(st.integers(0, 2)):
        return None
    declared = draw(st.lists(st.sampled_from(names), unique=True))
    return Veto(frozenset(declared), draw(st.booleans()))


def chosen(variants: tuple[Shape, ...], veto: Veto | None) -> Shape:
    """Return the shape of a choice between these branches."""
    shape = replace(in_common(variants), variants=variants, veto=veto)
    if veto is None:
        return shape
    parts = {
        name: replace(part, marked=False) if name in veto.names else part
        for name, part in shape.parts.items()
    }
    return replace(shape, marked=shape.marked and not veto.is_contradictory, parts=parts)


@st.composite
def tagged(draw: Draw, base: Shape) -> Shape:
    """Draw a choice whose branches are tagged by a property: a denial counts in whichever branch it stands."""
    variants = tuple(draw(st.lists(variations(replace(base, denied=False)), min_size=2, max_size=3)))
    tags = draw(st.permutations(TAGS))[: len(variants)]
    ways = {tag: denied_as_in(each, variants) for tag, each in zip(tags, variants, strict=True)}
    denied = base.denied or any(each.denied for each in variants)
    return Shape("tagged", all(each.marked for each in variants), denied, ways, variants)


@st.composite
def variations(draw: Draw, base: Shape) -> Shape:
    """Draw the same structure with other marks and denials, and some of an object's properties."""
    if draw(st.integers(0, 2)) == 0:
        return base
    marked = base.marked if draw(st.booleans()) else draw(st.booleans())
    denied = base.denied or draw(st.integers(0, 15)) == 0
    if base.variants:
        # Its marks stand on its own branches.
        return replace(base, denied=denied)
    if base.kind in SCALARS:
        return replace(base, marked=marked, denied=denied)
    names = list(base.parts)
    if base.kind == "object":
        names = draw(st.lists(st.sampled_from(names), unique=True, min_size=1)) if names else []
    return replace(
        base, marked=marked, denied=denied, parts={name: draw(variations(base.parts[name])) for name in names}
    )


def in_common(variants: Sequence[Shape]) -> Shape:
    """Return what branches of one structure show together: a mark needs all of them, a denial one."""
    first = variants[0]
    names = dict.fromkeys(name for each in variants for name in each.parts)
    parts = {name: in_common([each.parts[name] for each in variants if name in each.parts]) for name in names}
    return replace(
        first,
        marked=all(each.marked for each in variants),
        denied=any(each.denied for each in variants),
        parts=parts,
    )


def denied_as_in(shape: Shape, variants: Iterable[Shape]) -> Shape:
    """Return the shape with what any of the variants denies at the same place."""
    same = [*variants]
    parts = {
        name: denied_as_in(part, [each.parts[name] for each in same if name in each.parts])
        for name, part in shape.parts.items()
    }
    return replace(shape, denied=any(each.denied for each in same), parts=parts)


@st.composite
def roots(draw: Draw) -> Shape:
    """Draw the shape of a body: an object with something to keep and something to drop; every other one is a choice."""
    parts = draw(st.dictionaries(NAMES, shapes(), min_size=1, max_size=4))
    kept = Shape(draw(st.sampled_from(list(SCALARS))), marked=True)
    dropped = Shape(draw(st.sampled_from([*SCALARS, "untyped"])), marked=False)
    root = Shape("object", draw(st.booleans()), parts=parts)
    always = {"kept": kept, "dropped": dropped}
    if draw(st.booleans()):
        root = draw(choices(root))
        variants = tuple(replace(each, denied=False, parts=each.parts | always) for each in root.variants)
        return chosen(variants, root.veto)
    return replace(root, parts=parts | always)


DENIALS: st.SearchStrategy[Node] = st.sampled_from(
    [{"x-sensitive": True}, {"x-auditable": False}, {"format": "password"}, {"x-auditable": "true"}]
)


class Dressing:
    """Turns shapes into schemas that say the same in one of many ways; `components` are what they refer to."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self.components: dict[str, Node] = {}
        self.chosen = 0
        """How many choices there are between objects, or of other containers."""
        self.tagged_unions = 0
        """How many of them are tagged unions."""
        self.vetoed = 0
        """How many of them have a branch that no object can be."""
        self.closed = 0
        """How many maps stand beside a schema that admits no keys."""

    def schema(self, shape: Shape) -> Node:
        """Return a schema of this shape."""
        node = self._chosen(shape) if shape.variants else self._plain(shape)
        if shape.marked and not shape.variants:
            node["x-auditable"] = True
        style = self._draw(st.sampled_from(["plain", "plain", "reference", "wrapper", "split", "negation"]))
        if style == "reference":
            node = self._referred(node)
        elif style == "wrapper":
            node = self._wrapped(node)
        elif style == "split":
            node = self._split(node)
        elif style == "negation":
            node = node | {"not": {"required": ["never"]}}
        return self._denied(node) if shape.denied else node

    def _chosen(self, shape: Shape) -> Node:
        """Write a choice: some of its branches may be a choice themselves."""
        self.chosen += 1
        self.tagged_unions += shape.kind == "tagged"
        tags = list(shape.parts) if shape.kind == "tagged" else [None] * len(shape.variants)
        branches = [self._tagged(each, tag) for each, tag in zip(shape.variants, tags, strict=True)]
        keyword = self._draw(st.sampled_from(["oneOf", "anyOf"]))
        if shape.kind != "tagged" and len(branches) > 2 and self._draw(st.booleans()):
            branches = [{"anyOf": branches[:2]}, *branches[2:]]
        if shape.veto is not None:
            branches.insert(self._draw(st.integers(0, len(branches))), self._vetoing(shape, shape.veto))
        return {keyword: branches}

    def _vetoing(self, shape: Shape, veto: Veto) -> Node:
        """Write a branch that no object can be. Its marks count as little as its types fit."""
        self.vetoed += 1
        mark = self._draw(st.sampled_from([{}, {"x-auditable": True}]))
        properties = {name: {"type": "string"} | mark for name in sorted(veto.names)}
        if not veto.is_contradictory:
            return {"type": self._draw(st.sampled_from(["string", "integer"])), "properties": properties}
        branches = [{"type": "object", "properties": properties}, {"type": "string"}]
        return {"allOf": self._draw(st.permutations(branches))}

    def _tagged(self, shape: Shape, tag: str | None) -> Node:
        node = self.schema(shape)
        if tag is None:
            return node
        listing = {"type": "string", "x-auditable": True} | self._draw(
            st.sampled_from([{"enum": [tag]}, {"enum": [tag, f"{tag}'"]}, {"const": tag}])
        )
        return {"allOf": [node, {"type": "object", "properties": {TAG: listing}}]}

    def _plain(self, shape: Shape) -> Node:
        if shape.kind in SCALARS:
            return self._scalar(shape)
        if shape.kind in ("untyped", "free"):
            return {"type": "object"} if shape.kind == "free" else {}
        if shape.kind == "array":
            return {"type": "array", "items": self.schema(shape.each)}
        if shape.kind == "map":
            return {"type": "object", "additionalProperties": self.schema(shape.each)}
        if shape.kind == "closed":
            return self._closed(shape)
        return {
            "type": "object",
            "properties": {name: self.schema(part) for name, part in shape.parts.items()},
        }

    def _closed(self, shape: Shape) -> Node:
        """Write a map, and beside it a schema that admits none of its keys."""
        self.closed += 1
        node = {"type": "object", "additionalProperties": self.schema(shape.each)}
        closing: Node = {"additionalProperties": False} | self._draw(
            st.sampled_from([{}, {"properties": {}}, {"type": "object"}])
        )
        if shape.marked and self._draw(st.booleans()):
            # With patterns it is a map of its own, which needs a mark as well.
            closing |= {"type": "object", "x-auditable": True}
            closing["patternProperties"] = {"^never": {"type": "string", "x-auditable": True}}
        return node | {"allOf": [closing]}

    def _scalar(self, shape: Shape) -> Node:
        if shape.kind != "either":
            return {"type": shape.kind}
        mark = {"x-auditable": True} if shape.marked and self._draw(st.booleans()) else {}
        return {"anyOf": [{"type": "string"} | mark, {"type": "integer"} | mark]}

    def _referred(self, node: Node) -> Node:
        name = f"C{len(self.components)}"
        self.components[name] = node
        return {"$ref": f"#/components/schemas/{name}"}

    def _wrapped(self, node: Node) -> Node:
        """Wrap a schema as real documents do: its own mark beside an `allOf` of a reference to the rest."""
        mark = {"x-auditable": True} if "x-auditable" in node else {}
        bare = {keyword: value for keyword, value in node.items() if keyword != "x-auditable"}
        return {"allOf": [self._referred(bare)]} | mark

    def _split(self, node: Node) -> Node:
        """Spread a schema over branches; one may repeat a property without its mark, which takes nothing away."""
        properties: Node = node.get("properties", {})
        if not properties:
            return {"allOf": [node, {"description": "says nothing"}]}
        names = list(properties)
        cut = self._draw(st.integers(0, len(names)))
        rest = {keyword: value for keyword, value in node.items() if keyword != "properties"}
        first = rest | {"properties": {name: properties[name] for name in names[:cut]} | {names[-1]: {}}}
        second = {"properties": {name: properties[name] for name in names[cut:]}}
        return {"allOf": [first, second]}

    def _denied(self, node: Node) -> Node:
        denial = self._draw(DENIALS)
        style = self._draw(st.sampled_from(["own", "branch", "beside", "negation"]))
        if style == "own":
            return node | denial
        if style == "branch":
            return {"allOf": [node, denial]}
        if style == "negation":
            return {"allOf": [node, {"not": denial}]}
        return self._referred(node) | denial


@st.composite
def values(draw: Draw, shape: Shape, *, allowed: bool = True, marked_above: bool = False) -> Any:
    """Draw a value that fits. Texts in what is not allowed carry the canary."""
    allowed = allowed and not shape.denied
    if shape.kind in SCALARS:
        return draw(_scalars(shape.kind, shown=allowed and (shape.marked or marked_above)))
    if shape.kind == "tagged":
        tag = draw(st.sampled_from(list(shape.parts)))
        value = draw(values(shape.parts[tag], allowed=allowed)) | {TAG: tag if allowed else draw(secrets())}
        return _shuffled(draw, value)
    if shape.kind == "untyped":
        return draw(anything())
    if shape.kind == "array":
        scalars_are_marked = shape.marked and shape.each.kind in SCALARS
        element = values(shape.each, allowed=allowed, marked_above=scalars_are_marked)
        return draw(st.lists(element, max_size=3))
    if shape.kind in ("map", "free", "closed"):
        shown = allowed and shape.marked and shape.kind != "closed"
        part = (
            (clean() if shown else anything()) if shape.kind == "free" else values(shape.each, allowed=shown)
        )
        keys = st.text("kl", min_size=1, max_size=3)
        return draw(st.dictionaries(keys if shown else keys.map(CANARY.__add__), part, max_size=3))
    given = draw(st.lists(st.sampled_from(list(shape.parts)), unique=True)) if shape.parts else []
    return {name: draw(values(shape.parts[name], allowed=allowed)) for name in given}


def _scalars(kind: str, *, shown: bool) -> st.SearchStrategy[Any]:
    if shown:
        return st.integers(0, 9).flatmap(lambda dice: SCALARS[kind] if dice else st.none())
    return secrets() if kind in TEXTS else SCALARS[kind]


def secrets() -> st.SearchStrategy[str]:
    return st.text("xyz", max_size=4).map(CANARY.__add__)


def anything() -> st.SearchStrategy[Any]:
    """Any JSON value, its texts and keys all secret."""
    scalars = st.none() | st.booleans() | st.integers() | secrets()
    return st.recursive(
        scalars, lambda each: st.lists(each, max_size=3) | st.dictionaries(secrets(), each, max_size=3)
    )


def clean() -> st.SearchStrategy[Any]:
    """Any JSON value that may be shown."""
    scalars = st.none() | st.booleans() | st.integers() | SCALARS["string"]
    return st.recursive(
        scalars,
        lambda each: st.lists(each, max_size=2) | st.dictionaries(SCALARS["string"], each, max_size=2),
    )


@st.composite
def mutations(draw: Draw, shape: Shape, value: Any, *, marked_above: bool = False) -> Any:
    """Draw a value that differs from `value` in what is not allowed, and in nothing else; ABSENT where it goes."""
    if shape.is_silent(marked_above=marked_above):
        return draw(st.just(value) | st.just(ABSENT) | anything())
    if shape.kind in SCALARS or shape.kind == "free" or value is None:
        return value
    if shape.kind == "closed":
        return draw(st.dictionaries(secrets(), anything(), max_size=3))
    mutated: dict[str, Callable[[Shape, Any], st.SearchStrategy[Any]]] = {
        "array": _mutated_arrays,
        "map": _mutated_maps,
        "tagged": _mutated_unions,
        "object": _mutated_objects,
    }
    return draw(mutated[shape.kind](shape, value))


@st.composite
def _mutated_unions(draw: Draw, shape: Shape, value: Node) -> Node:
    rest = {name: each for name, each in value.items() if name != TAG}
    # One that is shown for its tag alone is a container of its own: it is there, and may be empty.
    way = replace(shape.parts[value[TAG]], marked=True)
    return _shuffled(draw, draw(mutations(way, rest)) | {TAG: value[TAG]})


@st.composite
def _mutated_objects(draw: Draw, shape: Shape, value: Node) -> Node:
    mutated = {}
    for name, part in shape.parts.items():
        if name in value and part.shows(value[name]):
            mutated[name] = draw(mutations(part, value[name]))
        elif not part.is_silent() and not part.marked:
            mutated[name] = draw(st.just(ABSENT) | _unfit(part))
        elif part.is_silent():
            mutated[name] = draw(st.just(ABSENT) | anything())
    mutated |= draw(st.dictionaries(secrets(), anything(), max_size=2))
    return _shuffled(draw, mutated)


@st.composite
def _mutated_arrays(draw: Draw, shape: Shape, value: list[Any]) -> list[Any]:
    marked_above = shape.marked and shape.each.kind in SCALARS
    mutated: list[Any] = []
    for element in value:
        mutated += draw(st.lists(_unfit(shape.each), max_size=1))
        if shape.each.shows(element, marked_above=marked_above):
            mutated.append(draw(mutations(shape.each, element, marked_above=marked_above)))
    mutated += draw(st.lists(_unfit(shape.each), max_size=2))
    return [element for element in mutated if element is not ABSENT]


@st.composite
def _mutated_maps(draw: Draw, shape: Shape, value: Node) -> Node:
    shown = {key: each for key, each in value.items() if shape.each.shows(each)}
    mutated = {key: draw(mutations(shape.each, each)) for key, each in shown.items()}
    mutated |= draw(st.dictionaries(secrets(), _unfit(shape.each), max_size=2))
    return _shuffled(draw, mutated)


def _unfit(shape: Shape) -> st.SearchStrategy[Any]:
    """A value of another type than the shape's."""
    if shape.kind in SCALARS:
        return st.dictionaries(secrets(), anything(), max_size=2) | st.lists(secrets(), max_size=2)
    unfit: st.SearchStrategy[Any] = secrets() | st.integers() | st.booleans()
    # Where every way is marked, that an object is there is shown whatever its tag says.
    if shape.kind == "tagged" and not all(way.marked for way in shape.parts.values()):
        unfit |= st.dictionaries(secrets(), anything(), max_size=2)
        unfit |= st.fixed_dictionaries({TAG: anything(), "a": anything(), "kept": anything()})
    return unfit if shape.marked else unfit | st.none()


def _shuffled(draw: Draw, mapping: Node) -> Node:
    names = draw(st.permutations(list(mapping)))
    return {name: mapping[name] for name in names if mapping[name] is not ABSENT}
