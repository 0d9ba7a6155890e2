"""Conditions on a record, compiled once into one function. Pure.

A condition is a table of fields, all of which must fit: a value, a list of values, or a table of tests. `any`, `all`
and `not` hold conditions; `hours` looks at the time. A field with several values fits where one of them does; a field
that the record lacks fits `absent: true` alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, time
from operator import attrgetter
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from watcher.facts import Facts, Values, attribute_of, field, is_in_body

Condition = Callable[[Facts], bool]
_Test = Callable[[Any], bool]
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class UnfitCondition(ValueError):
    """A condition that the schema lets pass and that cannot work. `path`: where, from the condition on."""

    def __init__(self, path: Sequence[str | int], reason: str) -> None:
        super().__init__(reason)
        self.path = tuple(path)
        self.reason = reason


def condition(stated: Mapping[str, Any], path: Sequence[str | int] = ()) -> Condition:
    """Return the compiled condition. Raises UnfitCondition. `stated` fits the schema of rules."""
    # What decodes a body comes last: most records never get there.
    ordered = sorted(stated.items(), key=lambda entry: (_cost(entry[0]), entry[0]))
    parts = tuple(_part(name, value, (*path, name)) for name, value in ordered)
    return parts[0] if len(parts) == 1 else _all(parts)


def _all(parts: Sequence[Condition]) -> Condition:
    # Loops, because each runs for every record: a generator takes three times as long.
    def holds(facts: Facts) -> bool:
        for part in parts:  # noqa: SIM110
            if not part(facts):
                return False
        return True

    return holds


def _any(parts: Sequence[Condition]) -> Condition:
    def holds(facts: Facts) -> bool:
        for part in parts:  # noqa: SIM110
            if part(facts):
                return True
        return False

    return holds


def _cost(name: str) -> int:
    return 3 if is_in_body(name) else 2 if name in {"any", "all", "not"} else 1


def _part(name: str, value: Any, path: tuple[str | int, ...]) -> Condition:
    if name in {"any", "all"}:
        parts = tuple(condition(each, (*path, index)) for index, each in enumerate(value))
        return _any(parts) if name == "any" else _all(parts)
    if name == "not":
        denied = condition(value, path)
        return lambda facts: not denied(facts)
    if name == "hours":
        return _hours(value, path)
    try:
        read = field(name)
    except KeyError:
        raise UnfitCondition(path, f"there is no field {name}") from None
    values = value if isinstance(value, list) else [value]
    attribute = attribute_of(name)
    if attribute is not None and all(isinstance(each, str) for each in values):
        return _attribute_among(attribute, frozenset(values))
    return _field_condition(read, value, path)


def _attribute_among(attribute: str, wanted: frozenset[str]) -> Condition:
    """The form that most conditions have, and the one that decides how fast all of it is."""
    get = attrgetter(attribute)
    return lambda facts: get(facts.record) in wanted


def _field_condition(read: Callable[[Facts], Values], stated: Any, path: tuple[str | int, ...]) -> Condition:
    if isinstance(stated, Mapping) and "absent" in stated:
        if len(stated) > 1:
            raise UnfitCondition(path, "absent stands alone")
        lacks = stated["absent"]
        return lambda facts: (not read(facts)) is lacks
    tests = tuple(_tests(stated, path))
    if len(tests) == 1:
        [only] = tests
        return lambda facts: any(map(only, read(facts)))
    return lambda facts: any(all(test(value) for test in tests) for value in read(facts))


def _tests(stated: Any, path: tuple[str | int, ...]) -> Sequence[_Test]:
    if isinstance(stated, list):
        return [_among(stated)]
    if not isinstance(stated, Mapping):
        return [_among([stated])]
    makers: dict[str, Callable[[Any], _Test]] = {
        "in": _among,
        "not_in": lambda values: _negated(_among(values)),
        "prefix": _prefix,
        "contains": _contains,
        "from": lambda low: lambda value: _is_number(value) and value >= low,
        "to": lambda high: lambda value: _is_number(value) and value <= high,
        "cidr": lambda networks: _cidr(networks, (*path, "cidr")),
        "not_cidr": lambda networks: _negated(_cidr(networks, (*path, "not_cidr"))),
    }
    return [makers[name](value) for name, value in stated.items()]


def _among(values: Sequence[Any]) -> _Test:
    # True and 1 are one key of a set, and two values in JSON.
    wanted = frozenset((isinstance(value, bool), value) for value in values)
    return lambda value: (isinstance(value, bool), value) in wanted


def _negated(test: _Test) -> _Test:
    return lambda value: not test(value)


def _prefix(stated: str | Sequence[str]) -> _Test:
    prefixes = (stated,) if isinstance(stated, str) else tuple(stated)
    return lambda value: isinstance(value, str) and value.startswith(prefixes)


def _contains(stated: str | Sequence[str]) -> _Test:
    wanted = tuple(each.casefold() for each in ((stated,) if isinstance(stated, str) else stated))
    return lambda value: isinstance(value, str) and any(each in value.casefold() for each in wanted)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cidr(stated: str | Sequence[str], path: tuple[str | int, ...]) -> _Test:
    try:
        networks = [ipaddress.ip_network(each) for each in ((stated,) if isinstance(stated, str) else stated)]
    except ValueError:
        raise UnfitCondition(path, "it is not a network such as 192.0.2.0/24 or 2001:db8::/32") from None

    def within(value: Any) -> bool:
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            return False
        return any(address in network for network in networks)

    return within


def _hours(stated: Mapping[str, Any], path: tuple[str | int, ...]) -> Condition:
    """`outside` or `inside` working hours: `08:00-18:00` on `days` (all by default) in `timezone` (UTC by default)."""
    try:
        zone = ZoneInfo(stated.get("timezone", "UTC"))
    except (ZoneInfoNotFoundError, ValueError):
        raise UnfitCondition((*path, "timezone"), "there is no such time zone") from None
    outside = "outside" in stated
    begin, end = _span(stated["outside" if outside else "inside"], path)
    days = frozenset(_DAYS.index(day) for day in stated.get("days", _DAYS))

    def holds(facts: Facts) -> bool:
        at = datetime.fromtimestamp(facts.at_ms / 1000, UTC).astimezone(zone)
        inside = at.weekday() in days and begin <= at.time() < end
        return inside is not outside

    return holds


def _span(text: str, path: tuple[str | int, ...]) -> tuple[time, time]:
    first, _, last = text.partition("-")
    try:
        begin = time.fromisoformat(first)
        end = time.max if last == "24:00" else time.fromisoformat(last)
    except ValueError:
        raise UnfitCondition(path, "hours are written as 08:00-18:00") from None
    if begin >= end:
        raise UnfitCondition(path, "hours begin before they end; use not or outside for the night")
    return begin, end
