"""Conditions on a record, each compiled once into one function. Pure.

A condition is a mapping from field names to tests, all of which must pass: a value, a list of values, or a mapping of
named tests. `any`, `all` and `not` hold conditions; `hours` tests the time of the action. A field with several values
passes if one of them does. A field that the record lacks passes `absent: true` alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, time
from operator import attrgetter
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from alerting.record_fields import FieldReader, RecordView, column_of, field_reader, reads_body
from schemas.addresses import parse_address, unmapped_network

Condition = Callable[[RecordView], bool]
_Path = tuple[str | int, ...]
_Test = Callable[[Any], bool]
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class UnfitCondition(ValueError):
    """The schema accepts a value that cannot work. `path`: where, relative to the rule."""

    def __init__(self, path: Sequence[str | int], reason: str) -> None:
        super().__init__(reason)
        self.path = tuple(path)
        self.reason = reason


def compile_condition(source: Mapping[str, Any], path: _Path = ()) -> Condition:
    """Return the condition as one function.

    `source` must conform to `condition` in the schema of rules. Raises UnfitCondition.
    """
    # Bodies are decoded last: most records fail a cheaper test before.
    ordered = sorted(source.items(), key=lambda entry: (_cost(entry[0]), entry[0]))
    parts = tuple(_part(name, value, (*path, name)) for name, value in ordered)
    return parts[0] if len(parts) == 1 else _all(parts)


def _cost(name: str) -> int:
    if reads_body(name):
        return 3
    return 2 if name in {"any", "all", "not"} else 1


def _all(parts: Sequence[Condition]) -> Condition:
    # A loop, because this runs for every record: `all()` with a generator takes three times as long.
    def holds(view: RecordView) -> bool:
        for part in parts:  # noqa: SIM110
            if not part(view):
                return False
        return True

    return holds


def _any(parts: Sequence[Condition]) -> Condition:
    def holds(view: RecordView) -> bool:
        for part in parts:  # noqa: SIM110
            if part(view):
                return True
        return False

    return holds


def _part(name: str, value: Any, path: _Path) -> Condition:
    match name:
        case "any":
            return _any(_list_of_conditions(value, path))
        case "all":
            return _all(_list_of_conditions(value, path))
        case "not":
            denied = compile_condition(value, path)
            return lambda view: not denied(view)
        case "hours":
            return _hours(value, path)
        case _:
            return _field_condition(name, value, path)


def _list_of_conditions(source: Sequence[Mapping[str, Any]], path: _Path) -> Sequence[Condition]:
    return tuple(compile_condition(each, (*path, index)) for index, each in enumerate(source))


def _field_condition(name: str, source: Any, path: _Path) -> Condition:
    try:
        read = field_reader(name)
    except KeyError:
        raise UnfitCondition(path, f"there is no field {name}") from None
    column = column_of(name)
    values = source if isinstance(source, list) else [source]
    if column is not None and all(isinstance(value, str) for value in values):
        return _column_among(column, frozenset(values))
    if isinstance(source, Mapping) and "absent" in source:
        return _absence(read, source, path)
    tests = tuple(_tests(source, path))
    if len(tests) == 1:
        [only] = tests
        return lambda view: any(map(only, read(view)))
    return lambda view: any(all(test(value) for test in tests) for value in read(view))


def _column_among(column: str, wanted: frozenset[str]) -> Condition:
    """The most frequent form, and the one that decides how fast evaluation is."""
    get = attrgetter(column)
    return lambda view: get(view.record) in wanted


def _absence(read: FieldReader, source: Mapping[str, Any], path: _Path) -> Condition:
    if len(source) > 1:
        raise UnfitCondition(path, "absent stands alone")
    is_absent = source["absent"]
    return lambda view: (not read(view)) is is_absent


def _tests(source: Any, path: _Path) -> Sequence[_Test]:
    if isinstance(source, list):
        return [_among(source)]
    if not isinstance(source, Mapping):
        return [_among([source])]
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
    return [makers[name](value) for name, value in source.items()]


def _among(values: Sequence[Any]) -> _Test:
    # Python's True equals 1; in JSON they are two values.
    wanted = frozenset((isinstance(value, bool), value) for value in values)
    return lambda value: (isinstance(value, bool), value) in wanted


def _negated(test: _Test) -> _Test:
    return lambda value: not test(value)


def _texts(source: str | Sequence[str]) -> tuple[str, ...]:
    return (source,) if isinstance(source, str) else tuple(source)


def _prefix(source: str | Sequence[str]) -> _Test:
    prefixes = _texts(source)
    return lambda value: isinstance(value, str) and value.startswith(prefixes)


def _contains(source: str | Sequence[str]) -> _Test:
    wanted = tuple(text.casefold() for text in _texts(source))
    return lambda value: isinstance(value, str) and any(text in value.casefold() for text in wanted)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cidr(source: str | Sequence[str], path: _Path) -> _Test:
    try:
        networks = [unmapped_network(ipaddress.ip_network(text)) for text in _texts(source)]
    except ValueError:
        raise UnfitCondition(path, "it is not a network such as 192.0.2.0/24 or 2001:db8::/32") from None

    def within(value: Any) -> bool:
        address = parse_address(value) if isinstance(value, str) else None
        return address is not None and any(address in network for network in networks)

    return within


def _hours(source: Mapping[str, Any], path: _Path) -> Condition:
    """`outside` or `inside` hours such as `08:00-18:00`, on `days` (default: all), in `timezone` (default: UTC)."""
    try:
        zone = ZoneInfo(source.get("timezone", "UTC"))
    except (ZoneInfoNotFoundError, ValueError):
        raise UnfitCondition((*path, "timezone"), "there is no such time zone") from None
    wants_inside = "inside" in source
    begin, end = _hours_between(source["inside" if wants_inside else "outside"], path)
    days = frozenset(_DAYS.index(day) for day in source.get("days", _DAYS))

    def holds(view: RecordView) -> bool:
        at = datetime.fromtimestamp(view.at_ms / 1000, UTC).astimezone(zone)
        is_inside = at.weekday() in days and begin <= at.time() < end
        return is_inside is wants_inside

    return holds


def _hours_between(text: str, path: _Path) -> tuple[time, time]:
    first, _, last = text.partition("-")
    try:
        begin = time.fromisoformat(first)
        # Python has no time 24:00, and an end of 00:00 would lie before every beginning.
        end = time.max if last == "24:00" else time.fromisoformat(last)
    except ValueError:
        raise UnfitCondition(path, "hours are written as 08:00-18:00") from None
    if begin >= end:
        raise UnfitCondition(path, "hours begin before they end; use not or outside for the night")
    return begin, end
