"""What each action changed of a resource, worked out from what was recorded of it: no more is claimed than records show.

`ResourceHistory` reads the records of one resource, oldest first. Each adds to what is known of the resource's state, and is
compared with what was known before it. ADR 0046 has the reasons.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

import msgspec

from log_api.records import AuditRecord

BODY_BYTES_MAX = 64 * 1024
"""Recorded bodies of one action that are longer together are not compared."""
CHANGES_MAX = 200
CHANGES_BYTES_MAX = 64 * 1024
"""Of all changes of one record as JSON, nearly."""
POINTER_STEPS_MAX = 32
"""What lies deeper is compared as one value."""
_NESTING_MAX = 100
# What surrounds the result in the responses of many APIs.
_ENVELOPE = frozenset({"errors", "messages", "result", "result_info", "success"})


class Status(StrEnum):
    """How much is known of the state before and after an action; docs/log-api.md says when each applies."""

    EXACT = "exact"
    APPROXIMATE = "approximate"
    FIRST_SEEN = "first_seen"
    UNAVAILABLE = "unavailable"


class Change(NamedTuple):
    """The value at a path of member names, before and after, as JSON texts. None: there was none, or none is known."""

    path: tuple[str, ...]
    before: str | None
    after: str | None

    @property
    def pointer(self) -> str:
        """The path as a JSON Pointer (RFC 6901)."""
        return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in self.path)

    @property
    def size_bytes(self) -> int:
        return sum(map(len, (*self.path, self.before or "", self.after or "")))


class Changes(NamedTuple):
    """What one action changed. `previous_id`: the change of the resource before it. `from_ids`: the earlier records that
    the values before come from, oldest first. `truncated`: there is more than is shown.
    """

    status: Status
    previous_id: str | None = None
    from_ids: tuple[str, ...] = ()
    changes: Sequence[Change] = ()
    truncated: bool = False


class _Number(NamedTuple):
    """A number as it is written. Two that are written differently are different values."""

    text: str


class _Leaf(NamedTuple):
    """A value that is compared as a whole, arrays included, and the id of the record that it comes from."""

    value: Any
    source: str


# Members by name. What is no object is a leaf.
_Tree: TypeAlias = "dict[str, _Tree | _Leaf]"


class _Receipt(msgspec.Struct):
    document: str | None = None
    operation: str | None = None


class _Seen(NamedTuple):
    """What one record shows of the state after its action.

    `marks`: actions with the same have the same parts recorded, as far as they have them; None: unknown. `whole`: the
    action's request or response stands for the whole resource. `shown`: the response shows all that the request sent.
    `sent`: there was a request that says so.
    """

    body: _Tree
    marks: tuple[object, ...] | None
    whole: bool
    shown: bool
    sent: bool

    def is_comparable(self, earlier: _Seen) -> bool:
        """Return whether both record the same parts of the resource, so that what one of them lacks was not there."""
        if not (self.whole and earlier.whole):
            return False
        if self.marks is not None and self.marks == earlier.marks:
            return True
        # Two operations that both respond with the resource: an absent member would be one that is not marked.
        confirmed = self.shown and self.sent and earlier.shown and earlier.sent
        return confirmed and _has_members(self.body, earlier.body) and _has_members(earlier.body, self.body)


def changes_resource(record: AuditRecord) -> bool:
    """Return whether the record's action may have changed its resource."""
    return record.action.result == "success" and record.action.type != "view"


class ResourceHistory:
    """What is known of a resource. `whole`: there are no changes of it before the first record that is added."""

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole
        self._known: _Tree = {}
        self._last: _Seen | None = None
        self._previous_id: str | None = None

    def add(self, record: AuditRecord) -> Changes:
        """Return what the record's action changed. Records are added in the order of their ids."""
        if not changes_resource(record):
            return Changes(Status.UNAVAILABLE, self._previous_id)
        previous_id, self._previous_id = self._previous_id, record.id
        if record.action.type == "delete":
            return self._deleted(previous_id)
        try:
            seen = _seen(record)
        except _TooLargeError:
            self._last = None
            return Changes(Status.UNAVAILABLE, previous_id, truncated=True)
        if seen is None:
            # It changed something, but what is not recorded.
            self._last = None
            return Changes(Status.UNAVAILABLE, previous_id)
        return self._changed(seen, previous_id)

    def _deleted(self, previous_id: str | None) -> Changes:
        known, last = self._known, self._last
        self._known, self._last, self._whole = {}, None, True
        if not known:
            return Changes(Status.UNAVAILABLE, previous_id)
        difference = _Difference(removals=True)
        difference.compare(known, {})
        is_exact = last is not None and last.whole and _is_equal(known, last.body)
        return difference.changes(Status.EXACT if is_exact else Status.APPROXIMATE, previous_id)

    def _changed(self, seen: _Seen, previous_id: str | None) -> Changes:
        last, self._last = self._last, seen
        if last is not None and seen.is_comparable(last):
            difference = _Difference(removals=True)
            difference.compare(last.body, seen.body)
            status = Status.EXACT
            if not seen.shown and difference.absences:
                # A client can send a value that does not fit the schema: it is not recorded, and looks absent.
                status = Status.APPROXIMATE
        else:
            difference = _Difference(removals=False)
            difference.compare(self._known, seen.body)
            status = Status.APPROXIMATE if self._known else self._first_status()
        for path in difference.removed:
            _remove(self._known, path)
        _overlay(self._known, seen.body)
        return difference.changes(status, previous_id)

    def _first_status(self) -> Status:
        # Where earlier changes were not read, nothing says that there is no earlier state.
        return Status.FIRST_SEEN if self._whole else Status.UNAVAILABLE


class _Difference:
    """Compares two trees. `removals`: whether a member that only the first has counts as removed."""

    def __init__(self, *, removals: bool) -> None:
        self._removals = removals
        self._found: list[Change] = []
        self._size_bytes = 0
        self._sources: set[str] = set()
        self._truncated = False
        self.absences = False
        """Whether there is a member that only one of the two has."""
        self.removed: list[tuple[str, ...]] = []

    def changes(self, status: Status, previous_id: str | None) -> Changes:
        if status is Status.UNAVAILABLE:
            return Changes(status, previous_id)
        return Changes(status, previous_id, tuple(sorted(self._sources)), self._found, self._truncated)

    def compare(self, before: _Tree, after: _Tree, path: tuple[str, ...] = ()) -> None:
        for name, value in after.items():
            self._member(before.get(name), value, (*path, name))
        if self._removals:
            for name in before.keys() - after.keys():
                self.removed.append((*path, name))
            for name, was in before.items():
                if name not in after:
                    self._add((*path, name), was, None)

    def _member(self, was: _Tree | _Leaf | None, value: _Tree | _Leaf, path: tuple[str, ...]) -> None:
        if isinstance(was, dict) and isinstance(value, dict):
            self.compare(was, value, path)
        elif was is None or not _is_equal(was, value):
            self._add(path, was, value)
        else:
            self._sources.update(_sources(was))

    def _add(self, path: tuple[str, ...], was: _Tree | _Leaf | None, value: _Tree | _Leaf | None) -> None:
        self.absences = self.absences or was is None or value is None
        if was is not None:
            self._sources.update(_sources(was))
        if len(self._found) == CHANGES_MAX:
            self._truncated = True
            return
        change = Change(path, *(None if one is None else _text(_plain(one)) for one in (was, value)))
        if self._size_bytes + change.size_bytes > CHANGES_BYTES_MAX:
            self._truncated = True
            return
        self._size_bytes += change.size_bytes
        self._found.append(change)


class _TooLargeError(Exception):
    """The bodies are too large, or nested too deep, to be compared."""


def _seen(record: AuditRecord) -> _Seen | None:
    """Return what the record shows of the state after its action; None if nothing. Raises _TooLargeError."""
    bodies = (record.resource.request, record.resource.response)
    if sum(len(body) for body in bodies if isinstance(body, msgspec.Raw)) > BODY_BYTES_MAX:
        raise _TooLargeError
    request, response = (_object(body) for body in bodies)
    if record.raw.method == "PATCH" and request is not None and _is_json_patch(request):
        request = None
    # A body without any value, of which nothing but its being there was recorded, says nothing.
    sent = _tree(request, record.id) if request else {}
    shown = _tree(_without_envelope(response), record.id) if response else {}
    if not sent and not shown:
        return None
    receipt = msgspec.json.decode(record.auditap.receipt, type=_Receipt)
    marks = None
    if receipt.document is not None and receipt.operation is not None:
        marks = (receipt.document, receipt.operation, record.raw.status_code, bool(sent), bool(shown))
    is_shown = bool(shown) and _has_members(shown, sent)
    body: _Tree = {}
    _overlay(body, sent)
    _overlay(body, shown)
    return _Seen(body, marks, is_shown or (record.raw.method == "PUT" and bool(sent)), is_shown, bool(sent))


def _object(body: msgspec.Raw | msgspec.UnsetType) -> dict[str, Any] | None:
    """Return a recorded body; None if there is none, or if readers of JSON may differ about what it says."""
    if not isinstance(body, msgspec.Raw):
        return None
    try:
        value = json.loads(
            bytes(body).decode(),
            parse_int=_Number,
            parse_float=_Number,
            parse_constant=_no_constant,
            object_pairs_hook=_members,
        )
    except RecursionError:
        value = None
        too_deep = True
    except ValueError:
        return None
    else:
        too_deep = _is_nested_deeper(value, _NESTING_MAX)
    # Raised here, so that the error has no context.
    if too_deep:
        raise _TooLargeError
    return value if isinstance(value, dict) else None


def _no_constant(_text: str) -> None:
    raise ValueError("not JSON")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name occurs twice")
    return members


def _is_nested_deeper(value: Any, nesting: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return nesting == 0 or any(_is_nested_deeper(one, nesting - 1) for one in inside)


def _is_json_patch(request: Mapping[str, Any]) -> bool:
    """Return whether the request's body is a JSON Patch (RFC 6902), which is no part of a state."""
    steps = request.get("value")
    if request.keys() != {"value"} or not isinstance(steps, list) or not steps:
        return False
    return all(isinstance(step, dict) and "op" in step for step in steps)


def _without_envelope(response: dict[str, Any]) -> dict[str, Any]:
    """Return the result inside `{"success": …, "result": {…}}`, where the document did not name the envelope."""
    result = response.get("result")
    return result if isinstance(result, dict) and response.keys() <= _ENVELOPE else response


def _tree(body: Mapping[str, Any], source: str, steps: int = 1) -> _Tree:
    tree: _Tree = {}
    for name, value in body.items():
        is_inner = isinstance(value, dict) and steps < POINTER_STEPS_MAX
        tree[name] = _tree(value, source, steps + 1) if is_inner else _Leaf(value, source)
    return tree


def _overlay(known: _Tree, tree: _Tree) -> None:
    """Write `tree` over what is known: objects member by member, anything else whole."""
    for name, value in tree.items():
        was = known.get(name)
        if isinstance(value, dict):
            inner = known[name] = was if isinstance(was, dict) else {}
            _overlay(inner, value)
        else:
            known[name] = value


def _remove(known: _Tree, path: Sequence[str]) -> None:
    for step in path[:-1]:
        inner = known.get(step)
        if not isinstance(inner, dict):
            return
        known = inner
    known.pop(path[-1], None)


def _has_members(tree: _Tree, other: _Tree) -> bool:
    """Return whether `tree` has every member of `other`, whatever their values."""
    for name, value in other.items():
        inner = tree.get(name)
        if inner is None:
            return False
        if isinstance(value, dict) and not (isinstance(inner, dict) and _has_members(inner, value)):
            return False
    return True


def _is_equal(one: _Tree | _Leaf, other: _Tree | _Leaf) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_equal(one[name], other[name]) for name in one)
    return isinstance(one, _Leaf) and isinstance(other, _Leaf) and _plain(one) == _plain(other)


def _sources(tree: _Tree | _Leaf) -> Iterator[str]:
    if isinstance(tree, _Leaf):
        yield tree.source
        return
    for inner in tree.values():
        yield from _sources(inner)


def _plain(tree: _Tree | _Leaf) -> Any:
    if isinstance(tree, _Leaf):
        return tree.value
    return {name: _plain(inner) for name, inner in tree.items()}


def _text(value: Any) -> str:
    if isinstance(value, _Number):
        return value.text
    if isinstance(value, dict):
        members = ",".join(f"{json_string(name)}:{_text(inner)}" for name, inner in value.items())
        return f"{{{members}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return json_string(value) if isinstance(value, str) else json.dumps(value)


def json_string(text: str) -> str:
    """Return a text as JSON, in UTF-8's reach: lone halves of surrogate pairs stay escaped."""
    written = json.dumps(text, ensure_ascii=False)
    return written if written.isprintable() else json.dumps(text)


def changes_json(changes: Changes) -> dict[str, Any]:
    """Return the changes as the API shows them, without the record's id."""
    return {
        "status": changes.status,
        "previous_id": changes.previous_id,
        "from_ids": list(changes.from_ids),
        "changes": [_change_json(one) for one in changes.changes],
        "truncated": changes.truncated,
    }


def _change_json(change: Change) -> dict[str, msgspec.Raw]:
    shown = {"pointer": json_string(change.pointer), "before": change.before, "after": change.after}
    return {name: msgspec.Raw(text) for name, text in shown.items() if text is not None}


def values_before(changes: Changes) -> str:
    """Return the values before as a JSON object, each where it was; `{}` if there are none."""
    return _rebuilt((one.path, one.before) for one in changes.changes)


def values_after(changes: Changes) -> str:
    """Return the values after as a JSON object, each where it is; `{}` if there are none."""
    return _rebuilt((one.path, one.after) for one in changes.changes)


def _rebuilt(values: Iterator[tuple[tuple[str, ...], str | None]]) -> str:
    whole: dict[str, Any] = {}
    for path, text in values:
        if text is None:
            continue
        inner = whole
        for step in path[:-1]:
            inner = inner.setdefault(step, {})
        inner[path[-1]] = _Number(text)
    return _text(whole)
