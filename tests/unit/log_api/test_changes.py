"""What an action changed of its resource, by what was recorded of it and of earlier ones."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from log_api.changes import (
    BODY_BYTES_MAX,
    CHANGES_BYTES_MAX,
    CHANGES_MAX,
    Changes,
    ResourceHistory,
    Status,
    changes_json,
    values_after,
    values_before,
)
from log_api.records import AuditRecord, audit_record
from tests.records import record

_times_ms = itertools.count(1_769_192_714_749)
EXACT, APPROXIMATE, FIRST_SEEN, UNAVAILABLE = Status


def action(
    request: object = None, response: object = None, *, operation: str | None = "put", **changes: Any
) -> AuditRecord:
    """A record of a PUT; bodies that are texts are JSON already."""
    columns: dict[str, Any] = {
        "raw_method": "PUT",
        "raw_status_code": 200,
        "resource_id": "p1",
        "resource_request": body(request),
        "resource_response": body(response),
        "receipt": json.dumps({"document": "d1", "operation": operation}),
        **changes,
    }
    return audit_record(msgspec.structs.asdict(record(next(_times_ms), **columns)))


def body(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def patch(request: object = None, response: object = None, **changes: Any) -> AuditRecord:
    return action(request, response, **{"operation": "patch", "raw_method": "PATCH", **changes})


def create(request: object = None, response: object = None, **changes: Any) -> AuditRecord:
    given = {"operation": "create", "raw_method": "POST", "action_type": "create", **changes}
    return action(request, response, **given)


def delete(**changes: Any) -> AuditRecord:
    return action(operation="delete", raw_method="DELETE", action_type="delete", **changes)


def after(*records: AuditRecord, whole: bool = True) -> Changes:
    """The changes of the last of a resource's records."""
    history = ResourceHistory(whole=whole)
    return [history.add(one) for one in records][-1]


def shown(found: Changes) -> list[dict[str, Any]]:
    changes: list[dict[str, Any]] = json.loads(msgspec.json.encode(changes_json(found)))["changes"]
    return changes


def test_two_responses_of_one_operation_tell_exactly_what_changed() -> None:
    first = patch({"name": "b"}, {"id": "p1", "name": "a", "gone": 1, "in": {"x": [1]}})
    second = patch({"name": "b"}, {"id": "p1", "name": "b", "in": {"x": [1, 2]}, "new": None})
    found = after(first, second)
    assert (found.status, found.previous_id, found.from_ids) == (EXACT, first.id, (first.id,))
    assert shown(found) == [
        {"pointer": "/name", "before": "a", "after": "b"},
        {"pointer": "/in/x", "before": [1], "after": [1, 2]},
        {"pointer": "/new", "after": None},
        {"pointer": "/gone", "before": 1},
    ]


def test_a_replacement_is_compared_with_the_one_before() -> None:
    found = after(action({"a": 1, "b": 2}), action({"a": 1, "b": 3}))
    assert (found.status, shown(found)) == (EXACT, [{"pointer": "/b", "before": 2, "after": 3}])


def test_a_client_cannot_feign_an_exact_removal_by_a_value_of_the_wrong_type() -> None:
    found = after(action({"a": 1, "b": 2}), action({"a": 1}))
    assert (found.status, shown(found)) == (APPROXIMATE, [{"pointer": "/b", "before": 2}])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (create({"a": 1}, {"a": 1, "b": 2}), action({"a": 2}, {"a": 2})),
        (action({"a": 1, "b": 2}), action(None, {"a": 2})),
        (action({"a": 1, "b": 2}), action({"a": 2}, receipt='{"document":"d2","operation":"put"}')),
        (action({"a": 1, "b": 2}), action({"a": 2}, receipt="{}")),
        (action({}, {"a": 1, "b": 2}), action({}, {"a": 2}, raw_status_code=202)),
        (action({"a": 1, "b": 2}), patch({"a": 2})),
        (action({"a": 1, "b": 2}), create({"a": 2})),
        (action({"a": 1, "b": 2}), action({"a": 2}, raw_method=None)),
    ],
)
def test_what_the_other_record_may_not_mark_is_never_removed(first: AuditRecord, second: AuditRecord) -> None:
    found = after(first, second)
    assert (found.status, shown(found)) == (APPROXIMATE, [{"pointer": "/a", "before": 1, "after": 2}])


def test_responses_of_two_operations_with_the_same_members_are_exact() -> None:
    made = create({"a": 1}, {"id": "p1", "a": 1})
    found = after(made, patch({"a": 2}, {"id": "p1", "a": 2}))
    assert (found.status, shown(found)) == (EXACT, [{"pointer": "/a", "before": 1, "after": 2}])


def test_a_response_that_confirms_no_request_is_not_taken_for_the_same_state() -> None:
    made = create({"id": "p1"}, {"id": "p1"})
    assert after(made, create(None, {"id": "job-7"}, operation="purge")).status == APPROXIMATE


def test_the_value_before_is_the_last_recorded_one() -> None:
    records = [create({"a": 1, "b": 1}), patch({"b": 2}), patch({"c": 3}), patch({"a": 5, "b": 2, "d": {}})]
    found = after(*records)
    assert found.status == APPROXIMATE
    assert shown(found) == [{"pointer": "/a", "before": 1, "after": 5}, {"pointer": "/d", "after": {}}]
    assert found.from_ids == (records[0].id, records[1].id)
    assert found.previous_id == records[2].id


@pytest.mark.parametrize("between", [{"action_result": "failure"}, {"action_type": "view"}])
def test_failed_actions_and_views_change_nothing(between: dict[str, Any]) -> None:
    nothing = action({"a": 9}, {"a": 9}, **between)
    first, last = action({"a": 1}), action({"a": 2})
    assert after(first, nothing) == Changes(UNAVAILABLE, first.id)
    found = after(first, nothing, last)
    assert (found.status, found.previous_id) == (EXACT, first.id)
    assert shown(found) == [{"pointer": "/a", "before": 1, "after": 2}]


@pytest.mark.parametrize("nothing", [None, {}])
def test_an_action_without_recorded_values_makes_the_next_one_approximate(nothing: object) -> None:
    unseen = action(nothing)
    assert after(action({"a": 1}), unseen).status == UNAVAILABLE
    found = after(action({"a": 1}), unseen, action({"a": 2}))
    assert (found.status, found.previous_id) == (APPROXIMATE, unseen.id)


def test_a_delete_removes_everything_known() -> None:
    made = action({"a": 1, "b": {"c": 2}})
    found = after(made, delete())
    assert (found.status, found.from_ids) == (EXACT, (made.id,))
    assert shown(found) == [{"pointer": "/a", "before": 1}, {"pointer": "/b", "before": {"c": 2}}]
    assert after(made, patch({"a": 2}), delete()).status == APPROXIMATE
    assert after(delete()).status == UNAVAILABLE


def test_what_is_created_after_a_delete_is_new() -> None:
    found = after(action({"a": 1}), delete(), create({"a": 2}), whole=False)
    assert (found.status, shown(found)) == (FIRST_SEEN, [{"pointer": "/a", "after": 2}])


def test_the_first_record_shows_what_is_known_from_then_on() -> None:
    found = after(create({"a": 1}, {"id": "p1"}))
    assert (found.status, found.previous_id, found.from_ids) == (FIRST_SEEN, None, ())
    assert shown(found) == [{"pointer": "/a", "after": 1}, {"pointer": "/id", "after": "p1"}]


def test_nothing_is_called_new_if_earlier_records_were_not_read() -> None:
    assert after(create({"a": 1}), whole=False) == Changes(UNAVAILABLE)
    assert after(create({"a": 1}), patch({"a": 2}), whole=False).status == APPROXIMATE


def test_an_envelope_is_seen_through() -> None:
    plain = {"a": 1}
    wrapped = {"success": True, "errors": [], "result": {"a": 2}}
    found = after(create(plain, plain), action({"a": 2}, wrapped))
    assert (found.status, shown(found)) == (EXACT, [{"pointer": "/a", "before": 1, "after": 2}])
    own = {"result": {"a": 2}, "name": "x"}
    assert [one["pointer"] for one in shown(after(action(own)))] == ["/result", "/name"]
    assert [one["pointer"] for one in shown(after(action(None, own)))] == ["/result", "/name"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "1.0"),
        ("1e2", "100"),
        ("9007199254740993", "9007199254740992"),
        ("0.1", "0.10000000000000000001"),
        ("1", '"1"'),
        ("1", "true"),
        ("null", "false"),
        ('"\\u0000"', '""'),
        ("[1]", "[1.0]"),
        ("-0", "0"),
        ("{}", "[]"),
        ('"\\ud800"', '"\\ud801"'),
    ],
)
def test_values_are_compared_as_they_are_written(one: str, other: str) -> None:
    found = after(action(f'{{"v":{one}}}'), action(f'{{"v":{other}}}'))
    [change] = found.changes
    assert (change.pointer, change.before, change.after) == ("/v", one, other)
    json.loads(msgspec.json.encode(changes_json(found)))
    assert after(action(f'{{"v":{one}}}'), action(f'{{ "v" : {one} }}')).changes == []


def test_texts_are_compared_without_their_spelling() -> None:
    assert after(action('{"v":"\\u00e9"}'), action('{"v":"é"}')).changes == []


def test_names_with_slashes_and_tildes_are_escaped_in_pointers() -> None:
    found = after(action({"a/b": {"~1": 1, "": 1}, "\ud800": 1}))
    assert found.changes[0].pointer == "/a~1b"
    found = after(action({"a/b": {"~1": 1, "": 1}}), action({"a/b": {"~1": 2, "": 2}}))
    assert [one.pointer for one in found.changes] == ["/a~1b/~01", "/a~1b/"]


@pytest.mark.parametrize("hostile", ['{"a":1,"a":2}', '{"a":{"b":1,"b":1}}', "[", "", "NaN", '{"a":NaN}'])
def test_a_body_that_readers_would_read_in_two_ways_says_nothing(hostile: str) -> None:
    assert after(action({"a": 1}), action(hostile)).changes == ()


@pytest.mark.parametrize("depth", [101, 5_000, 30_000])
def test_a_body_that_is_nested_too_deep_is_not_compared(depth: int) -> None:
    for nested in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
        request = f'{{"v":{nested}}}'
        found = after(action({"v": 1}), action(request))
        assert (found.status, found.truncated, found.changes) == (UNAVAILABLE, True, ())


def test_what_is_nested_deep_is_compared_as_one_value() -> None:
    def nested(value: int) -> str:
        return '{"a":' * 50 + str(value) + "}" * 50

    [change] = after(action(nested(1)), action(nested(2))).changes
    assert change.pointer == "/a" * 32
    assert change.after == '{"a":' * 18 + "2" + "}" * 18


def test_bodies_and_changes_are_bounded() -> None:
    large = action({"a": "x" * BODY_BYTES_MAX})
    assert after(large) == Changes(UNAVAILABLE, truncated=True)
    assert after(action({"a": 1}), large, action({"a": 2})).status == APPROXIMATE
    many = after(action({str(number): 1 for number in range(CHANGES_MAX + 1)}))
    assert (len(many.changes), many.truncated) == (CHANGES_MAX, True)
    half = "x" * (CHANGES_BYTES_MAX // 2)
    found = after(action({"a": half}), action({"a": half + "y"}))
    assert (found.status, found.changes, found.truncated) == (EXACT, [], True)


def test_a_json_patch_is_no_state() -> None:
    steps = [{"op": "replace", "path": "/a", "value": 1}]
    assert after(action({"a": 0}), patch(steps)).status == UNAVAILABLE
    assert after(action({"a": 0}), patch({"value": ["x"]})).status == APPROXIMATE


def test_values_are_rebuilt_where_they_are() -> None:
    found = after(action({"a": {"b": 1, "c": 1}, "d": 1.10}), action({"a": {"b": 2, "c": 1}, "d": 2}))
    assert json.loads(values_before(found)) == {"a": {"b": 1}, "d": 1.1}
    assert json.loads(values_after(found)) == {"a": {"b": 2}, "d": 2}
    assert values_before(Changes(UNAVAILABLE)) == "{}"


names = st.text(alphabet="ab/~\x00é", max_size=2)
scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(names, values, max_size=4)


def applied(state: Any, found: Changes) -> Any:
    state = json.loads(json.dumps(state))
    for change in found.changes:
        steps = [step.replace("~1", "/").replace("~0", "~") for step in change.pointer.split("/")[1:]]
        assert tuple(steps) == change.path
        holder = state
        for step in steps[:-1]:
            holder = holder[step]
        if change.before is not None:
            assert holder[steps[-1]] == json.loads(change.before)
        if change.after is None:
            del holder[steps[-1]]
        else:
            holder[steps[-1]] = json.loads(change.after)
    return state


@given(bodies, bodies)
def test_exact_changes_lead_from_the_state_before_to_the_one_after(before: Any, later: Any) -> None:
    found = after(patch(None, before), patch(None, later))
    if not before or not later or "result" in before or "result" in later:
        return
    assert found.status == EXACT
    assert applied(before, found) == later


@given(st.lists(st.tuples(bodies, bodies, st.sampled_from([action, patch, create])), min_size=1, max_size=5))
def test_no_value_appears_that_is_not_recorded(bodies_of_actions: Sequence[tuple[Any, Any, Any]]) -> None:
    history = ResourceHistory(whole=True)
    recorded: list[Any] = []
    for request, response, kind in bodies_of_actions:
        found = history.add(kind(request, response))
        recorded += [request, response]
        for change in found.changes:
            for text in (change.before, change.after):
                assert text is None or all(
                    any(leaf == at(one, change.path + path) for one in recorded)
                    for path, leaf in leaves(json.loads(text))
                )


_ABSENT = object()


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if not isinstance(value, dict):
        return [(path, value)]
    return [leaf for name, inner in value.items() for leaf in leaves(inner, (*path, name))]


def at(whole: Any, path: Sequence[str]) -> Any:
    for step in path:
        if not isinstance(whole, Mapping) or step not in whole:
            return _ABSENT
        whole = whole[step]
    return whole


@given(bodies, bodies, st.sampled_from([patch, create]))
def test_a_partial_update_removes_nothing_beside_it(before: Any, request: Any, kind: Any) -> None:
    found = after(action(before), kind(request))
    assert all(one.after is not None for one in found.changes)
