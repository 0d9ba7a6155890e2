"""What a client asks of the log, and the SQL that answers it.

Filters are data: a name, where the value stands, how it is compared, and which index leads to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Interface, IPv6Interface
from typing import NamedTuple
from uuid import UUID

from schemas.identity import first_id_at
from schemas.sql import query as sql_file

FilterValue = str | int | UUID | IPv4Interface | IPv6Interface


class Direction(StrEnum):
    """By id, which orders by action.time."""

    DESC = "desc"
    ASC = "asc"


class Column(NamedTuple):
    """Where a filter's value stands, as SQL over the record `r` and what was found out later, `e`."""

    expression: str
    sql_type: str = "text"
    operator: str = "="
    """How the value is compared with each one asked for; `<<=`: is this address or lies in this network."""
    late: bool = False
    """Whether the expression needs `e`."""


def _late(name: str, operator: str = "=") -> Column:
    return Column(f"coalesce(r.{name}, e.{name})", operator=operator, late=True)


FILTERS: dict[str, Column] = {
    "id": Column("r.id", "uuid"),
    "account_name": _late("account_name"),
    "action_result": Column("r.action_result"),
    "action_type": Column("r.action_type"),
    "actor_context": Column("r.actor_context"),
    "actor_email": _late("actor_email"),
    "actor_id": Column("r.actor_id"),
    "actor_ip_address": Column("r.actor_ip_address", "inet", "<<="),
    "actor_token_id": Column("r.actor_token_id"),
    "actor_token_name": _late("actor_token_name"),
    "actor_type": Column("r.actor_type"),
    "raw_cf_ray_id": Column("r.raw_cf_ray_id"),
    "raw_method": Column("r.raw_method"),
    "raw_status_code": Column("r.raw_status_code", "smallint"),
    "raw_uri": Column("r.raw_uri"),
    "resource_id": Column("r.resource_id"),
    "resource_product": Column("r.resource_product"),
    "resource_scope": Column("r.resource_scope"),
    "resource_type": Column("r.resource_type"),
    "zone_id": Column("r.zone_id"),
    "zone_name": _late("zone_name"),
}

EMAIL = "actor_email"
EMAIL_PATTERN = "actor_email_pattern"
LOGINS = "logins"
# What no client names as a filter of the list, and routes of their own need.
_COLUMNS = FILTERS | {
    EMAIL_PATTERN: _late("actor_email", "LIKE"),
    # Named in the statement, because the index on logins holds for this text alone.
    LOGINS: Column("CASE WHEN r.resource_product = 'access' THEN r.resource_type END"),
}

# The index on it has its records exactly and in order.
EXACT = "resource_id"
# Which indexes of 0002_log_api.sql lead to a value, the most telling first.
_INDEXED = (
    EXACT,
    "raw_cf_ray_id",
    "actor_id",
    EMAIL,
    "zone_id",
    LOGINS,
    "resource_type",
    "resource_product",
    "action_type",
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One filter: the value is among `values`, or, where `excluded`, it is not (a missing value is not either)."""

    name: str
    excluded: bool
    values: tuple[FilterValue, ...]


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Records of `accounts` (None: whatever the account) with `since_ms` <= time < `before_ms` (Unix ms) that meet
    every condition.

    At most `limit` of them, in the `direction` of ids, from beyond the id `after` on, without the first `skip`.
    `whole`: a part of the page is no answer; without it a page may end early. `complete_before_ms`: for a page that goes
    on, what was complete when the first one was read.
    """

    accounts: tuple[str, ...] | None
    since_ms: int
    before_ms: int
    direction: Direction = Direction.DESC
    limit: int = 100
    conditions: tuple[Condition, ...] = ()
    after: UUID | None = None
    skip: int = 0
    whole: bool = False
    complete_before_ms: int | None = None

    def id_range(self) -> tuple[UUID, UUID]:
        """Return the ids from which (included) and to which (excluded) the page reads."""
        low, high = first_id_at(self.since_ms), first_id_at(self.before_ms)
        if self.after is None:
            return low, high
        if self.direction is Direction.ASC:
            return max(low, UUID(int=min(self.after.int + 1, _ID_MAX))), high
        return low, min(self.after, high)


_ID_MAX = (1 << 128) - 1


class Field(StrEnum):
    """By what a summary counts."""

    ACTION_TYPE = "action_type"
    ACTION_RESULT = "action_result"
    RESOURCE_PRODUCT = "resource_product"
    ACTOR_ID = "actor_id"


@dataclass(frozen=True, slots=True)
class SummaryQuery:
    """How many records of `accounts` that meet every condition fall between each two of `bounds_ms` (Unix ms, rising),
    by one `field`.
    """

    accounts: tuple[str, ...]
    bounds_ms: tuple[int, ...]
    field: Field
    conditions: tuple[Condition, ...] = ()
    of_trends: bool = False
    """From what the watcher counted, instead of the records."""
    hops: int = 1
    """How many spans between bounds a window has; where it is more than one, windows overlap."""
    trend_ms: int = 3_600_000
    """The width of what the watcher counted: hours, or ten minutes."""


class Statement(NamedTuple):
    """SQL and its arguments."""

    text: str
    arguments: tuple[object, ...]


class Way(StrEnum):
    """Where the ids of a window are read; a named query each."""

    ACCOUNTS = "walk_accounts"
    ALL = "walk_all"
    FILTER = "walk_filter"
    LATE_ACCOUNTS = "walk_late_accounts"
    LATE_EMAILS = "walk_late_emails"


_BOUNDS = {
    Way.ACCOUNTS: "walk_bound",
    Way.ALL: "walk_bound_of_all",
    Way.LATE_ACCOUNTS: "walk_bound_late",
}


class Index(NamedTuple):
    """An index that leads to a filter's values, and the place of that filter among the conditions."""

    name: str
    position: int


def best_index(query: ListQuery) -> Index | None:
    """Return the index that leads best to what is asked, None where there is none."""
    found = [
        (_INDEXED.index(condition.name), position)
        for position, condition in enumerate(query.conditions)
        if condition.name in _INDEXED
        and not condition.excluded
        and (query.accounts is not None or condition.name == EMAIL)
    ]
    if not found:
        return None
    place, position = min(found)
    return Index(_INDEXED[place], position)


def hashes_statement(query: ListQuery, index: Index) -> Statement:
    """Return the statement for what an index holds of the values that are asked for; its rows are hash."""
    hashed = index.name not in {EMAIL, LOGINS}
    values = list(query.conditions[index.position].values) if hashed else []
    return Statement(sql_file("walk_hashes"), (_accounts(query), values))


def late_statement(query: ListQuery, window: tuple[UUID, UUID], index: Index | None) -> Statement:
    """Return the statement for what enrichment found in a window; its row is late_accounts, late_emails."""
    emails = None
    if index is not None and index.name == EMAIL:
        emails = list(query.conditions[index.position].values)
    return Statement(sql_file("walk_late"), (_accounts(query), *window, emails))


def bound_statement(query: ListQuery, way: Way, window: tuple[UUID, UUID], records: int) -> Statement:
    """Return the statement for the id at which a walk has passed so many records of one account; no row: never.

    `way`: one that goes record after record.
    """
    text = sql_file(_BOUNDS[way]).format(order=_order(query), scope=_scope(query))
    return Statement(text, (_accounts(query), *window, records))


def walk_statement(
    query: ListQuery,
    way: Way,
    window: tuple[UUID, UUID],
    limit: int,
    *,
    index: Index | None = None,
    hashes: Sequence[int] = (),
) -> Statement:
    """Return the statement for at most `limit` ids from the window's first id (included) to its second (excluded).

    `index` and the `hashes` of its values: for Way.FILTER and Way.LATE_EMAILS. Only constant text goes into a
    statement; all that a client sent is an argument.
    """
    conditions = _conditions(query.conditions, 5)
    arguments: list[object] = [
        _accounts(query),
        *window,
        limit,
        *(list(one.values) for one in query.conditions),
    ]
    candidate = ""
    if index is not None and index.name == LOGINS:
        candidate = "stored.resource_product = 'access' AND stored.account_id = ANY($1::text[])"
    elif index is not None and index.name == EMAIL:
        table = "found" if way is Way.LATE_EMAILS else "stored"
        candidate = f"{table}.actor_email = ANY(${5 + index.position}::text[])"
    elif index is not None:
        arguments.append(list(hashes))
        candidate = (
            f"hashtextextended(stored.account_id, hashtextextended(stored.{index.name}, 0))"
            f" = ANY(${len(arguments)}::bigint[])"
        )
    text = sql_file(way).format(
        order=_order(query),
        scope=_scope(query),
        conditions=conditions,
        late_join=_late_join(query.conditions),
        candidate=candidate,
    )
    return Statement(text, tuple(arguments))


def summary_statement(query: SummaryQuery, window: tuple[UUID, UUID]) -> Statement:
    """Return the statement that counts in a window of ids; its rows are bucket (from 1), value, count."""
    bounds = [first_id_at(at_ms) for at_ms in query.bounds_ms]
    text = sql_file("count_records").format(
        value=f"r.{query.field}",
        conditions=_conditions(query.conditions, 5),
        late_join=_late_join(query.conditions),
    )
    values = (list(one.values) for one in query.conditions)
    return Statement(text, (list(query.accounts), *window, bounds, *values))


def _conditions(conditions: Sequence[Condition], first: int) -> str:
    """Return the conditions as SQL whose arguments are numbered from `first` on."""
    lines: list[str] = []
    for number, condition in enumerate(conditions, first):
        column = _COLUMNS[condition.name]
        test = f"{column.expression} {column.operator} ANY(${number}::{column.sql_type}[])"
        lines.append(f"AND ({test}) IS NOT TRUE" if condition.excluded else f"AND {test}")
    return "\n    ".join(lines)


def _late_join(conditions: Sequence[Condition]) -> str:
    late = any(_COLUMNS[condition.name].late for condition in conditions)
    return sql_file("late_join") if late else ""


def _order(query: ListQuery) -> str:
    return "ASC" if query.direction is Direction.ASC else "DESC"


def _scope(query: ListQuery) -> str:
    """Return the accounts as a row each. One alone is a constant to the planner, which knows how frequent it is."""
    if query.accounts is not None and len(query.accounts) == 1:
        return "(VALUES (($1::text[])[1])) AS scope (account_id)"
    return "unnest($1::text[]) AS scope (account_id)"


def _accounts(query: ListQuery) -> list[str] | None:
    return None if query.accounts is None else list(query.accounts)
