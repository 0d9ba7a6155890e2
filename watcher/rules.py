"""Rules: a YAML file held to its schema, compiled once. Pure.

The order counts: a record that a `drop` rule fits is not seen by the rules below it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml
from jsonschema import ValidationError

from schemas.errors import AuditapError
from schemas.explain import validator
from watcher.conditions import Condition, UnfitCondition, condition
from watcher.facts import Facts, Field, Values, field

SCHEMA = "alert_rules"
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DEFAULT_WINDOW_MS = 600_000
_WINDOW_MS_MAX = 7 * 86_400_000
_HORIZON_MS_MAX = 30 * 86_400_000
_HOPS_MAX = 120
_NODES_MAX = 200_000
_DEPTH_MAX = 40
BYTES_MAX = 4 << 20
"""How large a file of rules may be."""
_PRINTED_KEY = re.compile(r"'([^']*)'")
_Path = tuple[str | int, ...]


class RulesRefused(AuditapError):
    """A file of rules cannot be used. The message is one sentence with its line and the reason."""

    def __init__(self, name: str, line: int, reason: str) -> None:
        super().__init__(f"{name}, line {line}: {reason}.")
        self.line = line


@dataclass(frozen=True, slots=True)
class Window:
    """Windows begin at every multiple of `hop_ms` of Unix time; tumbling where it is their size."""

    size_ms: int
    hop_ms: int

    def starts(self, at_ms: int) -> range:
        """Return when the windows begin that hold a moment, the earliest first."""
        last = at_ms - at_ms % self.hop_ms
        hops = (self.size_ms - 1 - at_ms % self.hop_ms) // self.hop_ms
        return range(last - hops * self.hop_ms, last + 1, self.hop_ms)


@dataclass(frozen=True, slots=True)
class Usual:
    """Above `times` the mean of the `windows` windows before."""

    times: float
    windows: int


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What is remembered, by key, and what of it raises; see the schema."""

    raised_by: str
    key: tuple[tuple[str, Field], ...]
    learn_when: Condition | None
    learn_value: tuple[Field, ...]
    value: tuple[Field, ...]
    values: tuple[bytes, ...]
    network: tuple[int, int] | None

    def asked(self, facts: Facts) -> Sequence[bytes]:
        """Return digests of what is looked for."""
        return self.values if self.raised_by == "known" else self._digests(self.value, facts)

    def lessons(self, facts: Facts, *, fits: bool) -> Sequence[bytes]:
        """Return digests of what the record teaches. `fits`: whether it is one that the rule is about."""
        if self.learn_when is None:
            return self._digests(self.value, facts) if fits else ()
        return self._digests(self.learn_value, facts) if self.learn_when(facts) else ()

    def sameness(self, rule: str, facts: Facts) -> Hashable:
        """Return what two records have in common of which the second is no news; None where any may be."""
        if self.learn_when is not None:
            return None
        key = [list(read(facts)) for _, read in self.key]
        # Digested, because many of them are held, and values may be long.
        return rule, digest([facts.record.account_id, key, [list(read(facts)) for read in self.value]])

    def _digests(self, fields: Sequence[Field], facts: Facts) -> Sequence[bytes]:
        values: Values = next((found for read in fields if (found := read(facts))), ())
        if self.network is not None:
            values = [network for value in values if (network := _network(value, self.network))]
        return [digest(value) for value in values]


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One rule. `threshold` records of a key in a window raise one alert."""

    name: str
    title: str
    severity: str
    when: Condition
    key: tuple[tuple[str, Field], ...]
    window: Window
    threshold: int
    usual: Usual | None
    memory: Memory | None
    channels: tuple[str, ...]

    @property
    def drops(self) -> bool:
        """Whether records that fit are kept from the rules below."""
        return self.severity == "drop"

    @property
    def counts(self) -> bool:
        """Whether one record is not enough."""
        return self.threshold > 1 or self.usual is not None


@dataclass(frozen=True, slots=True)
class Channel:
    """Where alerts are told."""

    name: str
    type: str
    url: str | None = None
    url_file: str | None = None
    secret_file: str | None = None


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Everything one file says. `digest`: of its bytes."""

    rules: tuple[Rule, ...]
    channels: Mapping[str, Channel]
    digest: str


def digest(value: Any) -> bytes:
    """Return the 16 bytes that stand for a value of JSON."""
    return hashlib.blake2b(msgspec.json.encode(value), digest_size=16).digest()


def read_rules(text: bytes, name: str) -> RuleSet:
    """Return the rules of a file. Raises RulesRefused, with `name`, line and reason."""
    if len(text) > BYTES_MAX:
        raise RulesRefused(name, 1, f"it is larger than {BYTES_MAX} bytes")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _Extent(name).check(node)
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        raise RulesRefused(name, line, f"it is not YAML ({error.problem})") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError):
        raise RulesRefused(name, 1, "it is not YAML in UTF-8") from None
    lines = _Lines(name, node)
    lines.check_keys()
    _check_schema(document, lines)
    channels = {
        channel: Channel(channel, **stated) for channel, stated in document.get("channels", {}).items()
    }
    rules = tuple(
        _rule(stated, ("rules", index), tuple(channels), lines)
        for index, stated in enumerate(document["rules"])
    )
    _check_names(rules, lines)
    return RuleSet(rules, channels, hashlib.sha256(text).hexdigest()[:16])


class _Lines:
    """Knows on which line each part of a file begins."""

    def __init__(self, name: str, node: yaml.Node | None) -> None:
        self._name = name
        self._node = node

    def refusal(self, path: Sequence[str | int], reason: str) -> RulesRefused:
        return RulesRefused(self._name, self._line(path), reason)

    def check_keys(self) -> None:
        """Raise where one table has the same name twice: one of the two would be passed over without a word."""
        for table in _tables(self._node):
            seen: set[str] = set()
            for key, _ in table.value:
                if key.value in seen:
                    raise RulesRefused(self._name, key.start_mark.line + 1, f"{key.value} stands here twice")
                seen.add(str(key.value))

    def _line(self, path: Sequence[str | int]) -> int:
        node, line = self._node, 1
        for step in path:
            if isinstance(node, yaml.MappingNode):
                found = next((entry for entry in node.value if entry[0].value == str(step)), None)
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                found = (node.value[step], node.value[step])
            else:
                found = None
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        return line


class _Extent:
    """How large a file is once what it refers to again stands everywhere: a few lines may be millions of rules."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._sizes: dict[int, int] = {}

    def check(self, node: yaml.Node | None) -> None:
        """Raise RulesRefused where it is too large, too deep, or holds itself."""
        if node is not None:
            self._size(node, 0)

    def _size(self, node: yaml.Node, depth: int) -> int:
        known = self._sizes.get(id(node))
        if known is not None and depth + 1 < _DEPTH_MAX:
            return known
        if depth >= _DEPTH_MAX:
            # What holds itself has no end either.
            raise self._refusal(node, f"it is nested more than {_DEPTH_MAX} times")
        size = 1 + sum(self._size(each, depth + 1) for each in _below(node))
        if size > _NODES_MAX:
            raise self._refusal(node, f"it holds more than {_NODES_MAX} values")
        self._sizes[id(node)] = size
        return size

    def _refusal(self, node: yaml.Node, reason: str) -> RulesRefused:
        return RulesRefused(self._name, node.start_mark.line + 1, reason)


def _below(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _tables(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    waiting = [node]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, yaml.MappingNode):
            yield each
            waiting += [value for _, value in each.value]
        elif isinstance(each, yaml.SequenceNode):
            waiting += each.value


def _check_schema(document: Any, lines: _Lines) -> None:
    errors = list(validator(SCHEMA).iter_errors(document))
    if not errors:
        return
    # The deepest one says most; of alternatives none is singled out.
    error = max(errors, key=lambda each: len(each.absolute_path))
    path: list[str | int] = list(error.absolute_path)
    where = ".".join(map(str, path)) or "the file"
    if error.validator == "additionalProperties" or error.schema is False:
        unknown = _PRINTED_KEY.search(error.message)
        if unknown and error.validator == "additionalProperties":
            path.append(unknown[1])
            raise lines.refusal(path, f"{unknown[1]} is not known in {where}")
        raise lines.refusal(path, f"{where} does not go with the rest")
    raise lines.refusal(path, _reason(error, where))


def _reason(error: ValidationError, where: str) -> str:
    match error.validator:
        case "required":
            return error.message.replace(" is a required property", " is missing") + f" in {where}"
        case "enum":
            allowed: Any = error.validator_value
            return f"{where} is one of {', '.join(map(str, allowed))}"
        case "pattern":
            return f"{where} is not written as it should be ({error.validator_value})"
        case "type":
            return f"{where} must be of type {error.validator_value}"
        case "oneOf":
            return f"{where} has none of the forms that are allowed"
        case _:
            return f"{where} does not fit ({error.validator})"


def _rule(stated: Mapping[str, Any], path: _Path, channels: tuple[str, ...], lines: _Lines) -> Rule:
    memory = stated.get("memory")
    try:
        _check_drop(stated)
        rule = Rule(
            name=stated["name"],
            title=stated.get("title", ""),
            severity=stated["severity"],
            when=condition(stated["when"], ("when",)),
            key=_fields(stated.get("key", ["actor.id", "resource.id"]), ("key",)),
            window=_window(stated.get("window"), ("window",)),
            threshold=stated.get("threshold", 1),
            usual=Usual(**stated["usual"]) if "usual" in stated else None,
            memory=None if memory is None else _memory(memory, ("memory",)),
            channels=tuple(stated.get("channels", channels)),
        )
        _check_rule(rule, channels)
    except UnfitCondition as unfit:
        found = (*path, *unfit.path), unfit.reason
    else:
        return rule
    raise lines.refusal(*found)


def _check_drop(stated: Mapping[str, Any]) -> None:
    if stated["severity"] == "drop":
        for name in stated:
            if name not in {"name", "severity", "when"}:
                raise UnfitCondition(
                    (name,), "a rule of severity drop has a name and a condition, nothing else"
                )


def _check_rule(rule: Rule, channels: tuple[str, ...]) -> None:
    unknown = [name for name in rule.channels if name not in channels]
    if unknown:
        raise UnfitCondition(("channels",), f"there is no channel {unknown[0]}")
    if rule.memory is not None and rule.counts:
        raise UnfitCondition(("memory",), "a memory goes with no threshold and nothing usual")
    if rule.usual is not None and (rule.usual.windows + 1) * rule.window.size_ms > _HORIZON_MS_MAX:
        raise UnfitCondition(("usual", "windows"), "a rule looks back at most 30d")
    if rule.window.hop_ms != rule.window.size_ms and not rule.counts:
        raise UnfitCondition(("window",), "windows that hop need a threshold above 1")


def _fields(names: Sequence[str], path: _Path) -> tuple[tuple[str, Field], ...]:
    return tuple((name, _field(name, (*path, index))) for index, name in enumerate(names))


def _field(name: str, path: _Path) -> Field:
    try:
        return field(name)
    except KeyError:
        raise UnfitCondition(path, f"there is no field {name}") from None


def _window(stated: Any, path: _Path) -> Window:
    if stated is None:
        return Window(_DEFAULT_WINDOW_MS, _DEFAULT_WINDOW_MS)
    size_ms = duration_ms(stated if isinstance(stated, str) else stated["size"])
    hop_ms = size_ms if isinstance(stated, str) else duration_ms(stated.get("hop", stated["size"]))
    if size_ms > _WINDOW_MS_MAX:
        raise UnfitCondition(path, "a window is at most 7d long")
    if size_ms % hop_ms or size_ms // hop_ms > _HOPS_MAX:
        raise UnfitCondition(path, f"a window's size is a multiple of its hop, at most {_HOPS_MAX} times")
    return Window(size_ms, hop_ms)


def duration_ms(text: str) -> int:
    """Return `10m` as milliseconds; units s, m, h, d."""
    return int(text[:-1]) * _UNITS_MS[text[-1]]


def _memory(stated: Mapping[str, Any], path: _Path) -> Memory:
    learn = stated.get("learn")
    network = stated.get("network")
    return Memory(
        raised_by=stated["raise"],
        key=_fields(stated.get("key", []), (*path, "key")),
        learn_when=None if learn is None else condition(learn["when"], (*path, "learn", "when")),
        learn_value=() if learn is None else _alternatives(learn["value"], (*path, "learn", "value")),
        value=_alternatives(stated.get("value", []), (*path, "value")),
        values=tuple(digest(value) for value in stated.get("values", ())),
        network=None if network is None else (network.get("v4", 24), network.get("v6", 48)),
    )


def _alternatives(stated: str | Sequence[str], path: _Path) -> tuple[Field, ...]:
    """Return fields of which the first counts that has a value."""
    return tuple(_field(name, path) for name in ([stated] if isinstance(stated, str) else stated))


def _network(value: Any, prefix: tuple[int, int]) -> str | None:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return None
    bits = prefix[0] if address.version == 4 else prefix[1]
    return str(ipaddress.ip_network((address, bits), strict=False))


def _check_names(rules: Sequence[Rule], lines: _Lines) -> None:
    seen: set[str] = set()
    for index, rule in enumerate(rules):
        if rule.name in seen:
            raise lines.refusal(("rules", index, "name"), f"there are two rules named {rule.name}")
        seen.add(rule.name)


def key_text(key: Sequence[tuple[str, Any]]) -> str:
    """Return a key as JSON text."""
    return json.dumps(dict(key), ensure_ascii=True, separators=(",", ":"))
